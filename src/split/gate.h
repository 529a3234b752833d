// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "config/model_config.h"
#include "config/model_parameters.h"

namespace moe {

/// How the routers of a new mixture of experts begin.
enum class GateInit : std::uint8_t {
  mlp,     // LLaMA-MoE v1's: W2 tanh(W1 x), both N(0, initializer_range^2)
  linear,  // W x, N(0, initializer_range^2)
  zeros,   // W x with W = 0: with k = E and scale E the model computes what the dense one does
  // From calibration text (split/split_plan.h):
  centers,        // W: the centres of clusters of the layer's inputs
  select,         // mlp, trained to predict the experts that fire most: LLaMA-MoE v1's "select"
  select_linear,  // the same with a linear gate
  logistic,       // W (and b where the format has room): each expert's logistic regression on being
                  // among the k whose outputs are longest (split/logistic_router.h)
  representative,  // one neuron of each expert answers for it (CMoE): for comparison, in no format
};

/// What name() says; throws InputError otherwise.
GateInit gate_init_named(std::string_view text);
const char* name(GateInit init);
GateKind gate_kind(GateInit init);

/// Whether `parameter` (config/model_parameters.h) belongs to a router, of the attention or not.
bool is_router_parameter(const std::string& parameter);
/// Whether it belongs to a router of the attention.
bool is_attention_router_parameter(const std::string& parameter);

/// The weights of new routers, f32: random for mlp and linear, else zeros. Element i of a parameter
/// depends on (seed, name, i) alone. Noise weights are zeros: softplus(0) + epsilon is the noise
/// that LLaMA-MoE v1 starts from.
ParameterRows gate_weights(const ModelConfig& config, GateInit init, std::uint64_t seed);

}  // namespace moe
