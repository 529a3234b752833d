// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/ordered_sum.h"

#include <gtest/gtest.h>

#include <cstring>
#include <utility>
#include <vector>

#include "core/cuda_device.h"
#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

/// Where the tensors come and go.
CUstream_st* stream() { return tested_device() == Device::cuda ? cuda::compute_stream() : nullptr; }

template <class Out, class In>
std::vector<Out> expected_sums(const std::vector<Tensor>& summands) {
  using Total = std::conditional_t<std::is_same_v<In, bf16>, float, In>;
  std::vector<Out> sums;
  for (std::int64_t i = 0; i < summands[0].size(); ++i) {
    Total total = Total(summands[0].data<In>()[i]);
    for (std::size_t p = 1; p < summands.size(); ++p) total += Total(summands[p].data<In>()[i]);
    sums.push_back(Out(total));
  }
  return sums;
}

/// `count` summands of `size` elements in rows of `stride`, without and with one of them elsewhere,
/// in whose place the sum may lie.
template <class Out, class In>
void expect_sums(const std::vector<Tensor>& summands, std::int64_t stride) {
  const std::int64_t size = summands[0].size();
  const int count = int(summands.size());
  const std::vector<Out> expected = expected_sums<Out, In>(summands);
  for (int own = -1; own < count; ++own)
    for (const bool in_place : {false, true}) {
      if (in_place && (own < 0 || !std::is_same_v<In, Out>)) continue;
      SCOPED_TRACE(str(size, " elements in rows of ", stride, ", ", count, " summands, own ", own));
      Tensor rows = poisoned({std::max(count - (own >= 0), 1), stride}, dtype_of<In>);
      Tensor elsewhere;
      for (int p = 0, row = 0; p < count; ++p) {
        if (p == own)
          elsewhere = summands[std::size_t(p)].clone();
        else
          rows.slice(row++, 1).view({stride}).slice(0, size).copy_from(summands[std::size_t(p)]);
      }
      in_every_order([&] {
        const Tensor x = elsewhere.defined() ? elsewhere.clone() : elsewhere;
        const Tensor there = x.defined() ? x.to(tested_device()) : x;
        const Tensor out = in_place ? there : poisoned({size}, dtype_of<Out>).to(tested_device());
        sum_on_stream(stream(), out, there, own, rows.to(tested_device()), count);
        const Tensor result = out.to(Device::cpu);
        EXPECT_EQ(std::memcmp(result.bytes(), expected.data(), result.nbytes()), 0);
      });
    }
}

TEST(CudaOrderedSum, AddsFromLeftToRightToTheBit) {
  for (const int count : {1, 2, 3, 5})
    for (const std::int64_t size : {1, 3, 8, 31, 257, 1000})
      for (const std::int64_t stride : {size, size + 1, (size + 15) / 16 * 16}) {
        const auto random = [&](DType dtype) {
          std::vector<Tensor> summands;
          for (int p = 0; p < count; ++p)
            summands.push_back(random_tensor({size}, dtype, std::uint64_t(p + 1)));
          return summands;
        };
        expect_sums<float, float>(random(DType::f32), stride);
        expect_sums<double, double>(random(DType::f64), stride);
        expect_sums<bf16, bf16>(random(DType::bf16), stride);
        expect_sums<float, bf16>(random(DType::bf16), stride);
        std::vector<Tensor> integers;
        for (int p = 0; p < count; ++p)
          integers.push_back(Tensor::of<std::int64_t>(
              {size}, std::vector<std::int64_t>(std::size_t(size), (std::int64_t{1} << 60) + p)));
        if (count < 5) expect_sums<std::int64_t, std::int64_t>(integers, stride);
      }
}

TEST(CudaOrderedSum, OfNothingIsNothing) {
  const Tensor none = Tensor::empty({0}, DType::f32).to(tested_device());
  sum_on_stream(stream(), none, none, 0, {}, 1);
}

}  // namespace
}  // namespace moe
