// SPDX-License-Identifier: Apache-2.0
#include "config/train_config.h"
#include "core/error.h"

namespace moe {
namespace {

template <class T>
T needed(const std::optional<T>& value, const char* key) {
  MOE_REQUIRE(value.has_value(), "model.", key, " is needed when model.init_from is empty");
  return *value;
}

/// How messages name the settings of one kind of routers.
struct RouterKeys {
  const char *section, *router, *where;
};
constexpr RouterKeys kFfnKeys = {"model.", "router.", ""};
constexpr RouterKeys kAttentionKeys = {"model.attention.", "attention_router.",
                                       " in its attention"};

void apply_router_settings(const TrainConfig::RouterSettings& m, const RouterOptions& options,
                           std::int64_t layers, const RouterKeys& keys, RouterConfig& loaded) {
  MOE_REQUIRE(!m.experts || *m.experts == loaded.experts, keys.section, "experts is ", *m.experts,
              " but the loaded model has ", loaded.experts);
  if (loaded.experts == 0) {
    MOE_REQUIRE(!m.top_k && !m.gate && !m.gate_noise && (!m.score_scale || *m.score_scale == 0) &&
                    !m.softmax_over_all,
                keys.section,
                "top_k, gate, gate_noise, score_scale and softmax_over_all need a model with "
                "experts",
                keys.where);
    MOE_REQUIRE(options.bias_update_rate == 0 && !options.top_k_from && options.refresh_every == 0,
                keys.router,
                "bias_update_rate, top_k_from and refresh_every need a model with experts",
                keys.where);
    return;
  }
  MOE_REQUIRE(!m.gate || *m.gate == loaded.gate, keys.section,
              "gate differs from the loaded model's gate");
  MOE_REQUIRE(options.refresh_every == 0 || loaded.gate == GateKind::linear, keys.router,
              "refresh_every needs linear gates, the loaded model's are mlp");
  if (options.bias_update_rate > 0) loaded.selection_bias = true;
  loaded.top_k = m.top_k.value_or(loaded.top_k);
  MOE_REQUIRE(loaded.top_k >= 1 && loaded.top_k <= loaded.experts, keys.section,
              "top_k must lie between 1 and the number of experts (", loaded.experts, "), is ",
              loaded.top_k);
  MOE_REQUIRE(options.top_k_from.value_or(0) <= loaded.experts, keys.router, "top_k_from is ",
              *options.top_k_from, ", the model has ", loaded.experts, " experts", keys.where);
  loaded.gate_noise = m.gate_noise.value_or(loaded.gate_noise);
  // With k = 1 a softmax over the chosen expert is the constant 1: the router would learn nothing.
  loaded.softmax_over_all = m.softmax_over_all.value_or(
      !loaded.unit_weights && (loaded.softmax_over_all || loaded.top_k == 1));
  MOE_REQUIRE(!loaded.unit_weights || !loaded.softmax_over_all, keys.section,
              "softmax_over_all: the loaded model's weights are 1 + s p (unit_weights)");
  MOE_REQUIRE(!m.score_scale || *m.score_scale >= 0, keys.section,
              "score_scale must not be negative, is ", *m.score_scale);
  if (!m.score_scale) return;
  const double scale =
      *m.score_scale == 0 ? double(loaded.experts) / double(loaded.top_k) : *m.score_scale;
  loaded.score_scale.assign(std::size_t(layers), scale);
}

}  // namespace

ModelConfig model_from(const TrainConfig& config) {
  const TrainConfig::Model& m = config.model;
  ModelConfig c;
  c.vocab_size = needed(m.vocab_size, "vocab_size");
  c.hidden_size = needed(m.hidden_size, "hidden_size");
  c.intermediate_size = needed(m.intermediate_size, "intermediate_size");
  c.layers = needed(m.layers, "layers");
  c.heads = needed(m.heads, "heads");
  c.kv_heads = m.kv_heads.value_or(c.heads);
  MOE_REQUIRE(c.heads > 0 && c.hidden_size % c.heads == 0, "model.hidden_size (", c.hidden_size,
              ") must be a multiple of model.heads (", c.heads, ")");
  MOE_REQUIRE(c.layers > 0, "model.layers must be positive, is ", c.layers);
  c.head_dim = c.hidden_size / c.heads;
  c.max_positions = m.max_positions.value_or(c.max_positions);
  c.rms_norm_eps = m.rms_norm_eps.value_or(c.rms_norm_eps);
  c.rope_theta = m.rope_theta.value_or(c.rope_theta);
  c.tie_embeddings = m.tie_embeddings.value_or(c.tie_embeddings);
  MOE_REQUIRE(config.data.sequence_length <= c.max_positions, "data.sequence_length (",
              config.data.sequence_length, ") exceeds model.max_positions (", c.max_positions, ")");

  c.moe.experts = m.experts.value_or(0);
  MOE_REQUIRE(c.moe.experts >= 0, "model.experts must not be negative, is ", c.moe.experts);
  c.moe.gate = m.gate.value_or(c.moe.gate);
  if (c.is_moe()) {
    MOE_REQUIRE(c.moe.experts <= c.intermediate_size, "model.experts (", c.moe.experts,
                ") exceeds model.intermediate_size (", c.intermediate_size, ")");
    std::vector<std::int64_t> sizes(std::size_t(c.moe.experts),
                                    c.intermediate_size / c.moe.experts);
    for (std::int64_t e = 0; e < c.intermediate_size % c.moe.experts; ++e) ++sizes[std::size_t(e)];
    c.moe.expert_sizes.assign(std::size_t(c.layers), sizes);
    c.moe.score_scale.assign(std::size_t(c.layers), 1);
  }
  c.attention_moe.experts = m.attention.experts.value_or(0);
  MOE_REQUIRE(c.attention_moe.experts >= 0, "model.attention.experts must not be negative, is ",
              c.attention_moe.experts);
  if (c.is_attention_moe()) {
    c.attention_moe.kind = m.attention.kind.value_or(c.attention_moe.kind);
    c.attention_moe.gate = m.attention.gate.value_or(c.attention_moe.gate);
    c.attention_moe.layers.assign(std::size_t(c.layers), true);
    c.attention_moe.score_scale.assign(std::size_t(c.layers), 1);
  }
  TrainConfig settings = config;
  if (c.is_moe() && !m.score_scale) settings.model.score_scale = 0;
  if (c.is_attention_moe() && !m.attention.score_scale) settings.model.attention.score_scale = 0;
  apply_model_settings(settings, c);
  return c;
}

void apply_model_settings(const TrainConfig& config, ModelConfig& loaded) {
  const TrainConfig::Model& m = config.model;
  const auto agrees = [&](const char* key, const auto& wanted, auto held) {
    MOE_REQUIRE(!wanted || *wanted == held, "model.", key, " is ", *wanted,
                " but the loaded model has ", held);
  };
  agrees("vocab_size", m.vocab_size, loaded.vocab_size);
  agrees("hidden_size", m.hidden_size, loaded.hidden_size);
  agrees("intermediate_size", m.intermediate_size, loaded.intermediate_size);
  agrees("layers", m.layers, loaded.layers);
  agrees("heads", m.heads, loaded.heads);
  agrees("kv_heads", m.kv_heads, loaded.kv_heads);
  agrees("max_positions", m.max_positions, loaded.max_positions);
  agrees("rms_norm_eps", m.rms_norm_eps, loaded.rms_norm_eps);
  agrees("rope_theta", m.rope_theta, loaded.rope_theta);
  agrees("tie_embeddings", m.tie_embeddings, loaded.tie_embeddings);
  MOE_REQUIRE(!m.attention.kind || !loaded.is_attention_moe() ||
                  *m.attention.kind == loaded.attention_moe.kind,
              "model.attention.kind differs from the loaded model's");
  apply_router_settings(m, config.router, loaded.layers, kFfnKeys, loaded.moe);
  apply_router_settings(m.attention, config.attention_router, loaded.layers, kAttentionKeys,
                        loaded.attention_moe);
  loaded.validate();
}

ModelConfig model_in_step(const TrainConfig& config, ModelConfig model, std::int64_t step) {
  const auto set = [step](const RouterOptions& options, RouterConfig& router) {
    router.top_k = options.top_k_in(step, router.top_k, router.experts);
  };
  if (model.is_moe()) set(config.router, model.moe);
  if (model.is_attention_moe()) set(config.attention_router, model.attention_moe);
  return model;
}

}  // namespace moe
