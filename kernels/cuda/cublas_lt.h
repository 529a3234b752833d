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

/// Dense products by cuBLASLt on one stream, in one workspace. What cuBLASLt chooses for a shape is
/// asked once and kept. Repeats to the bit: partial sums of a split product are added in their own
/// type and order, never in place.
class CublasLt {
 public:
  /// Throws Error when the library finds no device.
  explicit CublasLt(CUstream_st* stream);
  ~CublasLt();

  /// c = op(a) op(b) + beta c. a and b: `in`, which is bf16, f32 (no TF32) or f64; c: [m, n] of
  /// `out`, that type or f32 for bf16, which is summed in f32. beta is 0 or 1.
  void multiply(void* c, DType out, const MatrixView& a, const MatrixView& b, DType in,
                double beta);

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

}  // namespace moe
