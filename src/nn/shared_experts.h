// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config/model_config.h"
#include "nn/parameter_store.h"

namespace moe {

/// The experts of one layer that every token visits, replicated on every rank: added up as they
/// are, or weighed by shared_scale times the softmax of a linear gate of their own (MoeConfig).
class SharedExperts {
 public:
  SharedExperts(const ModelConfig& config, const ParameterStore& parameters, std::int64_t layer);
  /// x: T[tokens, hidden]; the result too.
  Variable forward(const Variable& x) const;

 private:
  double scale_;
  Variable router_;  // [shared experts, H] with shared_gate
  Variable gate_, up_, down_;
  std::vector<std::int64_t> neuron_offsets_;
};

}  // namespace moe
