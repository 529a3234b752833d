// SPDX-License-Identifier: Apache-2.0
#include "hf/convert.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

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
struct VectorOf {
  typedef Word type __attribute__((vector_size(16)));
};
template <class Word>
using Vector = typename VectorOf<Word>::type;

/// a0 b0 a1 b1 ... from the first (Half = 0) or second halves of a and b.
template <class Word, int Half, int... I>
Vector<Word> interleave(Vector<Word> a, Vector<Word> b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (Half * n / 2 + I / 2 + I % 2 * n)...);
}

/// A square of one vector a row. Interleaving row i with row i + n/2 moves one bit of the row
/// number into the column number: log2(n) rounds exchange them.
template <class Word>
void transpose_square(const std::byte* from, std::int64_t from_bytes, std::byte* to,
                      std::int64_t to_bytes) {
  constexpr int n = 16 / sizeof(Word);
  constexpr auto lanes = std::make_integer_sequence<int, n>{};
  Vector<Word> rows[n], next[n];
  for (int i = 0; i < n; ++i) std::memcpy(&rows[i], from + i * from_bytes, 16);
  for (int round = 1; round < n; round *= 2) {
    for (int i = 0; i < n / 2; ++i) {
      next[2 * i] = interleave<Word, 0>(rows[i], rows[i + n / 2], lanes);
      next[2 * i + 1] = interleave<Word, 1>(rows[i], rows[i + n / 2], lanes);
    }
    for (int i = 0; i < n; ++i) rows[i] = next[i];
  }
  for (int i = 0; i < n; ++i) std::memcpy(to + i * to_bytes, &rows[i], 16);
}

/// Rows of `to` are shared out; within a share, tiles fill a cache line of `to` at a time while the
/// lines of `from` that they come from stay in the first-level cache.
template <class Word>
void transpose(const std::byte* from, std::int64_t from_stride, std::byte* to,
               std::int64_t to_stride, std::int64_t rows, std::int64_t cols) {
  constexpr std::int64_t w = sizeof(Word), tile = 64 / w, square = 16 / w;
  const auto source = [&](std::int64_t r, std::int64_t c) {
    return from + (r * from_stride + c) * w;
  };
  const auto target = [&](std::int64_t r, std::int64_t c) { return to + (c * to_stride + r) * w; };
  parallel_for(cols, tile, [&](std::int64_t c0, std::int64_t c1) {
    for (std::int64_t r0 = 0; r0 < rows; r0 += tile) {
      const std::int64_t r1 = std::min(rows, r0 + tile);
      if (r1 - r0 == tile && c1 - c0 == tile) {
        for (std::int64_t c = c0; c < c1; c += square)
          for (std::int64_t r = r0; r < r1; r += square)
            transpose_square<Word>(source(r, c), from_stride * w, target(r, c), to_stride * w);
        continue;
      }
      for (std::int64_t c = c0; c < c1; ++c)
        for (std::int64_t r = r0; r < r1; ++r) std::memcpy(target(r, c), source(r, c), w);
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
