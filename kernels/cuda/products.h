// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "core/dtype.h"

struct CUstream_st;  // cudaStream_t points to it

namespace moe {

/// A row-major matrix as it is stored, and how a product reads it.
struct MatrixView {
  const void* data;
  std::int64_t rows, cols;
  bool transposed = false;
};

/// Matrix products on one stream of a device. Repeat to the bit.
class Products {
 public:
  virtual ~Products() = default;

  /// c = op(a) op(b) + beta c. a and b: `in`, which is bf16, f32 (no TF32) or f64; c: [m, n] of
  /// `out`, that type or f32 for bf16, which is summed in f32. beta is 0 or 1. Any size may be 0.
  virtual void multiply(void* c, DType out, const MatrixView& a, const MatrixView& b, DType in,
                        double beta) = 0;
};

/// Tiles in shared memory, for any shape: what faster products are held against.
std::unique_ptr<Products> plain_products(CUstream_st* stream);
/// By cuBLASLt. What it chooses for a shape is asked once and kept; partial sums of a split product
/// are added in their own type and order, never in place. Throws Error when the library finds no
/// device.
std::unique_ptr<Products> cublas_lt_products(CUstream_st* stream);

}  // namespace moe
