// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "core/tensor.h"

namespace moe {

/// Who holds a parameter: every rank, or the ranks of the expert's data group.
enum class Placement : std::uint8_t { replicated, expert };

enum class Initial : std::uint8_t { normal, ones, zeros };

/// One parameter of a model, as every file of ours and every program names it.
///
///   embed.weight [V, H]
///   layers.N.attention_norm.weight [H]
///   layers.N.attention.{q,k,v}.weight [heads*d, H]   layers.N.attention.o.weight [H, heads*d]
///   layers.N.attention.router.* like layers.N.router.*              experts in the attention
///   layers.N.attention.experts.{q,o}.weight [heads*d, H]           of routed queries: no q, o
///   above layers.N.attention.experts.{k,v}.weight [E*kv_heads_e*d, H]    of routed heads: no k, v
///   either layers.N.ffn_norm.weight [H] layers.N.ffn.{gate,up,down}.weight [I, H] dense FFN
///   layers.N.experts.{gate,up,down}.weight [sum of sizes, H]       experts, one after the other
///   layers.N.experts.bias [E, H]                                   with expert_bias
///   layers.N.shared.{gate,up,down}.weight [sum of sizes, H]        shared experts
///   layers.N.shared_router.weight [shared experts, H]              with shared_gate
///   layers.N.router.weight [E, H]                                  linear gate
///   layers.N.router.bias [E]                                       with gate_bias
///   layers.N.router.hidden.weight [E, H], .output.weight [E, E]    mlp gate
///   layers.N.router.noise.weight [E, H]                            with gate_noise
///   layers.N.router.selection_bias [E]                             with selection_bias
///   layers.N.router.weight_scale [E]                               with unit_weights
///   norm.weight [H]
///   head.weight [V, H]                                             unless tied
///
/// FFN weights are neuron-major: row n of gate, up and down belongs to neuron n, so `down` is the
/// transpose of Hugging Face's down_proj. Experts of the attention lie one after the other in the
/// same way, head by head: row n of o belongs to output n of the heads, so it is the transpose of
/// the dense o. They stand on every rank, and each has kv_heads_e (ModelConfig::expert_kv_heads)
/// key/value heads. Biases of experts are replicated, too: few numbers, added where experts meet.
struct ParameterSpec {
  std::string name;
  std::vector<std::int64_t> shape;
  Placement placement = Placement::replicated;
  Initial initial = Initial::normal;
  /// AdamW's weight decay applies: all but norms and biases (LLaMA-MoE v1).
  bool decay = true;
  /// For expert parameters, the first row of each expert and the total: E + 1 offsets.
  std::vector<std::int64_t> expert_offsets = {};
  /// Gradient descent changes it. Others are set by rules of their own; they are replicated and
  /// kept in the accumulator's type, so that bf16 never rounds them.
  bool trained = true;
  /// The share of it that one token uses (ParameterCounts::activated).
  double activated = 1;
};

/// Gives rows [first, first + count) of a parameter, in any floating-point type: how model folders,
/// checkpoints, splits and random initial weights hand parameters to one another.
using ParameterRows =
    std::function<Tensor(const std::string& name, std::int64_t first, std::int64_t count)>;

/// All parameters in the order of the forward pass.
std::vector<ParameterSpec> model_parameters(const ModelConfig& config);

}  // namespace moe
