// SPDX-License-Identifier: Apache-2.0
#include "comm/ordered_sum.h"

#include <algorithm>
#include <array>
#include <type_traits>

namespace moe {
namespace {

template <class Out, class In>
void sum(const Tensor& out, std::span<const Tensor> summands) {
  using Total = std::conditional_t<std::is_same_v<In, bf16>, float, In>;
  constexpr std::int64_t kBlock = 2048;  // stays in the first-level cache
  std::array<Total, kBlock> totals;
  for (std::int64_t first = 0; first < out.size(); first += kBlock) {
    const std::int64_t n = std::min(kBlock, out.size() - first);
    const In* leftmost = summands[0].data<In>() + first;
    for (std::int64_t i = 0; i < n; ++i) totals[std::size_t(i)] = Total(leftmost[i]);
    for (const Tensor& summand : summands.subspan(1)) {
      const In* x = summand.data<In>() + first;
      for (std::int64_t i = 0; i < n; ++i) totals[std::size_t(i)] += Total(x[i]);
    }
    Out* y = out.data<Out>() + first;
    for (std::int64_t i = 0; i < n; ++i) y[i] = Out(totals[std::size_t(i)]);
  }
}

}  // namespace

void sum_in_order(const Tensor& out, std::span<const Tensor> summands) {
  const DType in = summands.front().dtype();
  if (in == DType::i64) return sum<std::int64_t, std::int64_t>(out, summands);
  for_float(in, [&]<class T>(T) {
    if (out.dtype() == in) return sum<T, T>(out, summands);
    if constexpr (std::is_same_v<T, bf16>) sum<float, bf16>(out, summands);
  });
}

}  // namespace moe
