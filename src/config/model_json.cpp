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
  f("experts", c.moe.experts);
  f("top_k", c.moe.top_k);
  f("expert_sizes", c.moe.expert_sizes);
  f("shared_sizes", c.moe.shared_sizes);
  f("shared_gate", c.moe.shared_gate);
  f("shared_scale", c.moe.shared_scale);
  f("gate_bias", c.moe.gate_bias);
  f("gate_noise", c.moe.gate_noise);
  f("noise_epsilon", c.moe.noise_epsilon);
  f("softmax_over_all", c.moe.softmax_over_all);
  f("score_scale", c.moe.score_scale);
}

}  // namespace

std::string model_config_to_json(const ModelConfig& config) {
  nlohmann::ordered_json j;
  fields(config, [&](const char* key, const auto& value) { j[key] = value; });
  j["selection_bias"] = config.moe.selection_bias;
  j["rope_scaling"] = name_of(config.rope_scaling.kind);
  j["gate"] = config.moe.gate == GateKind::linear ? "linear" : "mlp";
  return j.dump(1) + "\n";
}

ModelConfig model_config_from_json(const std::string& text, const std::string& where) {
  ModelConfig c;
  try {
    const json j = json::parse(text);
    fields(c, [&](const char* key, auto& value) { j.at(key).get_to(value); });
    // Models written before there was such a bias do not say.
    c.moe.selection_bias = j.value("selection_bias", false);
    const auto rope = j.at("rope_scaling").get<std::string>();
    bool known = false;
    for (const auto kind :
         {RopeScaling::Kind::none, RopeScaling::Kind::linear, RopeScaling::Kind::llama3})
      if (rope == name_of(kind)) c.rope_scaling.kind = kind, known = true;
    MOE_REQUIRE(known, "unknown rope_scaling '", rope, "'");
    const auto gate = j.at("gate").get<std::string>();
    MOE_REQUIRE(gate == "linear" || gate == "mlp", "unknown gate '", gate, "'");
    c.moe.gate = gate == "linear" ? GateKind::linear : GateKind::mlp;
    c.validate();
  } catch (const json::exception& e) {
    throw InputError(str(where, ": ", e.what()));
  } catch (const InputError& e) {
    throw InputError(str(where, ": ", e.what()));
  }
  return c;
}

}  // namespace moe
