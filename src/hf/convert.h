// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/tensor.h"

namespace moe {

/// Converts `count` values between f32, bf16, f16 and f64, rounding to nearest even (f64 to a half
/// type goes through f32); equal types are copied. `from` may have any alignment. Returns false
/// when a finite value became infinite, which f32 to f16 does above 65504.
bool convert_floats(const std::byte* from, DType from_type, std::byte* to, DType to_type,
                    std::int64_t count);

/// Multiplies a CPU tensor of any floating-point type by a factor, in f32 (f64 for f64), and
/// returns it as `to_type`. Throws InputError, naming `what`, when a finite value became infinite.
Tensor scaled_to(const Tensor& t, double factor, DType to_type, const std::string& what);

/// to[c, r] = from[r, c] for words of 2, 4 or 8 bytes, without reading them as numbers. Strides are
/// in words; `from` may have any alignment.
void transpose_words(const std::byte* from, std::int64_t from_stride, std::byte* to,
                     std::int64_t to_stride, std::int64_t rows, std::int64_t cols,
                     std::size_t word_bytes);

}  // namespace moe
