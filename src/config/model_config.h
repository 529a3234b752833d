// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe {

enum class GateKind : std::uint8_t {
  linear,  // logits = W x
  mlp,     // logits = W2 tanh(W1 x): LLaMA-MoE v1
};

/// Frequencies of rotary positions (docs/numerics.md). `llama3` is LLaMA-3.1's rescaling.
struct RopeScaling {
  enum class Kind : std::uint8_t { none, linear, llama3 } kind = Kind::none;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;
  std::int64_t original_max_position = 8192;
};

/// How the tokens of a layer choose `top_k` of `experts`. `experts` = 0: nothing to choose.
struct RouterConfig {
  std::int64_t experts = 0;
  std::int64_t top_k = 2;
  GateKind gate = GateKind::mlp;
  bool gate_bias = false;  // linear gate: logits = W x + b
  /// Experts are chosen by softmax + a bias per expert, which weights do not see and gradients do
  /// not reach: loss-free balancing (DeepSeek-V3). Nothing to do with gate_bias.
  bool selection_bias = false;
  /// Noisy top-k gating in training (Shazeer et al. 2017): the checkpoint holds noise weights.
  bool gate_noise = true;
  double noise_epsilon = 1e-2;
  /// Weights of the chosen experts: softmax over the chosen logits, or over all (k = 1 needs it).
  bool softmax_over_all = false;
  /// Weights of the chosen experts: 1 + s_e p_e, p the softmax over all logits and s learned, from
  /// 0 (CMoE): a sum of experts, which the gate can sharpen. Not with softmax_over_all.
  bool unit_weights = false;
  /// Factor on every expert's output, per layer: E/k keeps the dense model's magnitude.
  std::vector<double> score_scale;
};

/// The experts of the feed-forward. `experts` = 0: a dense FFN.
struct MoeConfig : RouterConfig {
  /// Neurons of each expert: [layers][experts]; a layer that lists none is dense. Their sum per
  /// layer need not equal intermediate_size (copied or dropped neurons).
  std::vector<std::vector<std::int64_t>> expert_sizes;
  /// Neurons of each shared expert, which every token visits: [layers][shared experts of the
  /// layer]; empty: no layer has any.
  std::vector<std::vector<std::int64_t>> shared_sizes;
  /// Shared experts are added as they are (LLaMA-MoE v2), or weighed by the softmax of a linear
  /// gate of their own times shared_scale (LLaMA-MoE v1's residual block).
  bool shared_gate = false;
  double shared_scale = 1;
  /// Every routed expert adds a vector of its own to its output: what stands for the experts that a
  /// token did not choose.
  bool expert_bias = false;
};

/// What an expert of the attention is (docs/numerics.md).
enum class AttentionExpert : std::uint8_t {
  queries,  // the same query heads of every key/value head; keys and values are dense
  heads,    // key/value heads with their queries, or a share of one head's queries with a copy of
            // it; sees only tokens that chose the same expert (LLaMA-MoE v2)
};

/// The experts of the attention. `experts` = 0: dense attention.
struct AttentionMoeConfig : RouterConfig {
  AttentionExpert kind = AttentionExpert::queries;
  std::vector<bool> layers;  // which layers have them

  AttentionMoeConfig() { gate = GateKind::linear, gate_noise = false; }
};

/// Architecture of a LLaMA, dense or with experts. What a checkpoint's config.json says.
struct ModelConfig {
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;  // FFN neurons of the dense model
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;  // hidden_size / heads unless stated
  std::int64_t max_positions = 2048;
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tie_embeddings = false;
  double initializer_range = 0.02;
  std::int64_t bos_token = 1, eos_token = 2, pad_token = -1;  // -1: none
  MoeConfig moe;
  AttentionMoeConfig attention_moe;

  /// Whether any layer's feed-forward has experts.
  bool is_moe() const { return moe.experts > 0; }
  /// Whether this layer's feed-forward has experts.
  bool is_moe_layer(std::int64_t layer) const;
  /// Whether any layer's attention has experts.
  bool is_attention_moe() const { return attention_moe.experts > 0; }
  /// Whether this layer's attention has experts.
  bool is_attention_moe_layer(std::int64_t layer) const;
  /// Query heads, and key/value heads, that the rows of one expert of the attention have. Those of
  /// routed queries see all key/value heads.
  std::int64_t expert_heads() const { return heads / attention_moe.experts; }
  std::int64_t expert_kv_heads() const;
  /// Neurons of each routed expert of a layer; a dense FFN counts as one expert.
  std::vector<std::int64_t> layer_expert_sizes(std::int64_t layer) const;
  /// Neurons of each shared expert of a layer.
  std::vector<std::int64_t> layer_shared_sizes(std::int64_t layer) const;
  /// Throws InputError naming the first field that cannot be.
  void validate() const;
};

/// Parameters of a model. `activated` leaves out the experts that one token does not use (k experts
/// of average size stay; of the attention too) and the noise weights; embeddings, output head,
/// shared experts and dense layers are counted whole.
/// LLaMA-MoE-3.5B (2/8): 3.493 B activated.
struct ParameterCounts {
  std::int64_t total = 0;
  std::int64_t activated = 0;
};
ParameterCounts count_parameters(const ModelConfig& config);

}  // namespace moe
