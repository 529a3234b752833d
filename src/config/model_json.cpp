// SPDX-License-Identifier: Apache-2.0
#include "config/model_json.h"

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace moe {
namespace {

using nlohmann::json;

const char* name_of(RopeScaling::Kind kind) {
  switch (kind) {
    case RopeScaling::Kind::none:
      return "none";
    case RopeScaling::Kind::linear:
      return "linear";
    case RopeScaling::Kind::llama3:
      return "llama3";
  }
  return "?";
}

template <class Router, class F>
void router_fields(Router& r, F&& f) {
  f("experts", r.experts);
  f("top_k", r.top_k);
  f("gate_bias", r.gate_bias);
  f("gate_noise", r.gate_noise);
  f("noise_epsilon", r.noise_epsilon);
  f("softmax_over_all", r.softmax_over_all);
  f("score_scale", r.score_scale);
}

/// Calls f(key, member) for every number of a config: the one list that both directions use.
template <class Config, class F>
void fields(Config& c, F&& f) {
  f("vocab_size", c.vocab_size);
  f("hidden_size", c.hidden_size);
  f("intermediate_size", c.intermediate_size);
  f("layers", c.layers);
  f("heads", c.heads);
  f("kv_heads", c.kv_heads);
  f("head_dim", c.head_dim);
  f("max_positions", c.max_positions);
  f("rms_norm_eps", c.rms_norm_eps);
  f("rope_theta", c.rope_theta);
  f("rope_factor", c.rope_scaling.factor);
  f("rope_low_freq_factor", c.rope_scaling.low_freq_factor);
  f("rope_high_freq_factor", c.rope_scaling.high_freq_factor);
  f("rope_original_max_position", c.rope_scaling.original_max_position);
  f("tie_embeddings", c.tie_embeddings);
  f("initializer_range", c.initializer_range);
  f("bos_token", c.bos_token);
  f("eos_token", c.eos_token);
  f("pad_token", c.pad_token);
  router_fields(c.moe, f);
  f("expert_sizes", c.moe.expert_sizes);
  f("shared_sizes", c.moe.shared_sizes);
  f("shared_gate", c.moe.shared_gate);
  f("shared_scale", c.moe.shared_scale);
}

const char* name_of(AttentionExpert kind) {
  return kind == AttentionExpert::queries ? "queries" : "heads";
}

/// What `fields` does not say of a router.
template <class Json>
void write_router(Json& j, const RouterConfig& router) {
  j["selection_bias"] = router.selection_bias;
  j["gate"] = router.gate == GateKind::linear ? "linear" : "mlp";
  if (router.unit_weights) j["unit_weights"] = true;
}

void read_router(const json& j, RouterConfig& router) {
  // Models written before there were such things do not say.
  router.selection_bias = j.value("selection_bias", false);
  router.unit_weights = j.value("unit_weights", false);
  const auto gate = j.at("gate").get<std::string>();
  MOE_REQUIRE(gate == "linear" || gate == "mlp", "unknown gate '", gate, "'");
  router.gate = gate == "linear" ? GateKind::linear : GateKind::mlp;
}

AttentionMoeConfig attention_from(const json& j) {
  AttentionMoeConfig a;
  router_fields(a, [&](const char* key, auto& value) { j.at(key).get_to(value); });
  read_router(j, a);
  j.at("layers").get_to(a.layers);
  const auto kind = j.at("kind").get<std::string>();
  MOE_REQUIRE(kind == "queries" || kind == "heads", "unknown kind '", kind, "' of attention_moe");
  a.kind = kind == "queries" ? AttentionExpert::queries : AttentionExpert::heads;
  MOE_REQUIRE(a.experts > 0, "attention_moe has no experts");
  return a;
}

}  // namespace

std::string model_config_to_json(const ModelConfig& config) {
  nlohmann::ordered_json j;
  fields(config, [&](const char* key, const auto& value) { j[key] = value; });
  write_router(j, config.moe);
  if (config.moe.expert_bias) j["expert_bias"] = true;
  j["rope_scaling"] = name_of(config.rope_scaling.kind);
  if (config.is_attention_moe()) {
    const AttentionMoeConfig& a = config.attention_moe;
    nlohmann::ordered_json& attention = j["attention_moe"];
    attention["kind"] = name_of(a.kind);
    attention["layers"] = a.layers;
    router_fields(a, [&](const char* key, const auto& value) { attention[key] = value; });
    write_router(attention, a);
  }
  return j.dump(1) + "\n";
}

ModelConfig model_config_from_json(const std::string& text, const std::string& where) {
  ModelConfig c;
  try {
    const json j = json::parse(text);
    fields(c, [&](const char* key, auto& value) { j.at(key).get_to(value); });
    read_router(j, c.moe);
    c.moe.expert_bias = j.value("expert_bias", false);
    if (j.contains("attention_moe")) c.attention_moe = attention_from(j.at("attention_moe"));
    const auto rope = j.at("rope_scaling").get<std::string>();
    bool known = false;
    for (const auto kind :
         {RopeScaling::Kind::none, RopeScaling::Kind::linear, RopeScaling::Kind::llama3})
      if (rope == name_of(kind)) c.rope_scaling.kind = kind, known = true;
    MOE_REQUIRE(known, "unknown rope_scaling '", rope, "'");
    c.validate();
  } catch (const json::exception& e) {
    throw InputError(str(where, ": ", e.what()));
  } catch (const InputError& e) {
    throw InputError(str(where, ": ", e.what()));
  }
  return c;
}

}  // namespace moe
