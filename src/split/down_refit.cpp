// SPDX-License-Identifier: Apache-2.0
#include "split/down_refit.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"

namespace moe {
namespace {

std::int64_t sum(const std::vector<std::int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
}

/// The tokens of each expert, ascending, and what they multiply it by.
struct ExpertTokens {
  std::vector<std::vector<std::int64_t>> rows;
  std::vector<std::vector<float>> weights;
};

ExpertTokens tokens_of(const TokenRouting& routing, std::size_t experts) {
  ExpertTokens tokens{std::vector<std::vector<std::int64_t>>(experts),
                      std::vector<std::vector<float>>(experts)};
  const std::int64_t k = routing.experts.cols();
  for (std::int64_t i = 0; i < routing.experts.size(); ++i) {
    const std::int32_t e = routing.experts.data<std::int32_t>()[i];
    MOE_CHECK(e >= 0 && std::size_t(e) < experts, "token ", i / k, " chose expert ", e, " of ",
              experts);
    auto& rows = tokens.rows[std::size_t(e)];
    MOE_CHECK(rows.empty() || rows.back() < i / k, "token ", i / k, " chose expert ", e, " twice");
    rows.push_back(i / k);
    tokens.weights[std::size_t(e)].push_back(
        routing.weights.defined() ? routing.weights.data<float>()[i] : 1.0f);
  }
  return tokens;
}

/// rows of x times weights: [rows, cols (+ the weight itself)] of the columns from `from` on.
Tensor weighted_rows(const Tensor& x, std::int64_t from, std::int64_t cols, bool bias,
                     const std::vector<std::int64_t>& rows, const std::vector<float>& weights) {
  const std::int64_t width = cols + (bias ? 1 : 0);
  Tensor y = Tensor::empty({std::int64_t(rows.size()), width}, DType::f32);
  parallel_for(y.rows(), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float weight = weights[std::size_t(i)];
      const float* in = x.data<float>() + rows[std::size_t(i)] * x.cols() + from;
      float* out = y.data<float>() + i * width;
      for (std::int64_t j = 0; j < cols; ++j) out[j] = weight * in[j];
      if (bias) out[cols] = weight;
    }
  });
  return y;
}

}  // namespace

DownRefitter::DownRefitter(std::vector<std::int64_t> sizes, std::int64_t shared,
                           std::int64_t hidden, bool bias)
    : sizes_(std::move(sizes)),
      shared_(shared),
      routed_(sum(sizes_)),
      bias_(bias ? 1 : 0),
      equations_(routed_ + bias_ * std::int64_t(sizes_.size()) + shared_, hidden) {}

std::int64_t DownRefitter::first_unknown(std::size_t expert) const {
  return std::accumulate(sizes_.begin(), sizes_.begin() + std::ptrdiff_t(expert),
                         bias_ * std::int64_t(expert));
}

void DownRefitter::add(const Tensor& activations, const TokenRouting& routing,
                       const Tensor& targets) {
  MOE_CHECK(activations.cols() == routed_ + shared_, activations.cols(), " activations, not ",
            routed_ + shared_);
  MOE_CHECK(activations.rows() == targets.rows() && routing.experts.rows() == targets.rows(),
            activations.rows(), " rows of activations and ", routing.experts.rows(),
            " of routing for ", targets.rows(), " targets");
  ExpertTokens tokens = tokens_of(routing, sizes_.size());
  std::vector<ColumnBlock> blocks;
  std::int64_t neuron = 0;
  for (std::size_t e = 0; e < sizes_.size(); ++e) {
    blocks.push_back({first_unknown(e),
                      weighted_rows(activations, neuron, sizes_[e], bias_ == 1, tokens.rows[e],
                                    tokens.weights[e]),
                      std::move(tokens.rows[e])});
    neuron += sizes_[e];
  }
  if (shared_ > 0) {
    std::vector<std::int64_t> all = all_rows(targets.rows());
    const std::vector<float> ones(all.size(), 1.0f);
    blocks.push_back({first_unknown(sizes_.size()),
                      weighted_rows(activations, neuron, shared_, false, all, ones),
                      std::move(all)});
  }
  equations_.add(blocks, targets);
}

void DownRefitter::add_ranks(Communicator& world) { equations_.add_ranks(world); }

DownRefit DownRefitter::solve(double ridge, const Tensor& down, Communicator* world) const {
  const std::int64_t experts = std::int64_t(sizes_.size()), neurons = routed_ + shared_;
  MOE_CHECK(down.rows() == neurons, "down has ", down.rows(), " neurons, not ", neurons);
  // Moves rows between the order of neurons with biases apart and that of the unknowns.
  const auto each_run = [&](const auto& neuron_rows, const auto& bias_row) {
    std::int64_t neuron = 0;
    for (std::size_t e = 0; e < sizes_.size(); ++e) {
      neuron_rows(neuron, first_unknown(e), sizes_[e]);
      neuron += sizes_[e];
      if (bias_ == 1) bias_row(std::int64_t(e), first_unknown(e) + sizes_[e]);
    }
    if (shared_ > 0) neuron_rows(neuron, first_unknown(sizes_.size()), shared_);
  };
  Tensor prior = down;
  if (bias_ == 1) {
    prior = Tensor::zeros({neurons + experts, down.cols()}, DType::f32);
    each_run(
        [&](std::int64_t neuron, std::int64_t unknown, std::int64_t count) {
          prior.slice(unknown, count).copy_from(down.slice(neuron, count));
        },
        [](std::int64_t, std::int64_t) {});
  }
  const Solution solution = equations_.solve(ridge, prior, world);
  DownRefit refit;
  refit.jitter = solution.jitter;
  refit.error = solution.error;
  refit.down = empty_like(down);
  if (bias_ == 1) refit.bias = Tensor::empty({experts, down.cols()}, DType::f32);
  each_run(
      [&](std::int64_t neuron, std::int64_t unknown, std::int64_t count) {
        refit.down.slice(neuron, count).copy_from(solution.w.slice(unknown, count));
        if (solution.dependent >= unknown && solution.dependent < unknown + count)
          refit.dependent = neuron + solution.dependent - unknown;
      },
      [&](std::int64_t expert, std::int64_t unknown) {
        refit.bias.slice(expert, 1).copy_from(solution.w.slice(unknown, 1));
      });
  return refit;
}

}  // namespace moe
