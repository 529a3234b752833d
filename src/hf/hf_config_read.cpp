// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "hf/hf_config.h"
#include "hf/json_check.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr std::int64_t kMaxDimension = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxLayers = 10'000, kMaxExperts = 1 << 16, kMaxExpertsInAll = 1 << 20;

/// Typed access to one JSON object; messages start with the file and name the field. A null value
/// counts as missing, as it does in transformers.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }
  const json& raw(const char* key) const { return object_[key]; }

  std::int64_t integer(const char* key, std::optional<std::int64_t> otherwise = {}) const {
    if (missing(key, otherwise.has_value())) return *otherwise;
    return as_integer(object_[key], key, 0);
  }
  /// A token id, or the first of a list of them; -1 for none.
  std::int64_t token(const char* key, std::int64_t otherwise) const {
    if (!object_.contains(key)) return otherwise;
    const json* value = &object_[key];
    if (value->is_array() && !value->empty()) value = &value->front();
    return value->is_null() ? -1 : as_integer(*value, key, -1);
  }
  double number(const char* key, std::optional<double> otherwise = {}) const {
    if (missing(key, otherwise.has_value())) return *otherwise;
    const json& value = object_[key];
    MOE_REQUIRE(value.is_number() && std::isfinite(value.get<double>()), where_, key,
                " must be a number, is ", value.dump());
    return value.get<double>();
  }
  double positive(const char* key, std::optional<double> otherwise = {}) const {
    const double value = number(key, otherwise);
    MOE_REQUIRE(value > 0, where_, key, " must be positive, is ", value);
    return value;
  }
  bool boolean(const char* key, bool otherwise) const {
    if (missing(key, true)) return otherwise;
    MOE_REQUIRE(object_[key].is_boolean(), where_, key, " must be true or false, is ",
                object_[key].dump());
    return object_[key].get<bool>();
  }
  std::string text(const char* key, std::optional<std::string> otherwise = {}) const {
    if (missing(key, otherwise.has_value())) return *otherwise;
    MOE_REQUIRE(object_[key].is_string(), where_, key, " must be a string, is ",
                object_[key].dump());
    return object_[key].get<std::string>();
  }
  std::int64_t as_integer(const json& value, const char* key, std::int64_t least) const {
    MOE_REQUIRE(
        value.is_number_integer() && !(value.is_number_unsigned() &&
                                       value.get<std::uint64_t>() > std::uint64_t(kMaxDimension)),
        where_, key, " must be an integer up to ", kMaxDimension, ", is ", value.dump());
    const auto n = value.get<std::int64_t>();
    MOE_REQUIRE(n >= least, where_, key, " must be at least ", least, ", is ", n);
    return n;
  }
  void require_text(const char* key, const char* wanted) const {
    const std::string value = text(key, wanted);
    MOE_REQUIRE(value == wanted, where_, key, " '", value, "' is not supported (only '", wanted,
                "')");
  }
  void require_flag(const char* key, bool wanted) const {
    MOE_REQUIRE(boolean(key, wanted) == wanted, where_, key, " ", wanted ? "false" : "true",
                " is not supported");
  }
  void require_absent(const char* key) const {
    MOE_REQUIRE(!has(key), where_, key, " ", object_[key].dump(), " is not supported");
  }
  const std::string& where() const { return where_; }

 private:
  bool missing(const char* key, bool optional) const {
    if (has(key)) return false;
    MOE_REQUIRE(optional, where_, "has no ", key);
    return true;
  }
  const json& object_;
  std::string where_;
};

void read_rope(const Fields& f, double default_theta, ModelConfig* c) {
  const char* key = f.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  c->rope_theta = f.positive("rope_theta", default_theta);
  if (!f.has(key)) return;
  MOE_REQUIRE(f.raw(key).is_object(), f.where(), key, " is no JSON object");
  const Fields r(f.raw(key), f.where() + key + ".");
  if (r.has("rope_theta")) c->rope_theta = r.positive("rope_theta");
  MOE_REQUIRE(r.number("partial_rotary_factor", 1) == 1, r.where(),
              "partial_rotary_factor besides 1 is not supported");
  const std::string type =
      r.has("rope_type") ? r.text("rope_type") : r.text("type", std::string("default"));
  RopeScaling& scaling = c->rope_scaling;
  if (type == "default") {
    for (const auto& [name, value] : f.raw(key).items())
      MOE_REQUIRE(!value.is_object(), r.where(), name,
                  " is an object: rotary positions per kind of layer are not supported");
    return;
  }
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::linear;
    scaling.factor = r.positive("factor");
    return;
  }
  MOE_REQUIRE(type == "llama3", r.where(), "rope_type '", type,
              "' is not supported (default, linear and llama3 are)");
  scaling.kind = RopeScaling::Kind::llama3;
  scaling.factor = r.positive("factor");
  scaling.low_freq_factor = r.positive("low_freq_factor");
  scaling.high_freq_factor = r.positive("high_freq_factor");
  scaling.original_max_position = r.integer("original_max_position_embeddings");
  MOE_REQUIRE(scaling.original_max_position > 0, r.where(),
              "original_max_position_embeddings must be positive");
  MOE_REQUIRE(scaling.low_freq_factor < scaling.high_freq_factor, r.where(),
              "low_freq_factor must be below high_freq_factor");
}

void read_common(const Fields& f, ModelFormat format, ModelConfig* c) {
  const bool mixtral = format == ModelFormat::mixtral;
  c->vocab_size = f.integer("vocab_size");
  c->hidden_size = f.integer("hidden_size");
  c->intermediate_size = f.integer("intermediate_size");
  c->layers = f.integer("num_hidden_layers");
  c->heads = f.integer("num_attention_heads");
  c->kv_heads = f.integer("num_key_value_heads", mixtral ? 8 : c->heads);
  MOE_REQUIRE(c->layers <= kMaxLayers, f.where(), "num_hidden_layers ", c->layers, " is above ",
              kMaxLayers);
  MOE_REQUIRE(c->heads > 0, f.where(), "num_attention_heads must be positive");
  if (f.has("head_dim")) {
    c->head_dim = f.integer("head_dim");
  } else {
    MOE_REQUIRE(c->hidden_size % c->heads == 0, f.where(), "hidden_size ", c->hidden_size,
                " is no multiple of num_attention_heads ", c->heads, " and head_dim is not given");
    c->head_dim = c->hidden_size / c->heads;
  }
  MOE_REQUIRE(c->heads * c->head_dim <= kMaxDimension && c->kv_heads * c->head_dim <= kMaxDimension,
              f.where(), "num_attention_heads times head_dim is too large");
  c->max_positions = f.integer("max_position_embeddings", mixtral ? 131072 : 2048);
  c->rms_norm_eps = f.positive("rms_norm_eps", mixtral ? 1e-5 : 1e-6);
  read_rope(f, mixtral ? 1e6 : 1e4, c);
  c->tie_embeddings = f.boolean("tie_word_embeddings", false);
  c->initializer_range = f.number("initializer_range", 0.02);
  c->bos_token = f.token("bos_token_id", 1);
  c->eos_token = f.token("eos_token_id", 2);
  c->pad_token = f.token("pad_token_id", -1);

  f.require_text("hidden_act", "silu");
  f.require_flag("attention_bias", false);
  f.require_flag("mlp_bias", false);
  f.require_absent("quantization_config");
  MOE_REQUIRE(f.number("partial_rotary_factor", 1) == 1, f.where(),
              "partial_rotary_factor besides 1 is not supported");
}

std::int64_t read_expert_count(const Fields& f, const char* key, const ModelConfig& c) {
  const std::int64_t experts = f.integer(key);
  MOE_REQUIRE(experts > 0 && experts <= kMaxExperts && experts * c.layers <= kMaxExpertsInAll,
              f.where(), key, " ", experts, " is out of range");
  return experts;
}

void read_llama_moe(const Fields& f, ModelConfig* c) {
  MoeConfig& m = c->moe;
  m.experts = read_expert_count(f, "num_experts", *c);
  m.top_k = f.integer("num_selects");
  f.require_text("gate_type", "TopKBalancedNoisyGate");
  f.require_text("calculator_type", "UniversalCalculator");
  f.require_flag("gate_use_softmax", true);
  f.require_flag("multiply_gate_scores", true);
  f.require_flag("add_weight_norm", false);
  const std::string gate = f.text("gate_network", std::string("mlp"));
  MOE_REQUIRE(gate == "mlp" || gate == "linear", f.where(), "gate_network '", gate,
              "' is not supported (mlp and linear are)");
  m.gate = gate == "mlp" ? GateKind::mlp : GateKind::linear;
  m.gate_noise = f.boolean("gate_add_noise", true);
  m.noise_epsilon = f.number("gate_noise_epsilon", 1e-2);

  const auto layers = std::size_t(c->layers), experts = std::size_t(m.experts);
  if (f.has("size_experts")) {
    const json& sizes = f.raw("size_experts");
    MOE_REQUIRE(sizes.is_array() && sizes.size() == layers, f.where(), "size_experts must list ",
                layers, " layers");
    for (const json& layer : sizes) {
      MOE_REQUIRE(layer.is_array() && layer.size() == experts, f.where(),
                  "each layer of size_experts must list ", experts, " experts");
      auto& row = m.expert_sizes.emplace_back();
      for (const json& n : layer) row.push_back(f.as_integer(n, "size_experts", 1));
    }
  } else {
    MOE_REQUIRE(c->intermediate_size % m.experts == 0, f.where(),
                "has no size_experts, and intermediate_size ", c->intermediate_size,
                " does not split evenly into ", m.experts);
    m.expert_sizes.assign(layers,
                          std::vector<std::int64_t>(experts, c->intermediate_size / m.experts));
  }
  if (f.has("score_scale_factor") && f.raw("score_scale_factor").is_array()) {
    for (const json& scale : f.raw("score_scale_factor")) {
      MOE_REQUIRE(scale.is_number(), f.where(), "score_scale_factor holds ", scale.dump());
      m.score_scale.push_back(scale.get<double>());
    }
    MOE_REQUIRE(m.score_scale.size() == layers, f.where(), "score_scale_factor lists ",
                m.score_scale.size(), " layers of ", layers);
  } else {
    m.score_scale.assign(layers, f.number("score_scale_factor", 1));
  }
}

void read_mixtral(const Fields& f, ModelConfig* c) {
  MoeConfig& m = c->moe;
  m.experts = read_expert_count(f, "num_local_experts", *c);
  m.top_k = f.integer("num_experts_per_tok", 2);
  m.gate = GateKind::linear;
  m.gate_noise = false;
  m.expert_sizes.assign(std::size_t(c->layers),
                        std::vector<std::int64_t>(std::size_t(m.experts), c->intermediate_size));
  m.score_scale.assign(std::size_t(c->layers), f.positive("scale_factor", 1));
  MOE_REQUIRE(c->intermediate_size <= kMaxDimension / m.experts, f.where(),
              "intermediate_size times num_local_experts is too large");
  c->intermediate_size *= m.experts;
  if (f.has("sliding_window"))
    c->max_positions = std::min(c->max_positions, f.integer("sliding_window"));
  f.require_text("moe_type", "modulelist");
  f.require_absent("intermediate_size_residual");
  f.require_absent("attn_experts");
  f.require_flag("use_attn_moe", false);
  f.require_flag("add_rescale_bias", false);
  MOE_REQUIRE(f.integer("num_moe_contract_layers", 0) == 0, f.where(),
              "num_moe_contract_layers besides 0 is not supported");
}

}  // namespace

HfConfig parse_hf_config(std::string_view text, const std::string& where) {
  require_strict_json(text, where);
  const json root = json::parse(text);
  const Fields f(root, where + ": ");
  const std::string type = f.text("model_type");
  HfConfig result;
  if (type == "llama_moe")
    result.format = ModelFormat::llama_moe;
  else if (type == "mixtral")
    result.format = ModelFormat::mixtral;
  else
    MOE_REQUIRE(type == "llama", where, ": model_type '", type,
                "' is not supported (llama, llama_moe and mixtral are)");
  read_common(f, result.format, &result.config);
  if (result.format == ModelFormat::llama_moe) read_llama_moe(f, &result.config);
  if (result.format == ModelFormat::mixtral) read_mixtral(f, &result.config);
  try {
    result.config.validate();
  } catch (const InputError& error) {
    throw InputError(str(where, ": ", error.what()));
  }
  return result;
}

}  // namespace moe
