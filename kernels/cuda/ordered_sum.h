// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor.h"

struct CUstream_st;  // cudaStream_t points to it

namespace moe {

/// out[i] = x_0[i] + x_1[i] + ... of `summands` tensors, from left to right, kept in f32 for bf16,
/// on `stream`. x_own is `own`; the others lie in the rows of `others` in their order, each at its
/// row's begin. Without `own` (undefined) all of them do. out: n elements of the summands' type
/// (f32, bf16, f64, i64), or f32 for bf16; it may be `own` or a row.
void sum_on_stream(CUstream_st* stream, const Tensor& out, const Tensor& own, int own_number,
                   const Tensor& others, int summands);

}  // namespace moe
