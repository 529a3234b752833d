// SPDX-License-Identifier: Apache-2.0
#include "split/logistic_router.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "hf/finite.h"
#include "kernels/cpu/vectorize.h"
#include "split/normal_sums.h"

namespace moe {
namespace {

// A task's tokens, and as many of them as stay in the cache between their logits and their share
// of the gradient.
constexpr std::int64_t kTask = 2048, kChunk = 256;

LowerMatrix gram_of(const Tensor& x, bool bias, Communicator& world) {
  require_finite(x, "inputs of a gate");
  const std::int64_t tokens = x.rows(), hidden = x.cols();
  std::vector<ColumnBlock> blocks = {{0, x, all_rows(tokens)}};
  if (bias) {
    Tensor ones = Tensor::empty({tokens, 1}, DType::f32);
    std::fill_n(ones.data<float>(), tokens, 1.0f);
    blocks.push_back({hidden, ones, all_rows(tokens)});
  }
  LowerMatrix gram(hidden + (bias ? 1 : 0));
  add_gram(gram, blocks);
  world.all_reduce(gram.values(), ReduceOp::sum).wait();
  return gram;
}

}  // namespace

GateRegression::GateRegression(Tensor x, double ridge, bool bias, Communicator& world)
    : x_(std::move(x)), bias_(bias), world_(world), cholesky_(gram_of(x_, bias, world), ridge) {}

Tensor GateRegression::moments(const Tensor& targets, const Tensor& w) const {
  const std::int64_t tokens = x_.rows(), hidden = x_.cols(), experts = targets.cols();
  const std::int64_t unknowns = cholesky_.size();
  MOE_CHECK(targets.rows() == tokens, targets.rows(), " targets for ", tokens, " tokens");
  GateWeights now;
  if (w.defined()) now = gate(w);
  const std::int64_t tasks = (tokens + kTask - 1) / kTask;
  std::vector<double> sums(std::size_t(tasks * experts * unknowns), 0.0);  // [tasks, E, unknowns]
  run_tasks(tasks, [&](std::int64_t task) {
    double* sum = sums.data() + task * experts * unknowns;
    std::vector<float> residual(std::size_t(kChunk * experts)), part(std::size_t(experts * hidden));
    const std::int64_t end = std::min(tokens, (task + 1) * kTask);
    for (std::int64_t first = task * kTask; first < end; first += kChunk) {
      const std::int64_t rows = std::min(kChunk, end - first);
      const Matrix<const float> x = {x_.data<float>() + first * hidden, hidden};
      const float* t = targets.data<float>() + first * experts;
      if (w.defined()) {
        matrix_product({rows, experts, hidden, false, true, 0}, x,
                       Matrix<const float>{now.weight.data<float>(), hidden},
                       Matrix<float>{residual.data(), experts});
        for (std::int64_t i = 0; i < rows * experts; ++i) {
          float& z = residual[std::size_t(i)];
          if (bias_) z += now.bias.data<float>()[i % experts];
          z = t[i] - sigmoid(z);
        }
      } else {
        std::copy_n(t, rows * experts, residual.data());
      }
      matrix_product({experts, hidden, rows, true, false, 0},
                     Matrix<const float>{residual.data(), experts}, x,
                     Matrix<float>{part.data(), hidden});
      for (std::int64_t e = 0; e < experts; ++e) {
        double* row = sum + e * unknowns;
        for (std::int64_t j = 0; j < hidden; ++j) row[j] += part[std::size_t(e * hidden + j)];
        if (!bias_) continue;
        for (std::int64_t i = 0; i < rows; ++i)
          row[hidden] += residual[std::size_t(i * experts + e)];
      }
    }
  });
  Tensor total = Tensor::zeros({unknowns, experts}, DType::f64);
  parallel_for(unknowns, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = 0; task < tasks; ++task)
      for (std::int64_t e = 0; e < experts; ++e)
        for (std::int64_t j = begin; j < end; ++j)
          total.data<double>()[j * experts + e] +=
              sums[std::size_t((task * experts + e) * unknowns + j)];
  });
  world_.all_reduce(total, ReduceOp::sum).wait();
  return total;
}

GateWeights GateRegression::gate(const Tensor& w) const {
  const std::int64_t hidden = x_.cols(), experts = w.cols();
  GateWeights gate;
  gate.weight = Tensor::empty({experts, hidden}, DType::f32);
  for (std::int64_t e = 0; e < experts; ++e)
    for (std::int64_t j = 0; j < hidden; ++j)
      gate.weight.data<float>()[e * hidden + j] = float(w.data<double>()[j * experts + e]);
  if (bias_) {
    gate.bias = Tensor::empty({experts}, DType::f32);
    std::copy_n(w.data<double>() + hidden * experts, experts, gate.bias.data<float>());
  }
  return gate;
}

GateWeights GateRegression::ridge(const Tensor& targets) const {
  require_finite(targets, "targets of a gate");
  const Tensor w = moments(targets, {});
  const Matrix<double> b = {w.data<double>(), w.cols()};
  cholesky_.forward(b, w.cols());
  cholesky_.backward(b, w.cols());
  return gate(w);
}

GateWeights GateRegression::logistic(const Tensor& targets, int iterations) const {
  require_finite(targets, "targets of a gate");
  const Tensor w = Tensor::zeros({cholesky_.size(), targets.cols()}, DType::f64);
  const Tensor ahead = w.clone();  // w and the momentum that it has
  double t = 1;
  for (int i = 0; i < iterations; ++i) {
    const Tensor step = moments(targets, ahead);
    const Matrix<double> b = {step.data<double>(), step.cols()};
    cholesky_.forward(b, step.cols());
    cholesky_.backward(b, step.cols());
    const double next = (1 + std::sqrt(1 + 4 * t * t)) / 2, momentum = (t - 1) / next;
    t = next;
    for (std::int64_t j = 0; j < w.size(); ++j) {
      double &now = w.data<double>()[j], &from = ahead.data<double>()[j];
      const double stepped = from + 4 * step.data<double>()[j];
      from = stepped + momentum * (stepped - now);
      now = stepped;
    }
  }
  return gate(w);
}

}  // namespace moe
