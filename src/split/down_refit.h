// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "split/layer_quality.h"
#include "split/least_squares.h"

namespace moe {

/// The down projection that comes nearest to the targets under the routing that will be used.
struct DownRefit {
  Tensor down;  // f32 [neurons, hidden], in the order of DownRefitter
  Tensor bias;  // f32 [routed experts, hidden]: a chosen expert adds its row; undefined without
  double jitter = 0;            // Solution's
  std::int64_t dependent = -1;  // the same; a neuron, or -1 (also for a bias)
  double error = 0;             // |targets - outputs|^2 / |targets|^2 on the calibration tokens
};

/// Sums over tokens for a DownRefit. Neurons come in this order: those of each routed expert, one
/// expert after the other, then those of shared experts, which every token has. The Gram matrix of
/// two experts costs the tokens that chose both.
class DownRefitter {
 public:
  /// sizes: neurons of each routed expert. With `bias` every routed expert has one.
  DownRefitter(std::vector<std::int64_t> sizes, std::int64_t shared, std::int64_t hidden,
               bool bias);

  /// More tokens. activations: f32 [rows, neurons] of all neurons, whether chosen or not; routing:
  /// what each token chose and by how much an expert counts (weights undefined: by 1); targets: f32
  /// [rows, hidden]. Throws InputError naming the row of a NaN or an infinity.
  void add(const Tensor& activations, const TokenRouting& routing, const Tensor& targets);
  /// Every rank's sums become those of all ranks. Collective, once, after the last add().
  void add_ranks(Communicator& world);

  std::int64_t rows() const { return equations_.rows(); }

  /// The refit with a ridge (NormalEquations::solve) towards the present weights, f32 [neurons,
  /// hidden], and towards biases of zero. With a `world` its ranks share the work.
  DownRefit solve(double ridge, const Tensor& down, Communicator* world = nullptr) const;

 private:
  /// Unknown of a routed expert's first neuron; its bias follows its last.
  std::int64_t first_unknown(std::size_t expert) const;

  std::vector<std::int64_t> sizes_;
  std::int64_t shared_, routed_, bias_;  // neurons, neurons, biases of an expert
  NormalEquations equations_;
};

}  // namespace moe
