// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "split/calibration.h"

namespace moe {

/// A text on its way through a model of which one layer is in memory at a time: its residual
/// stream, f32. Whoever moves it decides what stands in for a layer's FFN. Rows that it gives and
/// takes are this rank's tokens without padding: [tokens, hidden].
class TextStream {
 public:
  /// Behind the embeddings. Both must outlive it.
  TextStream(const ModelFolder& dense, const CalibrationText& text);

  /// What the layer's attention is given.
  Tensor attention_input(const DenseLayer& layer) const;
  /// Moves on over the layer's attention.
  void attend(const DenseLayer& layer);
  /// What the layer's FFN is given.
  Tensor ffn_input(const DenseLayer& layer) const;
  /// Moves on over an FFN that gives y.
  void add(const Tensor& y);
  /// Moves on over the dense FFN.
  void add_dense_ffn(const DenseLayer& layer);

  Tensor rows() const { return without_padding(x_, *text_); }
  const CalibrationText& text() const { return *text_; }

 private:
  const CalibrationText* text_;
  std::vector<Tensor> x_;  // of each batch: [sequences * length, hidden], with padding
};

}  // namespace moe
