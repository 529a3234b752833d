// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernels/backend.h"
#include "support/tensor_tools.h"

namespace moe::test {

/// One token in four is not valid. u8[tokens].
inline Tensor some_valid(std::int64_t tokens) {
  Tensor valid = Tensor::empty({tokens}, DType::u8);
  for (std::int64_t t = 0; t < tokens; ++t) valid.data<std::uint8_t>()[t] = t % 4 != 1;
  return valid;
}

/// x on a coarse grid, so that many scores are equal.
inline Tensor with_ties(const Tensor& x) {
  std::vector<double> values = to_doubles(x);
  for (double& v : values) v = std::round(v * 2) / 2;
  return from_doubles(x.shape(), x.dtype(), values);
}

/// The k experts with the highest scores; none for one token in four, and some pairs dropped.
inline Tensor chosen_experts(const Tensor& scores, std::int64_t k) {
  Tensor values = Tensor::empty({scores.rows(), k}, scores.dtype());
  Tensor indices = Tensor::empty({scores.rows(), k}, DType::i32);
  cpu_backend().topk(values, indices, scores, some_valid(scores.rows()));
  for (std::int64_t s = 4; s < indices.size(); s += 7) indices.data<std::int32_t>()[s] = -1;
  return indices;
}

}  // namespace moe::test
