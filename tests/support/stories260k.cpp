// SPDX-License-Identifier: Apache-2.0
#include "support/stories260k.h"

#include <array>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "config/model_parameters.h"
#include "hf/model_folder.h"

namespace moe::testing {
namespace {

/// Rows of each head from interleaved pairs (2i, 2i + 1) to halves (i, d/2 + i).
Tensor halves_from_pairs(const Tensor& t, std::int64_t head_dim) {
  Tensor result = empty_like(t);
  for (std::int64_t r = 0; r < t.rows(); ++r) {
    const std::int64_t head = r / head_dim, i = r % head_dim;
    const std::int64_t pair = i < head_dim / 2 ? 2 * i : 2 * (i - head_dim / 2) + 1;
    result.slice(r, 1).copy_from(t.slice(head * head_dim + pair, 1));
  }
  return result;
}

Tensor transposed(const Tensor& t) {
  Tensor result = Tensor::empty({t.cols(), t.rows()}, DType::f32);
  for (std::int64_t r = 0; r < t.rows(); ++r)
    for (std::int64_t c = 0; c < t.cols(); ++c)
      result.data<float>()[c * t.rows() + r] = t.data<float>()[r * t.cols() + c];
  return result;
}

}  // namespace

void convert_llama2c(const std::filesystem::path& bin, const std::filesystem::path& folder) {
  std::ifstream file(bin, std::ios::binary);
  std::array<std::int32_t, 7> head = {};
  file.read(reinterpret_cast<char*>(head.data()), sizeof head);
  MOE_REQUIRE(file, bin.string(), ": is no llama2.c model");
  ModelConfig c;
  c.hidden_size = head[0];
  c.intermediate_size = head[1];
  c.layers = head[2];
  c.heads = head[3];
  c.kv_heads = head[4];
  c.vocab_size = std::abs(head[5]);
  c.tie_embeddings = head[5] > 0;
  c.max_positions = head[6];
  c.head_dim = c.hidden_size / c.heads;

  const auto next = [&](std::int64_t rows, std::int64_t cols) {
    Tensor t = Tensor::empty({rows, cols}, DType::f32);
    file.read(reinterpret_cast<char*>(t.bytes()), std::streamsize(t.nbytes()));
    MOE_REQUIRE(file, bin.string(), ": is truncated");
    return t;
  };
  const std::int64_t h = c.hidden_size, q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  std::map<std::string, Tensor> tensors;
  tensors["embed.weight"] = next(c.vocab_size, h);
  const auto each_layer = [&](const std::string& name, std::int64_t rows, std::int64_t cols,
                              const std::function<Tensor(Tensor)>& change) {
    for (std::int64_t l = 0; l < c.layers; ++l)
      tensors[str("layers.", l, ".", name, ".weight")] = change(next(rows, cols));
  };
  const auto same = [](Tensor t) { return t; };
  const auto norm = [&](Tensor t) { return t.view({h}); };
  const auto rotated = [&](const Tensor& t) { return halves_from_pairs(t, c.head_dim); };
  each_layer("attention_norm", 1, h, norm);
  each_layer("attention.q", q, h, rotated);
  each_layer("attention.k", kv, h, rotated);
  each_layer("attention.v", kv, h, same);
  each_layer("attention.o", h, q, same);
  each_layer("ffn_norm", 1, h, norm);
  each_layer("ffn.gate", c.intermediate_size, h, same);
  each_layer("ffn.down", h, c.intermediate_size, transposed);
  each_layer("ffn.up", c.intermediate_size, h, same);
  tensors["norm.weight"] = next(1, h).view({h});
  next(2 * c.max_positions, c.head_dim / 2);  // tables of cosines and sines
  if (!c.tie_embeddings) tensors["head.weight"] = next(c.vocab_size, h);

  WriteOptions options;
  options.format = ModelFormat::llama;
  options.dtype = DType::f32;
  options.force = true;
  write_model(folder, c, options,
              [&](const std::string& name, std::int64_t first, std::int64_t count) {
                return tensors.at(name).slice(first, count);
              });
}

}  // namespace moe::testing
