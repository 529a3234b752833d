// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "config/model_config.h"
#include "nn/forward_context.h"

namespace moe {

class Communicator;
struct ModelLoss;
struct StepResult;

/// What a step counts and sums, first on this rank over its micro-batches, then over all ranks.
class StepStatistics {
 public:
  /// device: the model's.
  StepStatistics(const ModelConfig& config, std::int64_t domains, Device device);

  /// labels: i32[sequences, length]; domains: of each sequence. Tensors are read by finish():
  /// nothing waits for the device before.
  void add_tokens(const ModelLoss& loss, const Tensor& labels,
                  std::span<const std::int32_t> domains);

  /// For ForwardContext::statistics; nullptr for a dense model.
  RouterStatistics* routers() { return routers_ ? &*routers_ : nullptr; }
  RouterStatistics* attention_routers() {
    return attention_routers_ ? &*attention_routers_ : nullptr;
  }

  /// Sums over ranks in one collective, then fills in what StepResult says of losses and routing.
  /// labelled: scored tokens of the global batch. Collective.
  void finish(Communicator& world, std::int64_t labelled, StepResult& result);

 private:
  struct Tokens {
    Tensor loss, divergence, labels;
    std::vector<std::int32_t> domains;
  };
  void count(const Tokens& tokens);

  std::vector<Tokens> tokens_;
  std::vector<double> domain_loss_, domain_tokens_;
  bool taught_ = false;
  double divergence_ = 0;  // summed over tokens
  std::optional<RouterStatistics> routers_, attention_routers_;
};

}  // namespace moe
