// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "core/error.h"

namespace moe {

/// The upper half of an f32: 8 exponent bits, 7 mantissa bits. Storage and GEMM input only;
/// arithmetic converts to float.
struct bf16 {
  std::uint16_t bits;

  bf16() = default;
  /// Rounds to nearest, ties to even; NaN stays NaN.
  explicit bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(nan ? (u >> 16) | 0x40u
                                          : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

/// IEEE half precision. Storage in checkpoints of others only: no kernel computes on it.
struct f16 {
  std::uint16_t bits;

  f16() = default;
  explicit f16(float value) : bits(std::bit_cast<std::uint16_t>(static_cast<_Float16>(value))) {}
  operator float() const { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
};

enum class DType : std::uint8_t { f32, bf16, f64, i32, i64, u8, f16 };

inline constexpr std::size_t size_of(DType t) {
  switch (t) {
    case DType::f32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::f64:
      return 8;
    case DType::i32:
      return 4;
    case DType::i64:
      return 8;
    case DType::u8:
      return 1;
    case DType::f16:
      return 2;
  }
  return 0;
}

inline constexpr const char* name(DType t) {
  switch (t) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f64:
      return "f64";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::u8:
      return "u8";
    case DType::f16:
      return "f16";
  }
  return "?";
}

/// Types that kernels compute on.
inline constexpr bool is_float(DType t) {
  return t == DType::f32 || t == DType::bf16 || t == DType::f64;
}

/// The type that sums, logits, losses and weight gradients of a model in `t` are held in:
/// f64 for f64, f32 otherwise.
inline constexpr DType accumulator(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

/// The same for types: what a T is computed in.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// "f32", "bf16" or "f64"; throws InputError otherwise.
inline DType float_dtype_named(std::string_view text) {
  for (DType t : {DType::f32, DType::bf16, DType::f64})
    if (text == name(t)) return t;
  throw InputError(str("unknown number type '", text, "': use f32, bf16 or f64"));
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct DTypeOf<f16> {
  static constexpr DType value = DType::f16;
};
template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

/// Calls f with a value of the C++ type that a floating-point `dtype` names.
template <class F>
decltype(auto) for_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(bf16{});
    case DType::f64:
      return f(double{});
    default:
      throw Error(str("expected a floating-point tensor, got ", name(dtype)));
  }
}

/// The same for accumulator types alone: f32 and f64.
template <class F>
decltype(auto) for_accumulator(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    default:
      throw Error(str("expected f32 or f64, got ", name(dtype)));
  }
}

}  // namespace moe
