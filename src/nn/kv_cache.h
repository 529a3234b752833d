// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "config/model_config.h"
#include "core/tensor.h"

namespace moe {

/// Keys and values of some tokens of one sequence, in their order; room is made as they come.
class KvRows {
 public:
  /// cols: of a row of keys, or of values. capacity: rows that there is room for at first.
  KvRows(std::int64_t cols, DType dtype, Device device, std::int64_t capacity);
  KvRows(KvRows&&) = default;  // a copy would share the memory that rows are appended to

  /// keys, values: T[rows, cols].
  void append(const Tensor& keys, const Tensor& values);

  /// T[length, cols].
  Tensor keys() const { return keys_.slice(0, length_); }
  Tensor values() const { return values_.slice(0, length_); }
  std::int64_t length() const { return length_; }

 private:
  Tensor keys_, values_;  // T[capacity, cols]
  std::int64_t length_ = 0;
};

/// What the attention keeps of the tokens of one sequence that were seen so far.
struct KvCache {
  /// capacity: tokens that there is room for at first, where all of them are kept.
  KvCache(const ModelConfig& config, DType dtype, Device device, std::int64_t capacity);

  /// [layer]: of all tokens; where attention experts have keys and values of their own, [expert] of
  /// the tokens that chose it.
  std::vector<std::vector<KvRows>> layers;
  std::int64_t length = 0;  // tokens seen
};

/// The caches of a batch, one a sequence. Their lengths may differ; empty: none.
using KvCaches = std::span<KvCache* const>;

}  // namespace moe
