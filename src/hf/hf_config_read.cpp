// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "config/model_json.h"
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
  const bool mixtral = format == ModelFormat::mixtral || format == ModelFormat::llama_moe_v2;
  c->vocab_size = f.integer("vocab_size");
  c->hidden_size = f.integer("hidden_size");
  c->intermediate_size = f.integer("intermediate_size");
  c->layers = f.integer("num_hidden_layers");
  c->heads = f.integer("num_attention_heads");
  c->kv_heads = f.integer("num_key_value_heads", mixtral ? 8 : c->heads);
  MOE_REQUIRE(c->layers > 0, f.where(), "num_hidden_layers must be positive");
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

/// Sizes of the experts of every layer: [layers][experts], one list for all layers, or not given:
/// `width` in equal parts.
std::vector<std::vector<std::int64_t>> read_sizes(const Fields& f, const char* key,
                                                  std::size_t layers, std::size_t experts,
                                                  const char* width_key, std::int64_t width) {
  std::vector<std::vector<std::int64_t>> result;
  if (!f.has(key)) {
    MOE_REQUIRE(width % std::int64_t(experts) == 0, f.where(), "has no ", key, ", and ", width_key,
                " ", width, " does not split evenly into ", experts);
    result.assign(layers, std::vector<std::int64_t>(experts, width / std::int64_t(experts)));
    return result;
  }
  const json& sizes = f.raw(key);
  const bool one = sizes.is_array() && !sizes.empty() && sizes.front().is_number();
  MOE_REQUIRE(sizes.is_array() && (one || sizes.size() == layers), f.where(), key, " must list ",
              layers, " layers");
  for (std::size_t l = 0; l < layers; ++l) {
    const json& layer = one ? sizes : sizes[l];
    MOE_REQUIRE(layer.is_array() && layer.size() == experts, f.where(), "each layer of ", key,
                " must list ", experts, " experts");
    auto& row = result.emplace_back();
    for (const json& n : layer) row.push_back(f.as_integer(n, key, 1));
  }
  return result;
}

/// One number for all layers, or a list of one for each.
std::vector<double> read_scales(const Fields& f, const char* key, std::size_t layers) {
  if (!f.has(key) || !f.raw(key).is_array()) return std::vector<double>(layers, f.number(key, 1));
  std::vector<double> scales;
  for (const json& scale : f.raw(key)) {
    MOE_REQUIRE(scale.is_number(), f.where(), key, " holds ", scale.dump());
    scales.push_back(scale.get<double>());
  }
  MOE_REQUIRE(scales.size() == layers, f.where(), key, " lists ", scales.size(), " layers of ",
              layers);
  return scales;
}

void read_llama_moe(const Fields& f, ModelConfig* c, const char* width_key) {
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
  const auto layers = std::size_t(c->layers);
  m.expert_sizes = read_sizes(f, "size_experts", layers, std::size_t(m.experts), width_key,
                              f.has("size_experts") ? 0 : f.integer(width_key));
  m.score_scale = read_scales(f, "score_scale_factor", layers);
}

void read_llama_moe_residual(const Fields& f, ModelConfig* c) {
  MOE_REQUIRE(!f.boolean("use_weighting", false), f.where(),
              "use_weighting true is not supported: it mixes routed and shared experts by a gate "
              "that LLaMA-MoE's own code cannot run either");
  f.require_flag("gate_use_softmax_residual", true);
  f.require_flag("multiply_gate_scores_residual", true);
  read_llama_moe(f, c, "intermediate_size_moe");
  MoeConfig& m = c->moe;
  const auto layers = std::size_t(c->layers);
  const auto shared = std::size_t(read_expert_count(f, "num_experts_residual", *c));
  m.shared_sizes =
      read_sizes(f, "size_experts_residual", layers, shared, "intermediate_size_residual",
                 f.has("size_experts_residual") ? 0 : f.integer("intermediate_size_residual"));
  m.shared_gate = true;
  const std::vector<double> scales = read_scales(f, "score_scale_factor_residual", layers);
  for (const double scale : scales)
    MOE_REQUIRE(scale == scales.front(), f.where(),
                "score_scale_factor_residual differs between layers (", scales.front(), " and ",
                scale, "), which is not supported");
  m.shared_scale = scales.front();
}

void read_mixtral(const Fields& f, ModelConfig* c) {
  MoeConfig& m = c->moe;
  m.experts = read_expert_count(f, "num_local_experts", *c);
  m.top_k = f.integer("num_experts_per_tok", 2);
  m.gate = GateKind::linear;
  m.gate_noise = false;
  m.expert_sizes.assign(std::size_t(c->layers),
                        std::vector<std::int64_t>(std::size_t(m.experts), c->intermediate_size));
  m.score_scale.assign(std::size_t(c->layers), 1);
  MOE_REQUIRE(c->intermediate_size <= kMaxDimension / m.experts, f.where(),
              "intermediate_size times num_local_experts is too large");
  c->intermediate_size *= m.experts;
  if (f.has("sliding_window"))
    c->max_positions = std::min(c->max_positions, f.integer("sliding_window"));
}

constexpr std::array kLlamaMoeV2Fields = {
    "moe_type",     "scale_factor", "num_moe_contract_layers", "intermediate_size_residual",
    "attn_experts", "use_attn_moe", "add_rescale_bias"};

/// LLaMA-MoE v2's experts in the attention: one key/value head each, in every layer.
void read_attention_experts(const Fields& f, ModelConfig* c) {
  for (const char* key : {"attn_experts", "top_k_attn", "scale_factor_attn"})
    MOE_REQUIRE(f.has(key), f.where(), "has use_attn_moe but no ", key,
                ", without which LLaMA-MoE v2's own code fails (its converter leaves attn_experts "
                "out): add it");
  AttentionMoeConfig& a = c->attention_moe;
  a.kind = AttentionExpert::heads;
  a.experts = read_expert_count(f, "attn_experts", *c);
  a.top_k = f.integer("top_k_attn");
  MOE_REQUIRE(c->kv_heads > 0 && a.experts % c->kv_heads == 0, f.where(), "attn_experts ",
              a.experts, " is no multiple of num_key_value_heads ", c->kv_heads);
  a.layers.assign(std::size_t(c->layers), true);
  a.score_scale.assign(std::size_t(c->layers), f.positive("scale_factor_attn"));
}

/// What LLaMA-MoE v2 adds to a Mixtral.
void read_llama_moe_v2(const Fields& f, ModelConfig* c) {
  MoeConfig& m = c->moe;
  f.require_text("moe_type", "modulelist");
  MOE_REQUIRE(!f.boolean("add_rescale_bias", false), f.where(),
              "add_rescale_bias true (a bias in w2) is not supported: our experts have no biases");
  if (f.boolean("use_attn_moe", false)) read_attention_experts(f, c);
  m.score_scale.assign(std::size_t(c->layers), f.positive("scale_factor", 1));
  const std::int64_t dense = f.integer("num_moe_contract_layers", 0);
  for (std::int64_t l = 0; l < c->layers; ++l)
    if (l < dense || l >= c->layers - dense) m.expert_sizes[std::size_t(l)].clear();
  if (!f.has("intermediate_size_residual")) return;
  const std::int64_t shared = f.integer("intermediate_size_residual");
  MOE_REQUIRE(shared > 0, f.where(), "intermediate_size_residual must be positive");
  for (const auto& sizes : m.expert_sizes)
    m.shared_sizes.push_back(sizes.empty() ? std::vector<std::int64_t>{}
                                           : std::vector<std::int64_t>{shared});
  c->intermediate_size += shared;
  MOE_REQUIRE(c->intermediate_size <= kMaxDimension, f.where(),
              "intermediate_size_residual is too large");
}

/// Calls f for every number within a JSON value.
template <class F>
void for_each_number(const json& value, F&& f) {
  if (value.is_number()) return f(value);
  if (value.is_structured())
    for (const json& item : value) for_each_number(item, f);
}

ModelConfig read_native(const Fields& f) {
  const std::int64_t version = f.integer("format_version");
  MOE_REQUIRE(version == 1, f.where(), "format_version ", version,
              " is not known (1 is): was it written by a newer program?");
  MOE_REQUIRE(f.has("model") && f.raw("model").is_object(), f.where(), "has no object 'model'");
  const json& model = f.raw("model");
  for_each_number(model, [&](const json& n) {
    if (n.is_number_integer()) return void(f.as_integer(n, "model: a size", -1));
    MOE_REQUIRE(std::abs(n.get<double>()) <= 1e15, f.where(), "model: ", n.dump(),
                " is out of range");
  });
  ModelConfig c = model_config_from_json(model.dump(), f.where() + "model");
  const json known = json::parse(model_config_to_json(c));
  for (const auto& [key, value] : model.items())
    MOE_REQUIRE(known.contains(key) && known[key] == value, f.where(), "model.", key, " ",
                value.dump(), " is not understood");
  MOE_REQUIRE(c.layers <= kMaxLayers && c.moe.experts <= kMaxExperts &&
                  c.attention_moe.experts <= kMaxExperts,
              f.where(), "model: too many layers or experts");
  MOE_REQUIRE(c.heads <= kMaxDimension / c.head_dim, f.where(),
              "model: heads times head_dim is too large");
  for (const auto* layers : {&c.moe.expert_sizes, &c.moe.shared_sizes})
    for (const auto& sizes : *layers)
      MOE_REQUIRE(std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}) <= kMaxDimension,
                  f.where(), "model: a layer has too many neurons");
  return c;
}

/// Throws for a model_type that none of our formats has.
[[noreturn]] void refuse_type(const Fields& f, const json& root, const std::string& type) {
  std::string architecture;
  if (root.contains("architectures") && root["architectures"].is_array() &&
      !root["architectures"].empty() && root["architectures"][0].is_string())
    architecture = str(" (", root["architectures"][0].get<std::string>(), ")");
  throw InputError(str(f.where(), "model_type '", type, "'", architecture,
                       " is not supported: llama, mixtral, llama_moe, llama_moe_residual and "
                       "moe_native are"));
}

ModelFormat format_of(const Fields& f, const json& root, const std::string& type) {
  if (type == "moe_native") return ModelFormat::native;
  if (type == "llama_moe" || type == "llama_moe_residual") return ModelFormat::llama_moe;
  if (type == "llama") return ModelFormat::llama;
  if (type != "mixtral") refuse_type(f, root, type);
  const bool v2 = std::any_of(kLlamaMoeV2Fields.begin(), kLlamaMoeV2Fields.end(),
                              [&](const char* key) { return root.contains(key); });
  return v2 ? ModelFormat::llama_moe_v2 : ModelFormat::mixtral;
}

}  // namespace

HfConfig parse_hf_config(std::string_view text, const std::string& where) {
  require_strict_json(text, where);
  const json root = json::parse(text);
  const Fields f(root, where + ": ");
  const std::string type = f.text("model_type");
  HfConfig result;
  result.format = format_of(f, root, type);
  if (result.format == ModelFormat::native) {
    result.config = read_native(f);
    return result;
  }
  ModelConfig* c = &result.config;
  read_common(f, result.format, c);
  if (type == "llama_moe") read_llama_moe(f, c, "intermediate_size");
  if (type == "llama_moe_residual") read_llama_moe_residual(f, c);
  if (type == "mixtral") read_mixtral(f, c);
  if (result.format == ModelFormat::llama_moe_v2) read_llama_moe_v2(f, c);
  try {
    c->validate();
  } catch (const InputError& error) {
    throw InputError(str(where, ": ", error.what()));
  }
  return result;
}

}  // namespace moe
