// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/rng.h"
#include "core/tensor.h"

/// Made-up values of ForwardContext::document_starts: i32[sequences, length].
namespace moe::test {

/// Rows of documents of 1 to `longest` tokens, other ones in each row.
inline Tensor random_documents(std::int64_t sequences, std::int64_t length, std::int64_t longest) {
  Tensor starts = Tensor::empty({sequences, length}, DType::i32);
  const Philox random(11, RandomPurpose::test);
  std::int64_t begin = 0, end = 0;
  for (std::int64_t t = 0; t < starts.size(); ++t) {
    const std::int64_t i = t % length;
    if (i == 0 || i == end) {
      begin = i;
      end = i + 1 + std::int64_t(random.below(std::uint64_t(t), std::uint64_t(longest)));
    }
    starts.data<std::int32_t>()[t] = std::int32_t(begin);
  }
  return starts;
}

/// Any place up to its own for each token, whatever its neighbours have: more than documents are.
inline Tensor random_starts(std::int64_t sequences, std::int64_t length) {
  Tensor starts = Tensor::empty({sequences, length}, DType::i32);
  const Philox random(12, RandomPurpose::test);
  for (std::int64_t t = 0; t < starts.size(); ++t)
    starts.data<std::int32_t>()[t] =
        std::int32_t(random.below(std::uint64_t(t), std::uint64_t(t % length + 1)));
  return starts;
}

/// The same start for all tokens of row `s` from `first` on, up to `end`.
inline void set_document(const Tensor& starts, std::int64_t s, std::int64_t first,
                         std::int64_t end) {
  for (std::int64_t i = first; i < end; ++i)
    starts.data<std::int32_t>()[s * starts.cols() + i] = std::int32_t(first);
}

}  // namespace moe::test
