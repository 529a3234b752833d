// SPDX-License-Identifier: Apache-2.0
#include "nn/transformer.h"

#include <algorithm>

#include "autograd/recompute.h"
#include "comm/watchdog.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/norm.h"

namespace moe {
namespace {

/// Tells the context which tokens are padding, if any.
void mark_padding(ForwardContext& context, const Tensor& tokens, Device device) {
  const auto* id = tokens.data<std::int32_t>();
  Tensor valid = Tensor::empty({tokens.size()}, DType::u8);
  context.sequence_tokens.assign(std::size_t(context.sequences), 0);
  for (std::int64_t t = 0; t < tokens.size(); ++t) {
    valid.data<std::uint8_t>()[t] = id[t] >= 0;
    context.sequence_tokens[std::size_t(t / context.length)] += id[t] >= 0;
  }
  const auto& real = context.sequence_tokens;
  const bool padded =
      std::any_of(real.begin(), real.end(), [&](std::int64_t n) { return n < context.length; });
  context.valid = padded ? valid.to(device) : Tensor();
}

/// Takes the documents' starts to the device, once they are known to lie within their rows, and the
/// positions that follow.
void place_documents(ForwardContext& context, const Tensor& tokens, Device device) {
  Tensor& starts = context.document_starts;
  context.positions = {};
  if (!starts.defined()) return;
  MOE_CHECK(starts.shape() == tokens.shape() && starts.dtype() == DType::i32, "document starts ",
            join(starts.shape()), " for tokens ", join(tokens.shape()));
  const auto* start = starts.data<std::int32_t>();
  Tensor positions = Tensor::empty({tokens.size()}, DType::i32);
  for (std::int64_t t = 0; t < tokens.size(); ++t) {
    const std::int64_t place = t % context.length;
    MOE_CHECK(start[t] >= 0 && start[t] <= place, "token ", place, " of row ", t / context.length,
              " is of a document that begins at ", start[t]);
    positions.data<std::int32_t>()[t] = std::int32_t(place - start[t]);
  }
  starts = starts.to(device);
  context.positions = positions.to(device);
}

}  // namespace

Transformer::Transformer(const ModelConfig& config, const ParameterStore& parameters,
                         const ProcessGrid& grid)
    : config_(config),
      dtype_(parameters.dtype()),
      device_(parameters.device()),
      parameter_count_(parameters.all().size()),
      embedding_(parameters["embed.weight"]),
      norm_(parameters["norm.weight"]),
      head_(parameters[config.tie_embeddings ? "embed.weight" : "head.weight"]) {
  for (std::int64_t l = 0; l < config.layers; ++l) {
    const std::string prefix = str("layers.", l, ".");
    Layer layer{parameters[prefix + "attention_norm.weight"],
                parameters[prefix + "ffn_norm.weight"],
                {},
                {},
                {},
                {},
                {},
                0};
    if (config.is_attention_moe_layer(l)) {
      layer.routed_attention.emplace(config, parameters, l, grid.world());
    } else {
      layer.attention.emplace(config, parameters, l);
    }
    if (config.is_moe_layer(l)) {
      layer.experts.emplace(config, parameters, l, grid);
    } else {
      layer.dense.emplace(parameters, l);
    }
    for (std::size_t i = 0; i < parameter_count_; ++i) {
      const Parameter& p = parameters.all()[i];
      if (!p.name().starts_with(prefix)) continue;
      if (p.trained) layer.parameters.push_back(p.variable);
      layer.parameters_end = i + 1;
    }
    layers_.push_back(std::move(layer));
  }
}

const ops::RopeTables& Transformer::tables(std::int64_t positions) const {
  MOE_CHECK(positions <= config_.max_positions, "position ", positions - 1,
            " lies beyond the model's ", config_.max_positions);
  const std::int64_t held = tables_.cos.defined() ? tables_.cos.rows() : 0;
  if (held < positions) {
    MemoryScope scope(MemoryKind::weights);
    // Doubled, so that generation, which asks for one more each time, seldom makes them again.
    tables_ = rope_tables(config_, std::min(config_.max_positions, std::max(positions, 2 * held)),
                          accumulator(dtype_));
    tables_ = {tables_.cos.to(device_), tables_.sin.to(device_)};
  }
  return tables_;
}

Transformer::Hidden Transformer::run_layer(const Layer& layer, const Variable& x,
                                           const ForwardContext& context, KvCaches caches) const {
  const auto norm = [&](const Variable& v, const Variable& weight) {
    return ops::rmsnorm(v, weight, config_.rms_norm_eps, context.recompute == Recompute::cheap);
  };
  Hidden h{x, {}};
  const auto add = [&](const SublayerOutput& out) {
    h.x = ops::add(h.x, out.y);
    if (out.loss.value.defined()) h.loss.push_back(out.loss);
  };
  const Variable before = norm(h.x, layer.attention_norm);
  add(layer.attention
          ? SublayerOutput{layer.attention->forward(before, tables_, context, caches), {}}
          : layer.routed_attention->forward(before, tables_, context, caches));
  const Variable between = norm(h.x, layer.ffn_norm);
  add(layer.experts ? layer.experts->forward(between, context) : layer.dense->forward(between));
  return h;
}

Transformer::Hidden Transformer::hidden(const Tensor& tokens, ForwardContext& context,
                                        KvCaches caches) const {
  context.sequences = tokens.rows();
  context.length = tokens.cols();
  mark_padding(context, tokens, device_);
  place_documents(context, tokens, device_);
  MOE_CHECK(caches.empty() || !context.document_starts.defined(),
            "a key/value cache holds one document");
  MOE_CHECK(caches.empty() || std::int64_t(caches.size()) == context.sequences,
            "one cache per sequence");
  std::int64_t seen = 0;
  for (const KvCache* cache : caches) seen = std::max(seen, cache->length);
  tables(seen + context.length);

  need(1);
  set_phase("embedding");
  Hidden h{ops::embedding(embedding_, tokens), {}};
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    need(layer.parameters_end);
    set_phase("layer", std::int32_t(l));
    if (context.recompute != Recompute::block) {
      Hidden out = run_layer(layer, h.x, context, caches);
      h.x = out.x;
      h.loss.insert(h.loss.end(), out.loss.begin(), out.loss.end());
      continue;
    }
    const Block block = [this, &layer, context](std::span<const Variable> in) {
      Hidden out = run_layer(layer, in[0], context, {});
      out.loss.insert(out.loss.begin(), out.x);
      return out.loss;
    };
    std::vector<Variable> out = recompute(block, std::span(&h.x, 1), layer.parameters);
    h.x = out[0];
    h.loss.insert(h.loss.end(), out.begin() + 1, out.end());
  }
  for (KvCache* cache : caches) cache->length += context.length;
  need(parameter_count_);
  h.x = ops::rmsnorm(h.x, norm_, config_.rms_norm_eps);
  return h;
}

ModelLoss Transformer::loss(const Tensor& tokens, const Tensor& labels, double inverse_labels,
                            ForwardContext context, const ops::Taught& taught) const {
  const Hidden h = hidden(tokens, context, {});
  set_phase("loss");
  const ops::CrossEntropy ce =
      ops::linear_cross_entropy(h.x, head_, labels.to(device_), inverse_labels, taught);
  ModelLoss out{ce.loss, ce.token_loss, ce.token_divergence};
  for (const Variable& term : h.loss) out.total = ops::add(out.total, term);
  return out;
}

Tensor Transformer::hidden_states(const Tensor& tokens, ForwardContext context) const {
  const NoTape no_recording;
  return hidden(tokens, context, {}).x.value;
}

Tensor Transformer::logits_at(const Tensor& tokens, const std::vector<std::int32_t>& places,
                              ForwardContext context, KvCaches caches) const {
  const NoTape no_recording;
  const Variable x = hidden(tokens, context, caches).x;
  const Tensor wanted = Tensor::of<std::int32_t>({std::int64_t(places.size())}, places);
  return ops::linear(ops::embedding(x, wanted), head_, accumulator(dtype_)).value;
}

Tensor Transformer::logits(const Tensor& tokens, ForwardContext context, KvCaches caches) const {
  const NoTape no_recording;
  const Hidden h = hidden(tokens, context, caches);
  return ops::linear(h.x, head_, accumulator(dtype_)).value;
}

}  // namespace moe
