// SPDX-License-Identifier: Apache-2.0
#include "hf/convert.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/parallel.h"

namespace moe {
namespace {

constexpr std::int64_t kGrain = 1 << 16;

template <class T>
T load(const std::byte* bytes, std::int64_t i) {
  T value;
  std::memcpy(&value, bytes + i * std::int64_t(sizeof(T)), sizeof(T));
  return value;
}

template <class F>
void for_stored(DType dtype, F&& f) {
  if (dtype == DType::f16) return f(f16{});
  for_float(dtype, f);
}

/// f16 to f32 by exponent arithmetic: vectorises where the library call does not.
float widen(f16 h) {
  const std::uint32_t sign = std::uint32_t(h.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = std::uint32_t(h.bits & 0x7fffu) << 13;
  const std::uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  const float finite = std::bit_cast<float>(magnitude) * 0x1p112f;
  return std::bit_cast<float>(sign | special | std::bit_cast<std::uint32_t>(finite));
}

template <class To, class From>
To converted(From value) {
  if constexpr (std::is_same_v<From, f16>)
    return To(widen(value));
  else if constexpr (std::is_same_v<To, double> || std::is_same_v<To, From>)
    return To(value);
  else
    return To(static_cast<float>(value));
}

template <class To, class From>
bool convert_range(const std::byte* from, std::byte* to, std::int64_t begin, std::int64_t end) {
  bool overflow = false;
  for (std::int64_t i = begin; i < end; ++i) {
    const From value = load<From>(from, i);
    const To result = converted<To>(value);
    std::memcpy(to + i * std::int64_t(sizeof(To)), &result, sizeof(To));
    if constexpr (std::is_same_v<To, f16> ||
                  (std::is_same_v<From, double> && !std::is_same_v<To, double>))
      overflow |= std::isinf(float(result)) && !std::isinf(double(value));
  }
  return !overflow;
}

template <class Word>
void transpose_tile(const std::byte* from, std::int64_t from_stride, std::byte* to,
                    std::int64_t to_stride, std::int64_t rows, std::int64_t cols) {
  constexpr std::int64_t w = sizeof(Word);
  for (std::int64_t c = 0; c < cols; ++c)
    for (std::int64_t r = 0; r < rows; ++r) {
      const Word word = load<Word>(from, r * from_stride + c);
      std::memcpy(to + (c * to_stride + r) * w, &word, sizeof word);
    }
}

/// Rows of `to` are shared out; within a share, tiles fill a cache line of `to` at a time while the
/// lines of `from` that they come from stay in the first-level cache.
template <class Word>
void transpose(const std::byte* from, std::int64_t from_stride, std::byte* to,
               std::int64_t to_stride, std::int64_t rows, std::int64_t cols) {
  constexpr std::int64_t w = sizeof(Word), tile = 64 / w;
  parallel_for(cols, tile, [&](std::int64_t c0, std::int64_t c1) {
    for (std::int64_t r0 = 0; r0 < rows; r0 += tile) {
      const std::byte* source = from + (r0 * from_stride + c0) * w;
      std::byte* target = to + (c0 * to_stride + r0) * w;
      if (r0 + tile <= rows && c1 - c0 == tile)
        transpose_tile<Word>(source, from_stride, target, to_stride, tile, tile);
      else
        transpose_tile<Word>(source, from_stride, target, to_stride, std::min(tile, rows - r0),
                             c1 - c0);
    }
  });
}

}  // namespace

bool convert_floats(const std::byte* from, DType from_type, std::byte* to, DType to_type,
                    std::int64_t count) {
  std::atomic<bool> good = true;
  if (from_type == to_type) {
    const std::size_t w = size_of(from_type);
    parallel_for(count, 1 << 20, [&](std::int64_t begin, std::int64_t end) {
      std::memcpy(to + std::size_t(begin) * w, from + std::size_t(begin) * w,
                  std::size_t(end - begin) * w);
    });
    return true;
  }
  for_stored(from_type, [&](auto f) {
    for_stored(to_type, [&](auto t) {
      parallel_for(count, kGrain, [&](std::int64_t begin, std::int64_t end) {
        if (!convert_range<decltype(t), decltype(f)>(from, to, begin, end)) good = false;
      });
    });
  });
  return good;
}

Tensor scaled_to(const Tensor& t, double factor, DType to_type, const std::string& what) {
  const DType wide = t.dtype() == DType::f64 || to_type == DType::f64 ? DType::f64 : DType::f32;
  Tensor result = t;
  if (factor != 1) {
    result = Tensor::empty(t.shape(), wide);
    convert_floats(t.bytes(), t.dtype(), result.bytes(), wide, t.size());
    for_accumulator(wide, [&](auto value) {
      using T = decltype(value);
      T* x = result.data<T>();
      parallel_for(t.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) x[i] *= T(factor);
      });
    });
  }
  if (result.dtype() == to_type) return result;
  Tensor rounded = Tensor::empty(t.shape(), to_type);
  MOE_REQUIRE(convert_floats(result.bytes(), result.dtype(), rounded.bytes(), to_type, t.size()),
              what, " has values too large for ", name(to_type), ": use bf16 or f32");
  return rounded;
}

void transpose_words(const std::byte* from, std::int64_t from_stride, std::byte* to,
                     std::int64_t to_stride, std::int64_t rows, std::int64_t cols,
                     std::size_t word_bytes) {
  switch (word_bytes) {
    case 2:
      return transpose<std::uint16_t>(from, from_stride, to, to_stride, rows, cols);
    case 4:
      return transpose<std::uint32_t>(from, from_stride, to, to_stride, rows, cols);
    case 8:
      return transpose<std::uint64_t>(from, from_stride, to, to_stride, rows, cols);
    default:
      throw Error(str("words of ", word_bytes, " bytes cannot be transposed"));
  }
}

}  // namespace moe
