// SPDX-License-Identifier: Apache-2.0
#include "split/token_sums.h"

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/cpu/matrix_product.h"

namespace moe {
namespace {

// Tokens of one product, and the tasks that tokens are divided among, whatever the threads.
constexpr std::int64_t kTokens = 128, kTasks = 16;

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

Tensor sums_by_choice(const Tensor& x, const Tensor& chosen, std::int64_t experts) {
  const std::int64_t rows = x.rows(), cols = x.cols(), k = chosen.cols(), size = experts * cols;
  MOE_CHECK(chosen.rows() == rows, chosen.rows(), " choices for ", rows, " tokens");
  const Tensor parts = Tensor::zeros({kTasks, experts, cols}, DType::f64);
  run_tasks(kTasks, [&](std::int64_t task) {
    std::vector<float> members(std::size_t(kTokens * experts), 0.0f);
    std::vector<float> product(std::size_t(size), 0.0f);
    double* sums = parts.data<double>() + task * size;
    const std::int64_t end = rows * (task + 1) / kTasks;
    for (std::int64_t first = rows * task / kTasks; first < end; first += kTokens) {
      const std::int64_t tokens = std::min(kTokens, end - first);
      std::fill(members.begin(), members.end(), 0.0f);
      for (std::int64_t i = 0; i < tokens * k; ++i)
        members[std::size_t(i / k * experts + chosen.data<std::int32_t>()[first * k + i])] += 1;
      matrix_product({experts, cols, tokens, true, false, 0},
                     Matrix<const float>{members.data(), experts},
                     Matrix<const float>{x.data<float>() + first * cols, cols},
                     Matrix<float>{product.data(), cols});
      for (std::int64_t i = 0; i < size; ++i) sums[i] += double(product[std::size_t(i)]);
    }
  });
  const Tensor total = parts.slice(0, 1).view({experts, cols});
  parallel_for(size, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = 1; task < kTasks; ++task)
      for (std::int64_t i = begin; i < end; ++i)
        total.data<double>()[i] += parts.data<double>()[task * size + i];
  });
  return total.clone();
}

}  // namespace moe
