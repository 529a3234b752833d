// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/tensor.h"
#include "kernels/cpu/matrix_product.h"

namespace moe {

/// The lower triangle of a square f64 matrix in half of its memory: panels of kPanel rows, each
/// row-major and as wide as its last row is long. So a panel is a plain matrix, and a rectangle
/// within one has one stride. What lies above the diagonal in a panel means nothing.
class LowerMatrix {
 public:
  static constexpr std::int64_t kPanel = 256;

  /// Zeros.
  explicit LowerMatrix(std::int64_t size)
      : size_(size), values_(Tensor::zeros({start_of(panels())}, DType::f64)) {}

  std::int64_t size() const { return size_; }
  std::int64_t panels() const { return (size_ + kPanel - 1) / kPanel; }
  /// First row of panel i, which is also its first column on the diagonal.
  std::int64_t first(std::int64_t i) const { return i * kPanel; }
  std::int64_t rows(std::int64_t i) const { return std::min(kPanel, size_ - first(i)); }

  /// The element of panel i that lies in its row `row` (counted within the panel) and column `col`.
  Matrix<double> at(std::int64_t i, std::int64_t row, std::int64_t col) const {
    const std::int64_t stride = first(i) + rows(i);
    return {values_.data<double>() + start_of(i) + row * stride + col, stride};
  }
  double& diagonal(std::int64_t j) const { return *at(j / kPanel, j % kPanel, j).data; }

  /// All panels, one after the other: f64, for sums over ranks.
  const Tensor& values() const { return values_; }

 private:
  std::int64_t start_of(std::int64_t i) const {
    const std::int64_t whole = std::min(i, size_ / kPanel);
    const std::int64_t start = kPanel * kPanel * whole * (whole + 1) / 2;
    return i == whole ? start : start + rows(whole) * size_;
  }

  std::int64_t size_;
  Tensor values_;
};

}  // namespace moe
