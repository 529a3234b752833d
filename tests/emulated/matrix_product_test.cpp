// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

constexpr double kLongSums = 4;

struct Types {
  DType factor, result;
};
const std::vector<Types> kTypes = {{DType::f64, DType::f64},
                                   {DType::f32, DType::f32},
                                   {DType::bf16, DType::f32},
                                   {DType::bf16, DType::bf16}};

TEST(CudaGemm, AgreesForAllTypesTransposesAndOddSizes) {
  const std::vector<Shape> sizes = {{1, 1, 1},   {3, 5, 7},    {64, 64, 16}, {65, 33, 31},
                                    {1, 200, 9}, {130, 1, 77}, {5, 9, 0},    {0, 9, 4},
                                    {9, 0, 4},   {70, 129, 33}};
  for (const auto& [factor, result] : kTypes)
    for (const Shape& size : sizes)
      for (const bool transpose_a : {false, true})
        for (const bool transpose_b : {false, true})
          for (const int beta : {0, 1}) {
            const std::int64_t m = size[0], n = size[1], k = size[2];
            SCOPED_TRACE(str(name(factor), " to ", name(result), " ", join(size), " ", transpose_a,
                             transpose_b, beta));
            expect_agreement(
                [&](Backend& b, auto& out, const auto& in) {
                  b.gemm(out[0], in[0], transpose_a, in[1], transpose_b, beta);
                },
                {beta == 0 ? poisoned({m, n}, result) : random_tensor({m, n}, result, 3)},
                {random_tensor(transpose_a ? Shape{k, m} : Shape{m, k}, factor, 1),
                 random_tensor(transpose_b ? Shape{n, k} : Shape{k, n}, factor, 2)},
                kLongSums);
          }
}

struct Experts {
  std::vector<std::int64_t> rows, neurons;  // offsets
  std::int64_t width;
};
const std::vector<Experts> kExperts = {
    {{0, 5, 5, 75, 76}, {0, 16, 32, 48, 64}, 24},   // uneven rows, one expert without
    {{0, 3, 12, 16}, {0, 7, 40, 41}, 19},           // uneven, odd neurons
    {{0, 0, 0, 133, 133}, {0, 8, 16, 24, 32}, 10},  // all rows to one expert
    {{0, 0, 0}, {0, 8, 16}, 16},                    // no rows at all
};

TEST(CudaGroupedGemm, AgreesForUnevenAndEmptyExperts) {
  for (const Experts& experts : kExperts)
    for (const DType type : {DType::f64, DType::f32, DType::bf16})
      for (const int beta : {0, 1}) {
        SCOPED_TRACE(str(name(type), " rows ", join(experts.rows, ","), " beta ", beta));
        const ExpertGroups groups{experts.rows, experts.neurons};
        const Shape rows = {experts.rows.back(), experts.width};
        const Shape weights = {experts.neurons.back(), experts.width};
        const Shape hidden = {groups.hidden_size()};
        const DType acc = accumulator(type);
        const auto start = [&](const Shape& shape, DType dtype) {
          return beta == 0 ? poisoned(shape, dtype) : random_tensor(shape, dtype, 9);
        };
        expect_agreement(
            [&](Backend& b, auto& out, const auto& in) {
              b.grouped_gemm_up(out[0], in[0], in[1], groups);
              b.grouped_gemm_down(out[1], in[2], in[1], groups, beta);
              b.grouped_gemm_weight(out[2], in[2], in[0], groups, beta);
            },
            {poisoned(hidden, type), start(rows, type), start(weights, acc)},
            {random_tensor(rows, type, 1), random_tensor(weights, type, 2),
             random_tensor(hidden, type, 3)},
            kLongSums);
      }
}

}  // namespace
}  // namespace moe
