// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "config/model_parameters.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "hf/convert.h"
#include "hf/model_folder.h"
#include "hf/safetensors.h"
#include "support/test_folder.h"

namespace moe::testing {

using test::TestFolder;

inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void replace_in_file(const std::filesystem::path& path, const std::string& from,
                            const std::string& to) {
  std::string text = read_file(path);
  const std::size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from << " is not in " << path;
  write_file(path, text.replace(at, from.size(), to));
}

/// The bytes of a safetensors file with a given header.
inline std::string safetensors_bytes(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  file += header;
  for (std::size_t i = 0; i < data_bytes; ++i) file += char(i);
  return file;
}

inline std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(MOE_SOURCE_DIR) / "tests/hf/fixtures" / name;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.bytes(), b.bytes(), a.nbytes()) == 0;
}

/// Random parameters of a model, held in memory.
class RandomModel {
 public:
  RandomModel(const ModelConfig& config, DType dtype) {
    std::uint64_t key = 0;
    for (const ParameterSpec& p : model_parameters(config)) {
      const Tensor t = Tensor::empty(p.shape, DType::f32);
      const Philox random(7, RandomPurpose::test, {++key});
      for (std::int64_t i = 0; i < t.size(); ++i)
        t.data<float>()[i] = float(random.normal(std::uint64_t(i)));
      tensors_[p.name] = scaled_to(t, 1, dtype, p.name);
    }
  }
  const Tensor& at(const std::string& name) const { return tensors_.at(name); }
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  ParameterRows rows() const {
    return [this](const std::string& name, std::int64_t first, std::int64_t count) {
      return at(name).slice(first, count);
    };
  }

 private:
  std::map<std::string, Tensor> tensors_;
};

/// Two layers, hidden 8, 11 FFN neurons.
inline ModelConfig small_dense_config() {
  ModelConfig c;
  c.vocab_size = 23;
  c.hidden_size = 8;
  c.intermediate_size = 11;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 2;
  return c;
}

/// The same with three experts of uneven size that differ between the layers.
inline ModelConfig small_moe_config(GateKind gate) {
  ModelConfig c = small_dense_config();
  c.moe.experts = 3;
  c.moe.top_k = 2;
  c.moe.expert_sizes = {{4, 4, 3}, {2, 6, 3}};
  c.moe.gate = gate;
  c.moe.score_scale = {1.5, 1.5};
  return c;
}

/// And with even experts and no noise, as Mixtral needs it.
inline ModelConfig small_mixtral_config() {
  ModelConfig c = small_moe_config(GateKind::linear);
  c.intermediate_size = 12;
  c.moe.expert_sizes = {{4, 4, 4}, {4, 4, 4}};
  c.moe.gate_noise = false;
  c.moe.score_scale = {1, 1};
  return c;
}

/// LLaMA-MoE v1 with two shared experts behind a gate.
inline ModelConfig small_residual_config(GateKind gate) {
  ModelConfig c = small_moe_config(gate);
  c.intermediate_size = 16;
  c.moe.shared_sizes = {{3, 2}, {4, 1}};
  c.moe.shared_gate = true;
  c.moe.shared_scale = 1.25;
  return c;
}

/// LLaMA-MoE v2: four layers, the first and the last dense when `contract`, a shared expert of
/// `shared` neurons beside three of four in the others.
inline ModelConfig small_v2_config(bool contract, std::int64_t shared) {
  ModelConfig c = small_mixtral_config();
  c.layers = 4;
  c.moe.top_k = 1;
  c.moe.expert_sizes.assign(4, {4, 4, 4});
  c.moe.score_scale.assign(4, 1.7);
  if (shared > 0) c.moe.shared_sizes.assign(4, {shared});
  c.intermediate_size = contract ? 12 : 12 + shared;
  if (contract)
    for (const std::size_t l : {std::size_t(0), std::size_t(3)}) {
      c.moe.expert_sizes[l].clear();
      if (shared > 0) c.moe.shared_sizes[l].clear();
    }
  return c;
}

/// Experts in the attention of every layer of a model.
inline ModelConfig with_attention(ModelConfig c, AttentionExpert kind, std::int64_t experts,
                                  std::int64_t top_k, double scale = 1) {
  c.attention_moe.kind = kind;
  c.attention_moe.experts = experts;
  c.attention_moe.top_k = top_k;
  c.attention_moe.layers.assign(std::size_t(c.layers), true);
  c.attention_moe.score_scale.assign(std::size_t(c.layers), scale);
  return c;
}

/// What only the native format can say: a dense layer in the middle, a biased gate, softmax over
/// all experts, uneven experts, other shared experts in every layer.
inline ModelConfig everything_config() {
  ModelConfig c = small_dense_config();
  c.layers = 3;
  c.moe.experts = 3;
  c.moe.top_k = 1;
  c.moe.expert_sizes = {{4, 4, 3}, {}, {2, 6, 1}};
  c.moe.shared_sizes = {{3, 2}, {}, {5}};
  c.moe.shared_gate = true;
  c.moe.shared_scale = 0.7;
  c.moe.gate = GateKind::linear;
  c.moe.gate_bias = true;
  c.moe.selection_bias = true;
  c.moe.softmax_over_all = true;
  c.moe.score_scale = {1.5, 1, 0.1};
  return c;
}

/// Rewrites a folder's only safetensors file with some tensors left out, renamed or reshaped.
inline void edit_tensors(const std::filesystem::path& folder,
                         const std::function<bool(SafetensorsWriter::Declaration&)>& keep) {
  const std::filesystem::path path = folder / "model.safetensors";
  const SafetensorsFile file(path);
  std::vector<SafetensorsWriter::Declaration> declared;
  std::vector<std::string> names;
  for (const SafetensorsEntry& e : file.entries()) {
    SafetensorsWriter::Declaration d{e.name, float_dtype_of(e, "x"), e.shape};
    if (!keep(d)) continue;
    declared.push_back(d);
    names.push_back(e.name);
  }
  SafetensorsWriter writer(path, declared);
  for (const std::string& name : names) writer.write(file.read(name));
  writer.finish();
}

inline ParameterRows rows_of(const ModelFolder& model, DType as) {
  return [&model, as](const std::string& name, std::int64_t first, std::int64_t count) {
    return model.read(name, first, count, as);
  };
}

/// Runs the code and returns the message of the InputError that it must throw.
template <class F>
std::string input_error_of(F&& f) {
  try {
    f();
  } catch (const InputError& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "not an InputError: " << error.what();
    return {};
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

}  // namespace moe::testing
