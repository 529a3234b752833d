// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "data/token_stream.h"
#include "hf/model_folder.h"
#include "nn/attention.h"

namespace moe {

/// One layer of a dense model in f32, for running calibration text through it. Its weights are read
/// when it is made and want no gradients.
class DenseLayer {
 public:
  DenseLayer(const ModelFolder& dense, std::int64_t layer);
  DenseLayer(const DenseLayer&) = delete;
  DenseLayer& operator=(const DenseLayer&) = delete;

  /// What the attention is given: norm(x). x: f32[sequences * length, hidden].
  Variable attention_input(const Variable& x) const;
  /// x + attention(norm(x)).
  Variable after_attention(const Variable& x, std::int64_t sequences, std::int64_t length) const;
  /// What the FFN is given: norm(after_attention).
  Variable ffn_input(const Variable& after_attention) const;

  /// f32 [neurons, hidden] each.
  const Tensor& gate() const { return gate_; }
  const Tensor& up() const { return up_; }
  const Tensor& down() const { return down_; }

 private:
  ModelConfig config_;  // of a model of this layer alone
  ParameterStore parameters_;
  Attention attention_;
  Variable attention_norm_, ffn_norm_;
  Tensor gate_, up_, down_;
  mutable ops::RopeTables tables_;  // grown on demand
};

/// The neurons' activations silu(u gate^T) * (u up^T): f32 [rows of u, neurons].
Tensor ffn_activations(const Tensor& u, const Tensor& gate, const Tensor& up);

}  // namespace moe
