// SPDX-License-Identifier: Apache-2.0
#include "split/least_squares.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "hf/finite.h"
#include "split/cholesky.h"

namespace moe {
namespace {

// Outputs that one task solves for.
constexpr std::int64_t kStrip = 256;

double squared_sum(const double* x, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

/// One strip of outputs: its weights, and its part of |Y - X W|^2 - |Y|^2.
struct Strip {
  std::vector<double> w;  // [unknowns, cols]
  double gain = 0;
};

// With A = X^T X + s I = L L^T, R = X^T Y + s P and A W = R:
//   |Y - X W|^2 = |Y|^2 - |L^-1 R|^2 + s |P|^2 - s |W - P|^2
Strip solve_strip(const Cholesky& cholesky, const Tensor& moments, const Tensor& prior,
                  std::int64_t from, std::int64_t cols) {
  const std::int64_t n = moments.rows(), outputs = moments.cols(), size = n * cols;
  std::vector<double> p(prior.defined() ? std::size_t(size) : 0);
  Strip strip{std::vector<double>(std::size_t(size))};
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < cols; ++j) {
      const std::size_t here = std::size_t(i * cols + j);
      strip.w[here] = moments.data<double>()[i * outputs + from + j];
      if (p.empty()) continue;
      p[here] = prior.data<float>()[i * outputs + from + j];
      strip.w[here] += cholesky.shift() * p[here];
    }
  const Matrix<double> w = {strip.w.data(), cols};
  cholesky.forward(w, cols);
  strip.gain = -squared_sum(w.data, size);
  cholesky.backward(w, cols);
  strip.gain += cholesky.shift() * squared_sum(p.data(), std::int64_t(p.size()));
  p.resize(std::size_t(size), 0);
  for (std::int64_t i = 0; i < size; ++i) p[std::size_t(i)] -= w.data[i];
  strip.gain -= cholesky.shift() * squared_sum(p.data(), size);
  return strip;
}

std::vector<std::int64_t> even_parts(std::int64_t count, std::int64_t parts) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t p = 0; p < parts; ++p)
    sizes.push_back(count * (p + 1) / parts - count * p / parts);
  return sizes;
}

}  // namespace

NormalEquations::NormalEquations(std::int64_t unknowns, std::int64_t outputs)
    : gram_(unknowns), moments_(Tensor::zeros({unknowns, outputs}, DType::f64)) {}

void NormalEquations::add(const Tensor& x, const Tensor& y) {
  const ColumnBlock whole{0, x, all_rows(x.rows())};
  add(std::span(&whole, 1), y);
}

void NormalEquations::add(std::span<const ColumnBlock> x, const Tensor& y) {
  std::int64_t unknowns = 0;
  for (const ColumnBlock& block : x) {
    MOE_CHECK(block.first == unknowns, "a block begins at unknown ", block.first, ", not at ",
              unknowns);
    MOE_CHECK(block.rows.empty() || block.rows.back() < y.rows(), "row ", block.rows.back(), " of ",
              y.rows(), " targets");
    require_finite(block.values, str("inputs of least squares from unknown ", unknowns, " on"));
    unknowns += block.values.cols();
  }
  MOE_CHECK(unknowns == gram_.size() && y.cols() == moments_.cols(), unknowns, " unknowns and ",
            y.cols(), " outputs, not ", gram_.size(), " and ", moments_.cols());
  require_finite(y, "targets of least squares");
  add_gram(gram_, x);
  add_moments(moments_, x, y);
  squared_targets_ += parallel_sum(y.rows(), 64, [&](std::int64_t begin, std::int64_t end) {
    double sum = 0;
    for (std::int64_t i = begin * y.cols(); i < end * y.cols(); ++i)
      sum += double(y.data<float>()[i]) * y.data<float>()[i];
    return sum;
  });
  rows_ += y.rows();
}

void NormalEquations::add_ranks(Communicator& world) {
  const Tensor totals = Tensor::of<double>({2}, {squared_targets_, double(rows_)});
  for (const Tensor& sum : {gram_.values(), moments_, totals})
    world.all_reduce(sum, ReduceOp::sum).wait();
  squared_targets_ = totals.data<double>()[0];
  rows_ = std::int64_t(totals.data<double>()[1]);
}

Solution NormalEquations::solve(double ridge, const Tensor& prior, Communicator* world) const {
  const std::int64_t n = gram_.size(), outputs = moments_.cols();
  MOE_CHECK(!prior.defined() || prior.shape() == moments_.shape(), "a prior of shape ",
            join(prior.shape()), ", not ", join(moments_.shape()));
  const Cholesky cholesky(gram_, ridge);

  const std::int64_t ranks = world ? world->size() : 1, rank = world ? world->rank() : 0;
  const std::vector<std::int64_t> shares = even_parts(outputs, ranks);
  const std::int64_t begin = outputs * rank / ranks, mine = shares[std::size_t(rank)];
  const std::int64_t strips = (mine + kStrip - 1) / kStrip;
  const Tensor part = Tensor::empty({mine, n}, DType::f32);  // transposed: ranks follow each other
  std::vector<double> gains(std::size_t(strips), 0);
  run_tasks(strips, [&](std::int64_t s) {
    const std::int64_t from = s * kStrip, cols = std::min(kStrip, mine - from);
    const Strip strip = solve_strip(cholesky, moments_, prior, begin + from, cols);
    gains[std::size_t(s)] = strip.gain;
    for (std::int64_t j = 0; j < cols; ++j)
      for (std::int64_t i = 0; i < n; ++i)
        part.data<float>()[(from + j) * n + i] = float(strip.w[std::size_t(i * cols + j)]);
  });
  const Tensor gain = Tensor::zeros({1}, DType::f64);
  for (const double g : gains) gain.data<double>()[0] += g;
  Tensor whole = part;
  if (ranks > 1) {
    whole = Tensor::empty({outputs, n}, DType::f32);
    std::vector<std::int64_t> elements;
    for (const std::int64_t share : shares) elements.push_back(share * n);
    world->all_gather(whole, part, elements).wait();
    world->all_reduce(gain, ReduceOp::sum).wait();
  }

  Solution solution{Tensor::empty({n, outputs}, DType::f32), cholesky.jitter(),
                    cholesky.dependent()};
  parallel_for(n, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i)
      for (std::int64_t j = 0; j < outputs; ++j)
        solution.w.data<float>()[i * outputs + j] = whole.data<float>()[j * n + i];
  });
  // What is left of a perfect fit may be rounding below zero.
  if (squared_targets_ > 0)
    solution.error = std::max(0.0, 1 + gain.data<double>()[0] / squared_targets_);
  return solution;
}

}  // namespace moe
