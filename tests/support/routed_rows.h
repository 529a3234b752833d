// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/rng.h"
#include "kernels/backend.h"

/// Made-up routings of tokens to attention experts, sorted and made into spans by plain loops.
namespace moe::test {

struct Routed {
  std::int64_t experts, k, sequences, length;
  Tensor indices;      // i32[tokens, k]; some tokens are padding
  Tensor counts;       // i64[sequences, experts]
  Tensor row_to_slot;  // i32[rows]
  Tensor positions;    // i32[rows]
  AttentionSpans over_tokens, over_rows;

  SpanAttentionShape token_shape(std::int64_t heads, std::int64_t kv_heads,
                                 std::int64_t head_dim) const {
    return {experts, sequences, heads, kv_heads, head_dim};
  }
  SpanAttentionShape row_shape(std::int64_t heads, std::int64_t kv_heads,
                               std::int64_t head_dim) const {
    return {1, experts * sequences, heads, kv_heads, head_dim};
  }
};

/// k different experts for each token; `padding` of 100 tokens have none. Expert `unused` gets no
/// token at all (-1: each may).
inline Tensor random_choices(std::int64_t tokens, std::int64_t experts, std::int64_t k,
                             std::int64_t padding, std::int64_t unused, std::uint64_t seed) {
  const Philox random(seed, RandomPurpose::test);
  Tensor indices = Tensor::empty({tokens, k}, DType::i32);
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<std::int32_t> left;
    for (std::int32_t e = 0; e < experts; ++e)
      if (e != unused) left.push_back(e);
    const bool is_padding = std::int64_t(random.below(std::uint64_t(t), 100)) < padding;
    for (std::int64_t j = 0; j < k; ++j) {
      const auto at = random.below(std::uint64_t(tokens + t * k + j), left.size());
      indices.data<std::int32_t>()[t * k + j] = is_padding ? -1 : left[at];
      left.erase(left.begin() + std::ptrdiff_t(at));
    }
  }
  return indices;
}

/// starts: i32[sequences, length] or undefined.
inline Routed routed(const Tensor& indices, std::int64_t experts, std::int64_t sequences,
                     const Tensor& starts) {
  const std::int64_t tokens = indices.rows(), k = indices.cols(), length = tokens / sequences;
  Routed r{experts, k, sequences, length, indices, {}, {}, {}, {}, {}};
  r.counts = Tensor::zeros({sequences, experts}, DType::i64);
  std::vector<std::int32_t> slots, begins, ends, row_begins, row_ends, places, runs = {0},
                                                                               keys = {0};
  for (std::int32_t e = 0; e < experts; ++e)
    for (std::int64_t s = 0; s < sequences; ++s) {
      const std::size_t run = slots.size();
      for (std::int64_t t = s * length; t < (s + 1) * length; ++t)
        for (std::int64_t j = 0; j < k; ++j) {
          if (indices.data<std::int32_t>()[t * k + j] != e) continue;
          const std::int64_t document =
              s * length + (starts.defined() ? starts.data<std::int32_t>()[t] : 0);
          std::size_t first = run;
          while (first < slots.size() && slots[first] / k < document) ++first;
          slots.push_back(std::int32_t(t * k + j));
          places.push_back(std::int32_t(t - document));
          begins.push_back(std::int32_t(document));
          ends.push_back(std::int32_t(t + 1));
          row_begins.push_back(std::int32_t(first));
          row_ends.push_back(std::int32_t(slots.size()));
          ++r.counts.data<std::int64_t>()[s * experts + e];
        }
      runs.push_back(std::int32_t(slots.size()));
    }
  for (std::int64_t s = 1; s <= sequences; ++s) keys.push_back(std::int32_t(s * length));
  const auto integers = [](const std::vector<std::int32_t>& values) {
    return Tensor::of({std::int64_t(values.size())}, values);
  };
  r.row_to_slot = integers(slots);
  r.positions = integers(places);
  r.over_tokens = {integers(begins), integers(ends), integers(runs), integers(keys)};
  r.over_rows = {integers(row_begins), integers(row_ends), integers(runs), integers(runs)};
  return r;
}

}  // namespace moe::test
