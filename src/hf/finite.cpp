// SPDX-License-Identifier: Apache-2.0
#include "hf/finite.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "core/parallel.h"

namespace moe {
namespace {

constexpr std::int64_t kScanGrain = 1 << 18, kBlock = 4096;

/// A value is not finite when all exponent bits are set. Adding the lowest of them to the exponent
/// then carries into the place of the sign, and only then: three operations that vectorise.
template <class Word>
std::int64_t first_with(const std::byte* values, Word exponent, std::int64_t count) {
  const Word lowest = Word(exponent & (~exponent + 1)), sign = Word(exponent + lowest);
  const auto bad_in = [&](std::int64_t begin, std::int64_t end) {
    Word carries = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      Word word;
      std::memcpy(&word, values + i * std::int64_t(sizeof word), sizeof word);
      carries = Word(carries | Word((word & exponent) + lowest));
    }
    return (carries & sign) != 0;
  };
  constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max();
  std::atomic<std::int64_t> first = none;
  parallel_for(count, kScanGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end && b < first.load(std::memory_order_relaxed);
         b += kBlock) {
      if (!bad_in(b, std::min(end, b + kBlock))) continue;
      std::int64_t at = b, least = first.load();
      while (!bad_in(at, at + 1)) ++at;
      while (at < least && !first.compare_exchange_weak(least, at)) {
      }
      return;
    }
  });
  return first == none ? -1 : first.load();
}

}  // namespace

std::int64_t first_not_finite(const std::byte* values, DType dtype, std::int64_t count) {
  switch (dtype) {
    case DType::f32:
      return first_with<std::uint32_t>(values, 0x7f800000u, count);
    case DType::bf16:
      return first_with<std::uint16_t>(values, 0x7f80u, count);
    case DType::f16:
      return first_with<std::uint16_t>(values, 0x7c00u, count);
    case DType::f64:
      return first_with<std::uint64_t>(values, 0x7ff0000000000000ull, count);
    default:
      throw Error(str("a ", name(dtype), " tensor holds no floating-point numbers"));
  }
}

void require_finite(const Tensor& t, const std::string& what) {
  MOE_CHECK(t.device() == Device::cpu, "a tensor to be checked must be on the CPU");
  const std::int64_t at = first_not_finite(t.bytes(), t.dtype(), t.size());
  MOE_REQUIRE(at < 0, what, " holds a NaN or an infinity in row ", at / t.cols(), ", column ",
              at % t.cols());
}

}  // namespace moe
