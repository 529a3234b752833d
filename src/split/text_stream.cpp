// SPDX-License-Identifier: Apache-2.0
#include "split/text_stream.h"

#include "core/error.h"
#include "kernels/backend.h"
#include "ops/elementwise.h"

namespace moe {

TextStream::TextStream(const ModelFolder& dense, const CalibrationText& text)
    : text_(&text), x_(embed(dense, text)) {}

Tensor TextStream::attention_input(const DenseLayer& layer) const {
  const NoTape no_recording;
  std::vector<Tensor> inputs;
  for (const Tensor& x : x_) inputs.push_back(layer.attention_input(Variable::constant(x)).value);
  return without_padding(inputs, *text_);
}

void TextStream::attend(const DenseLayer& layer) {
  const NoTape no_recording;
  for (std::size_t b = 0; b < x_.size(); ++b) {
    const Tensor& ids = text_->batches[b].tokens;
    x_[b] = layer.after_attention(Variable::constant(x_[b]), ids.rows(), ids.cols()).value;
  }
}

Tensor TextStream::ffn_input(const DenseLayer& layer) const {
  const NoTape no_recording;
  std::vector<Tensor> inputs;
  for (const Tensor& x : x_) inputs.push_back(layer.ffn_input(Variable::constant(x)).value);
  return without_padding(inputs, *text_);
}

void TextStream::add(const Tensor& y) {
  MOE_CHECK(y.rows() == text_->tokens, y.rows(), " rows for ", text_->tokens, " tokens");
  std::int64_t row = 0;
  for (std::size_t b = 0; b < x_.size(); ++b) {
    const auto* ids = text_->batches[b].tokens.data<std::int32_t>();
    for (std::int64_t t = 0; t < x_[b].rows(); ++t) {
      if (ids[t] < 0) continue;
      Tensor to = x_[b].slice(t, 1);
      backend(Device::cpu).add_into(to, y.slice(row++, 1));
    }
  }
}

void TextStream::add_dense_ffn(const DenseLayer& layer) {
  const NoTape no_recording;
  for (Tensor& x : x_) {
    const Tensor u = layer.ffn_input(Variable::constant(x)).value;
    backend(Device::cpu)
        .gemm(x, ffn_activations(u, layer.gate(), layer.up()), false, layer.down(), false, 1);
  }
}

}  // namespace moe
