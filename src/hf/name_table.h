// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/model_parameters.h"
#include "core/tensor.h"
#include "hf/model_format.h"

namespace moe {

/// One tensor of a model folder: rows [first_row, first_row + rows) of a parameter of ours.
struct StoredPiece {
  std::string tensor;
  Shape shape;  // as stored: [rows, cols], [cols, rows] when transposed, or [rows] for a norm
  std::int64_t first_row = 0, rows = 0;
  bool transposed = false;
  double scale = 1;              // the parameter's rows times this are what a written folder stores
  std::string alternative = {};  // another name that folders written elsewhere may use
  bool keeps_f32 = false;        // not rounded to a folder's 16-bit type

  /// The type it has in a folder written as `folder`.
  DType stored_as(DType folder) const {
    return keeps_f32 && size_of(folder) < size_of(DType::f32) ? DType::f32 : folder;
  }
};

/// Where a folder keeps a parameter: pieces in the order of their rows, covering all of them.
struct StoredParameter {
  std::string parameter;
  std::int64_t rows = 0, cols = 0;  // cols is 1 for a norm
  std::vector<StoredPiece> pieces;
};

/// The tensors of a model in a format, in the order of the forward pass; the model must be in the
/// format's terms (expressed_in). Alternatives: the head for a tied embedding, and mlp.*_proj for
/// LLaMA-MoE v2's dense layers, whose converter leaves the names that its model does not read.
std::vector<StoredParameter> stored_parameters(const ModelConfig& config, ModelFormat format);

/// Tensors that LLaMA-MoE v1's folders hold besides, which are no parameters: the rotary
/// frequencies of every layer, model.layers.N.self_attn.rotary_emb.inv_freq [head_dim / 2], here
/// layers.N.attention.inv_freq. Written because its code expects them; never needed in reading.
/// Empty for other formats, and for rotary scalings that v1 does not know.
std::vector<StoredParameter> computed_tensors(const ModelConfig& config, ModelFormat format);
/// Element j of those: theta^(-2j / head_dim). f32.
Tensor rotary_frequencies(const ModelConfig& config);

}  // namespace moe
