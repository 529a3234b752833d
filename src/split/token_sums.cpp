// SPDX-License-Identifier: Apache-2.0
#include "split/token_sums.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/matrix_product.h"

namespace moe {
namespace {

// Tokens of one product.
constexpr std::int64_t kTokens = 128;

}  // namespace

Tensor sums_by_group(const Tensor& x, const std::vector<std::int32_t>& labels,
                     std::int64_t groups) {
  const std::int64_t rows = x.rows(), cols = x.cols();
  MOE_CHECK(std::int64_t(labels.size()) == cols, labels.size(), " labels for ", cols, " columns");
  std::vector<float> members(std::size_t(cols * groups), 0.0f);  // a product is faster than loops
  for (std::int64_t c = 0; c < cols; ++c)
    if (const std::int32_t label = labels[std::size_t(c)]; label < groups)
      members[std::size_t(c * groups + label)] = 1;
  Tensor sums = Tensor::empty({rows, groups}, DType::f32);
  run_tasks((rows + kTokens - 1) / kTokens, [&](std::int64_t task) {
    const std::int64_t first = task * kTokens;
    matrix_product({std::min(kTokens, rows - first), groups, cols, false, false, 0},
                   Matrix<const float>{x.data<float>() + first * cols, cols},
                   Matrix<const float>{members.data(), groups},
                   Matrix<float>{sums.data<float>() + first * groups, groups});
  });
  return sums;
}

}  // namespace moe
