// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/held_out.h"
#include "train/model_source.h"

namespace moe {

/// How far two models' logits are apart on some text, and where that begins.
struct ModelDifference {
  std::int64_t tokens = 0;
  double largest = 0;        // |a - b| over all logits
  double largest_logit = 0;  // of model A, for scale
  /// The first layer after which the residual streams differ by more than `tolerance` times their
  /// largest logit (as logits of the models cut off there); -1: already the embeddings do; the
  /// number of layers: only the final norm or the head do. Nothing: they agree.
  std::optional<std::int64_t> first_layer;
  /// The first parameter, in the order of the forward pass, that both have but with other values or
  /// another shape, or that only one has; empty: none.
  std::string first_parameter;
};

/// Compares in f64 or f32 on up to `sequences` sequences. Throws InputError when the vocabularies
/// differ.
ModelDifference compare_models(const ModelSource& a, const ModelSource& b, const HeldOut& text,
                               std::int64_t sequences, DType dtype, double tolerance);

}  // namespace moe
