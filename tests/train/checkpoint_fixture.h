// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/model_json.h"
#include "core/error.h"
#include "core/rng.h"
#include "train/checkpoint.h"
#include "train/checkpoint_folders.h"
#include "train/checkpoint_saver.h"

namespace moe {

namespace fs = std::filesystem;

class Checkpoint : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              str("checkpoint_test.", ::getpid(), ".",
                  testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

inline ModelConfig small_model() {
  ModelConfig c;
  c.vocab_size = 11;
  c.hidden_size = 8;
  c.intermediate_size = 6;
  c.layers = 1;
  c.heads = c.kv_heads = 2;
  c.head_dim = 4;
  c.rms_norm_eps = 1.0 / 3;
  c.moe.experts = 2;
  c.moe.expert_sizes = {{4, 2}};
  c.moe.score_scale = {0.1 + 0.2};
  return c;
}

/// A tensor of the test's model: row r, element i holds a number of its own.
inline Tensor rows_of(const std::string& name, const Shape& shape, std::int64_t first,
                      std::int64_t count, DType dtype, std::uint64_t variant = 0) {
  Shape part = shape;
  part[0] = count;
  const Tensor t = Tensor::empty(part, dtype);
  const Philox random(std::hash<std::string>{}(name) + variant, RandomPurpose::test);
  for (std::int64_t i = 0; i < t.size(); ++i) {
    const double value = random.normal(std::uint64_t(first * t.cols() + i));
    if (dtype == DType::f32) t.data<float>()[i] = float(value);
    if (dtype == DType::f64) t.data<double>()[i] = value;
    if (dtype == DType::bf16) t.data<bf16>()[i] = bf16(float(value));
    if (dtype == DType::i64) t.data<std::int64_t>()[i] = std::int64_t(value * 1e6);
  }
  return t;
}

struct Spec {
  std::string name;
  Shape shape;
  DType dtype;
};
inline const std::vector<Spec> kSpecs = {{"weights/embed.weight", {11, 8}, DType::f32},
                                         {"weights/norm.weight", {8}, DType::f64},
                                         {"adam_m/embed.weight", {11, 8}, DType::bf16},
                                         {"router/counts", {7, 2, 3}, DType::i64}};

/// Uneven shares: rank r of n holds rows [cut(r), cut(r + 1)); some may hold none.
inline std::int64_t cut(std::int64_t rows, int rank, int ranks) {
  return rank == ranks ? rows : rows * rank * rank / (ranks * ranks);
}

inline std::vector<TensorRows> share(int rank, int ranks, std::uint64_t variant = 0) {
  std::vector<TensorRows> mine;
  for (const Spec& s : kSpecs) {
    const std::int64_t first = cut(s.shape[0], rank, ranks);
    const std::int64_t count = cut(s.shape[0], rank + 1, ranks) - first;
    mine.push_back(
        {s.name, s.shape, first, rows_of(s.name, s.shape, first, count, s.dtype, variant)});
  }
  return mine;
}

inline const std::string kState = "{\"step\": 7, \"tokens\": 123, \"machine\": {\"threads\": 2}}";

inline CheckpointTexts texts() {
  return {kState, model_config_to_json(small_model()), "train: {}\n"};
}
inline const CheckpointTexts kEmptyTexts = {"{}", "{}", ""};

inline fs::path save(const fs::path& checkpoints, std::int64_t step, int ranks,
                     std::uint64_t variant = 0) {
  fs::path folder;
  run_ranks(ranks, [&](Communicator& world) {
    const fs::path made =
        save_checkpoint(checkpoints, step, share(world.rank(), ranks, variant), texts(), world);
    if (world.rank() == 0) folder = made;
  });
  return folder;
}

inline bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.bytes(), b.bytes(), a.nbytes()) == 0;
}

inline void expect_complete(const fs::path& folder, std::uint64_t variant = 0) {
  const CheckpointReader reader(folder);
  reader.verify();
  for (const Spec& s : kSpecs)
    EXPECT_TRUE(same_bytes(reader.read(s.name, 0, s.shape[0]),
                           rows_of(s.name, s.shape, 0, s.shape[0], s.dtype, variant)))
        << s.name;
}

inline std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const InputError& e) {
    return e.what();
  } catch (const Error& e) {
    return str("Error: ", e.what());
  }
  return "no error";
}

}  // namespace moe
