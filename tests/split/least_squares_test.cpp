// SPDX-License-Identifier: Apache-2.0
#include "split/least_squares.h"

#include <gmock/gmock.h>

#include <limits>

#include "split/cholesky.h"
#include "support/reference_least_squares.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::near;
using test::random_tensor;
using test::to_doubles;

/// Tokens, and targets that depend on them and on noise.
struct Problem {
  Tensor x, y;
};

Problem problem(std::int64_t rows, std::int64_t unknowns, std::int64_t outputs,
                std::uint64_t seed) {
  Problem p{random_tensor({rows, unknowns}, DType::f32, seed),
            random_tensor({rows, outputs}, DType::f32, seed + 1, 0.3)};
  const Tensor w = random_tensor({unknowns, outputs}, DType::f32, seed + 2);
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t i = 0; i < unknowns; ++i)
      for (std::int64_t j = 0; j < outputs; ++j)
        p.y.data<float>()[t * outputs + j] +=
            p.x.data<float>()[t * unknowns + i] * w.data<float>()[i * outputs + j];
  return p;
}

void copy_column(const Tensor& x, std::int64_t from, std::int64_t to, float factor) {
  for (std::int64_t t = 0; t < x.rows(); ++t)
    x.data<float>()[t * x.cols() + to] = factor * x.data<float>()[t * x.cols() + from];
}

Solution fit(const Problem& p, double ridge, const Tensor& prior = {}) {
  NormalEquations equations(p.x.cols(), p.y.cols());
  equations.add(p.x, p.y);
  return equations.solve(ridge, prior);
}

// Panels of the Gram matrix have 256 rows, pieces of blocks 512 columns, so sizes lie on all sides
// of both; strips of outputs have 256.
TEST(LeastSquares, IsGaussianEliminationOfTheNormalEquations) {
  for (const auto& [rows, unknowns, outputs] :
       {std::array<std::int64_t, 3>{40, 1, 1}, {50, 17, 3}, {300, 270, 2}, {90, 33, 260}}) {
    const Problem p = problem(rows, unknowns, outputs, 5);
    const Tensor prior = random_tensor({unknowns, outputs}, DType::f32, 9);
    for (const double ridge : {0.0, 1e-3, 0.5})
      for (const Tensor& towards : {Tensor{}, prior}) {
        const Solution s = fit(p, ridge, towards);
        const std::vector<double> x = to_doubles(p.x), y = to_doubles(p.y);
        const std::vector<double> start = towards.defined()
                                              ? to_doubles(towards)
                                              : std::vector<double>(std::size_t(prior.size()), 0);
        const std::vector<double> w = reference::ridge(x, y, std::size_t(rows), ridge, start);
        EXPECT_TRUE(near(s.w, w, 1e-7)) << unknowns << " unknowns, ridge " << ridge;
        EXPECT_EQ(s.jitter, 0);
        EXPECT_EQ(s.dependent, -1);
        EXPECT_NEAR(s.error, reference::relative_residual(x, y, w, std::size_t(rows)), 1e-9);
      }
  }
}

TEST(LeastSquares, GivesTheSameBitsHoweverTokensAreCutAndOnAnyThreads) {
  const Problem p = problem(1100, 530, 7, 11);
  NormalEquations whole(530, 7), parts(530, 7);
  whole.add(p.x, p.y);
  for (const auto& [first, count] :
       {std::pair<std::int64_t, std::int64_t>{0, 513}, {513, 0}, {513, 587}})
    parts.add(p.x.slice(first, count), p.y.slice(first, count));
  EXPECT_EQ(parts.rows(), 1100);
  EXPECT_TRUE(test::same_bits(whole.solve(1e-3).w, parts.solve(1e-3).w));
  test::expect_same_bits_on_any_threads([&] { return std::vector<Tensor>{fit(p, 1e-3).w}; });
}

TEST(LeastSquares, KeepsThePriorWhereColumnsAreZeroAndSharesItBetweenEqualOnes) {
  Problem p = problem(200, 20, 4, 21);
  copy_column(p.x, 3, 11, 1);
  copy_column(p.x, 5, 17, 0);
  const Tensor prior = random_tensor({20, 4}, DType::f32, 22);
  for (const double ridge : {0.0, 1e-3}) {
    const Solution s = fit(p, ridge, prior);
    EXPECT_EQ(s.jitter > 0, ridge == 0);
    EXPECT_LT(s.jitter, 1e-8 * 200);
    EXPECT_EQ(s.dependent, ridge == 0 ? 11 : -1);
    for (std::int64_t j = 0; j < 4; ++j) {
      const float *w = s.w.data<float>() + j, *start = prior.data<float>() + j;
      EXPECT_NEAR(w[17 * 4], start[17 * 4], 1e-6);
      // Both columns moved alike, since nothing tells them apart.
      EXPECT_NEAR(w[11 * 4] - start[11 * 4], w[3 * 4] - start[3 * 4], 1e-3);
    }
    const std::vector<double> x = to_doubles(p.x), y = to_doubles(p.y);
    EXPECT_NEAR(reference::relative_residual(x, y, to_doubles(s.w), 200), s.error, 1e-6);
  }
}

TEST(LeastSquares, SolvesWithFewerTokensThanUnknownsAndWithNone) {
  const Problem p = problem(30, 50, 3, 31);
  const Tensor prior = random_tensor({50, 3}, DType::f32, 32);
  const std::vector<double> w =
      reference::ridge(to_doubles(p.x), to_doubles(p.y), 30, 1e-2, to_doubles(prior));
  EXPECT_TRUE(near(fit(p, 1e-2, prior).w, w, 1e-6));
  const Solution exact = fit(p, 0, prior);
  EXPECT_GT(exact.jitter, 0);
  EXPECT_EQ(exact.dependent, 30);
  EXPECT_LT(exact.error, 1e-8);

  const Solution nothing = NormalEquations(50, 3).solve(1e-3, prior);
  EXPECT_TRUE(near(nothing.w, to_doubles(prior), 1e-7));
  EXPECT_EQ(nothing.error, 0);
}

TEST(LeastSquares, BlocksAreTheMatrixThatTheyAreCutFrom) {
  // A block of 600 columns that every row has, two of which some rows have, one that none has.
  const std::int64_t rows = 900;
  std::vector<ColumnBlock> blocks;
  std::vector<double> dense(std::size_t(rows * 640), 0.0);
  std::int64_t first = 0;
  for (const auto& [width, step] :
       {std::pair<std::int64_t, std::int64_t>{20, 3}, {12, 2}, {600, 1}, {8, 10000}}) {
    std::vector<std::int64_t> chosen;
    for (std::int64_t t = step == 10000 ? rows : 1; t < rows; t += step) chosen.push_back(t);
    const Tensor values =
        random_tensor({std::int64_t(chosen.size()), width}, DType::f32, 40 + std::uint64_t(width));
    for (std::size_t i = 0; i < chosen.size(); ++i)
      for (std::int64_t j = 0; j < width; ++j)
        dense[std::size_t(chosen[i] * 640 + first + j)] =
            values.data<float>()[std::int64_t(i) * width + j];
    blocks.push_back({first, values, chosen});
    first += width;
  }
  const Tensor x = test::from_doubles({rows, 640}, DType::f32, dense);
  const Tensor y = random_tensor({rows, 3}, DType::f32, 50);
  NormalEquations sparse(640, 3), full(640, 3);
  sparse.add(blocks, y);
  full.add(x, y);
  EXPECT_TRUE(near(sparse.solve(0.1).w, to_doubles(full.solve(0.1).w), 1e-6));
}

TEST(LeastSquares, RanksAgreeWithOneAndShareTheOutputs) {
  const Problem p = problem(120, 40, 5, 61);
  const Tensor prior = random_tensor({40, 5}, DType::f32, 62);
  const Solution one = fit(p, 1e-3, prior);
  for (const int ranks : {1, 2, 3}) {
    run_ranks(ranks, [&](Communicator& world) {
      NormalEquations equations(40, 5);
      const std::int64_t begin = 120 * world.rank() / ranks, end = 120 * (world.rank() + 1) / ranks;
      equations.add(p.x.slice(begin, end - begin), p.y.slice(begin, end - begin));
      equations.add_ranks(world);
      EXPECT_EQ(equations.rows(), 120);
      for (Communicator* sharing : {&world, static_cast<Communicator*>(nullptr)}) {
        const Solution s = equations.solve(1e-3, prior, sharing);
        EXPECT_TRUE(near(s.w, to_doubles(one.w), 1e-7)) << ranks << " ranks";
        EXPECT_NEAR(s.error, one.error, 1e-12);
      }
    });
  }
}

TEST(LeastSquares, NamesTheRowOfNaN) {
  for (const bool in_x : {true, false}) {
    const Problem p = problem(20, 6, 2, 71);
    const Tensor& t = in_x ? p.x : p.y;
    t.data<float>()[7 * t.cols() + 1] = std::numeric_limits<float>::quiet_NaN();
    try {
      fit(p, 1e-3);
      ADD_FAILURE() << "no error";
    } catch (const InputError& e) {
      EXPECT_THAT(e.what(), testing::AllOf(testing::HasSubstr(in_x ? "inputs" : "targets"),
                                           testing::HasSubstr("7")));
    }
  }
}

TEST(Cholesky, SaysWhichColumnDependsOnOthersAndWhatItAdded) {
  // Rank 3 in 300 columns, beyond the first panel: the fourth column is the first to depend.
  const Tensor few = random_tensor({3, 300}, DType::f32, 81);
  LowerMatrix gram(300);
  const ColumnBlock block{0, few, all_rows(3)};
  add_gram(gram, std::span(&block, 1));
  double mean = 0;
  for (std::int64_t j = 0; j < 300; ++j) mean += gram.diagonal(j) / 300;
  const Cholesky plain(gram, 0), ridged(gram, 1e-2);
  EXPECT_EQ(plain.dependent(), 3);
  EXPECT_GT(plain.jitter(), 0);
  EXPECT_LT(plain.jitter(), 1e-9 * mean);
  EXPECT_EQ(plain.shift(), plain.jitter());
  EXPECT_EQ(ridged.dependent(), -1);
  EXPECT_EQ(ridged.jitter(), 0);
  EXPECT_NEAR(ridged.shift(), 1e-2 * mean, 1e-12 * mean);

  // An eigenvalue below zero takes as much jitter as lifts it, to a power of ten.
  gram.diagonal(270) -= 1e-6 * mean;
  const Cholesky lifted(gram, 0);
  EXPECT_GT(lifted.jitter(), 1e-9 * mean);
  EXPECT_LT(lifted.jitter(), 1e-5 * mean);
  gram.diagonal(270) = std::numeric_limits<double>::infinity();
  EXPECT_THROW(Cholesky(gram, 1e-2), Error);
}

}  // namespace
}  // namespace moe
