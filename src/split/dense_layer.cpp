// SPDX-License-Identifier: Apache-2.0
#include "split/dense_layer.h"

#include "kernels/backend.h"
#include "ops/elementwise.h"
#include "ops/norm.h"

namespace moe {
namespace {

ModelConfig one_layer(ModelConfig c) {
  c.layers = 1;
  c.vocab_size = 1;  // embedding and head belong to no layer
  c.tie_embeddings = true;
  return c;
}

ParameterStore constants(const ModelFolder& dense, const ModelConfig& config, std::int64_t layer) {
  constexpr std::string_view kOnly = "layers.0.";
  ParameterStore store(config, DType::f32);
  store.load([&](const std::string& name, std::int64_t first, std::int64_t count) {
    if (name == "norm.weight") return Tensor::zeros({count}, DType::f32);
    if (name == "embed.weight") return Tensor::zeros({count, config.hidden_size}, DType::f32);
    return dense.read(str("layers.", layer, ".", name.substr(kOnly.size())), first, count,
                      DType::f32);
  });
  for (Parameter& p : store.all()) p.variable.slot.reset();
  return store;
}

}  // namespace

DenseLayer::DenseLayer(const ModelFolder& dense, std::int64_t layer)
    : config_(one_layer(dense.config())),
      parameters_(constants(dense, config_, layer)),
      attention_(config_, parameters_, 0),
      attention_norm_(parameters_["layers.0.attention_norm.weight"]),
      ffn_norm_(parameters_["layers.0.ffn_norm.weight"]),
      gate_(parameters_["layers.0.ffn.gate.weight"].value),
      up_(parameters_["layers.0.ffn.up.weight"].value),
      down_(parameters_["layers.0.ffn.down.weight"].value) {}

Variable DenseLayer::attention_input(const Variable& x) const {
  return ops::rmsnorm(x, attention_norm_, config_.rms_norm_eps);
}

Variable DenseLayer::after_attention(const Variable& x, std::int64_t sequences,
                                     std::int64_t length) const {
  if (!tables_.cos.defined() || tables_.cos.rows() < length)
    tables_ = rope_tables(config_, length, DType::f32);
  ForwardContext context;
  context.sequences = sequences;
  context.length = length;
  return ops::add(x, attention_.forward(attention_input(x), tables_, context, {}));
}

Variable DenseLayer::ffn_input(const Variable& after_attention) const {
  return ops::rmsnorm(after_attention, ffn_norm_, config_.rms_norm_eps);
}

Tensor ffn_activations(const Tensor& u, const Tensor& gate, const Tensor& up) {
  Backend& device = backend(Device::cpu);
  Tensor g = Tensor::empty({u.rows(), gate.rows()}, DType::f32), h = empty_like(g);
  device.gemm(g, u, false, gate, true, 0);
  device.gemm(h, u, false, up, true, 0);
  device.swiglu_forward(h, g, h);
  return h;
}

}  // namespace moe
