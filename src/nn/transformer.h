// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "nn/attention.h"
#include "nn/moe_layer.h"
#include "nn/routed_attention.h"
#include "ops/loss.h"

namespace moe {

/// Loss of the tokens of this rank, already divided by the global batch's counts: summing over
/// ranks and micro-batches gives the global batch's mean.
struct ModelLoss {
  Variable total;     // acc[1]: cross-entropy, what a teacher adds, and router losses
  Tensor token_loss;  // acc[tokens]: each token's cross-entropy, 0 where not scored
  Tensor
      token_divergence;  // acc[tokens]: KL(teacher || student), 0 there too; undefined: no teacher
};

/// A LLaMA (Touvron et al. 2023), dense or with experts: embedding, then per layer attention and
/// feed-forward behind RMS norms with residual connections, final norm, output head.
class Transformer {
 public:
  /// Keeps references to all three.
  Transformer(const ModelConfig& config, const ParameterStore& parameters, const ProcessGrid& grid);

  /// Mean cross-entropy over labelled tokens plus router losses. tokens: i32[sequences, length],
  /// -1: padding; labels: the same shape, -1: not scored. inverse_labels: 1 / scored tokens of the
  /// global batch. `taught`: what a teacher made of these tokens, if there is one (ops/loss.h).
  ModelLoss loss(const Tensor& tokens, const Tensor& labels, double inverse_labels,
                 ForwardContext context, const ops::Taught& taught = {}) const;

  /// T[tokens, hidden], after the final norm: what the output head reads. Nothing is recorded.
  Tensor hidden_states(const Tensor& tokens, ForwardContext context) const;
  /// T[vocabulary, hidden].
  const Tensor& head() const { return head_.value; }

  /// acc[tokens, vocabulary]. `caches` (one per sequence, or none) hold what came before, and then
  /// these tokens too; none of them may be padding.
  Tensor logits(const Tensor& tokens, ForwardContext context, KvCaches caches = {}) const;
  /// acc[places, vocabulary]: of the tokens at these places of the flattened batch alone.
  Tensor logits_at(const Tensor& tokens, const std::vector<std::int32_t>& places,
                   ForwardContext context, KvCaches caches = {}) const;

  /// Called in every forward pass before weights are read that no earlier call named: the first
  /// `count` parameters of the store. For weights that may still be on their way.
  using WeightsNeeded = std::function<void(std::size_t count)>;
  void set_weights_needed(WeightsNeeded needed) { weights_needed_ = std::move(needed); }

  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

 private:
  struct Layer {
    Variable attention_norm, ffn_norm;
    std::optional<Attention> attention;
    std::optional<RoutedAttention> routed_attention;
    std::optional<DenseFfn> dense;
    std::optional<MoeLayer> experts;
    std::vector<Variable> parameters;  // the trained ones of the layer, for recompute
    std::size_t parameters_end = 0;    // one behind the layer's last parameter in the store
  };
  struct Hidden {
    Variable x;                  // T[tokens, hidden]
    std::vector<Variable> loss;  // router losses
  };
  /// After the final norm.
  Hidden hidden(const Tensor& tokens, ForwardContext& context, KvCaches caches) const;
  Hidden run_layer(const Layer& layer, const Variable& x, const ForwardContext& context,
                   KvCaches caches) const;
  const ops::RopeTables& tables(std::int64_t positions) const;
  void need(std::size_t parameters) const {
    if (weights_needed_) weights_needed_(parameters);
  }

  const ModelConfig& config_;
  DType dtype_;
  Device device_;
  std::size_t parameter_count_;
  WeightsNeeded weights_needed_;
  Variable embedding_, norm_, head_;
  std::vector<Layer> layers_;
  mutable ops::RopeTables tables_;  // grown on demand
};

}  // namespace moe
