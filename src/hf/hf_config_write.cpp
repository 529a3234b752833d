// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/model_json.h"
#include "core/error.h"
#include "hf/hf_config.h"

namespace moe {
namespace {

using nlohmann::ordered_json;

ordered_json token_json(std::int64_t token) {
  return token < 0 ? ordered_json(nullptr) : ordered_json(token);
}

ordered_json rope_json(const RopeScaling& s) {
  switch (s.kind) {
    case RopeScaling::Kind::none:
      return nullptr;
    case RopeScaling::Kind::linear:
      return {{"type", "linear"}, {"rope_type", "linear"}, {"factor", s.factor}};
    case RopeScaling::Kind::llama3:
      return {{"rope_type", "llama3"},
              {"factor", s.factor},
              {"low_freq_factor", s.low_freq_factor},
              {"high_freq_factor", s.high_freq_factor},
              {"original_max_position_embeddings", s.original_max_position}};
  }
  return nullptr;
}

const char* torch_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float32";
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    case DType::f64:
      return "float64";
    default:
      throw Error(str("a ", name(dtype), " tensor cannot be written as model weights"));
  }
}

const std::vector<std::int64_t>& first_expert_sizes(const ModelConfig& c) {
  return *std::find_if(c.moe.expert_sizes.begin(), c.moe.expert_sizes.end(),
                       [](const auto& layer) { return !layer.empty(); });
}

std::vector<std::int64_t> first_shared_sizes(const ModelConfig& c) {
  for (const auto& layer : c.moe.shared_sizes)
    if (!layer.empty()) return layer;
  return {};
}

/// What the format's config calls intermediate_size.
std::int64_t stored_intermediate_size(const ModelConfig& c, ModelFormat format) {
  if (format == ModelFormat::llama) return c.intermediate_size;
  if (format == ModelFormat::llama_moe)
    return total_neurons(first_expert_sizes(c)) + total_neurons(first_shared_sizes(c));
  return first_expert_sizes(c).front();
}

struct Names {
  const char *architecture, *type;
};

Names names_of(const ModelConfig& c, ModelFormat format) {
  if (format == ModelFormat::llama) return {"LlamaForCausalLM", "llama"};
  if (format != ModelFormat::llama_moe) return {"MixtralForCausalLM", "mixtral"};
  if (first_shared_sizes(c).empty()) return {"LlamaMoEForCausalLM", "llama_moe"};
  return {"LlamaMoEResidualForCausalLM", "llama_moe_residual"};
}

ordered_json llama_moe_json(const MoeConfig& m) {
  const bool one_scale = std::all_of(m.score_scale.begin(), m.score_scale.end(),
                                     [&](double s) { return s == m.score_scale.front(); });
  const char* gate = m.gate == GateKind::mlp ? "mlp" : "linear";
  return {{"num_experts", m.experts},
          {"num_selects", m.top_k},
          {"size_experts", m.expert_sizes},
          {"gate_type", "TopKBalancedNoisyGate"},
          {"gate_network", gate},
          {"gate_use_softmax", true},
          {"gate_use_balance", true},
          {"gate_balance_loss_weight", 0.01},
          {"gate_add_noise", m.gate_noise},
          {"gate_noise_epsilon", m.noise_epsilon},
          {"calculator_type", "UniversalCalculator"},
          {"multiply_gate_scores", true},
          {"score_scale_factor",
           one_scale ? ordered_json(m.score_scale.front()) : ordered_json(m.score_scale)},
          {"add_weight_norm", false},
          {"drop_tokens", true},
          {"dropped_padding", "zero"},
          {"capacity_factor", 1.25}};
}

/// Of LlamaMoEResidualConfig beyond those of LLaMA-MoE.
ordered_json residual_json(const ModelConfig& c) {
  return {{"intermediate_size_moe", total_neurons(first_expert_sizes(c))},
          {"intermediate_size_residual", total_neurons(first_shared_sizes(c))},
          {"num_experts_residual", std::int64_t(first_shared_sizes(c).size())},
          {"size_experts_residual", c.moe.shared_sizes},
          {"gate_use_softmax_residual", true},
          {"multiply_gate_scores_residual", true},
          {"score_scale_factor_residual", c.moe.shared_scale},
          {"use_weighting", false}};
}

ordered_json llama_moe_v2_json(const ModelConfig& c) {
  const auto first = std::find_if(c.moe.expert_sizes.begin(), c.moe.expert_sizes.end(),
                                  [](const auto& layer) { return !layer.empty(); });
  const std::int64_t dense = first - c.moe.expert_sizes.begin();
  const std::vector<std::int64_t> shared = first_shared_sizes(c);
  return {{"moe_type", "modulelist"},
          {"scale_factor", c.moe.score_scale[std::size_t(dense)]},
          {"num_moe_contract_layers", dense},
          {"intermediate_size_residual",
           shared.empty() ? ordered_json(nullptr) : ordered_json(total_neurons(shared))},
          {"use_attn_moe", c.is_attention_moe()},
          {"add_rescale_bias", false},
          {"auto_map",
           {{"AutoConfig", "configuration_mixtral.MixtralConfig"},
            {"AutoModel", "modeling_mixtral.MixtralModel"},
            {"AutoModelForCausalLM", "modeling_mixtral.MixtralForCausalLM"}}}};
}

/// Of LLaMA-MoE v2's experts in the attention.
ordered_json attention_json(const AttentionMoeConfig& a) {
  return {{"attn_experts", a.experts},
          {"top_k_attn", a.top_k},
          {"scale_factor_attn", a.score_scale.front()}};
}

std::string native_json(const ModelConfig& c, DType dtype) {
  const ordered_json j = {{"model_type", "moe_native"},
                          {"torch_dtype", torch_name(dtype)},
                          {"format_version", 1},
                          {"model", ordered_json::parse(model_config_to_json(c))}};
  return j.dump(2) + "\n";
}

}  // namespace

std::string hf_config_json(const ModelConfig& config, ModelFormat format, DType dtype) {
  if (format == ModelFormat::native) return native_json(config, dtype);
  const ModelConfig c = expressed_in(config, format);
  const Names names = names_of(c, format);
  ordered_json j = {{"architectures", {names.architecture}},
                    {"model_type", names.type},
                    {"vocab_size", c.vocab_size},
                    {"hidden_size", c.hidden_size},
                    {"intermediate_size", stored_intermediate_size(c, format)},
                    {"num_hidden_layers", c.layers},
                    {"num_attention_heads", c.heads},
                    {"num_key_value_heads", c.kv_heads},
                    {"hidden_act", "silu"},
                    {"max_position_embeddings", c.max_positions},
                    {"initializer_range", c.initializer_range},
                    {"rms_norm_eps", c.rms_norm_eps},
                    {"rope_theta", c.rope_theta},
                    {"rope_scaling", rope_json(c.rope_scaling)},
                    {"attention_dropout", 0.0},
                    {"tie_word_embeddings", c.tie_embeddings},
                    {"bos_token_id", token_json(c.bos_token)},
                    {"eos_token_id", token_json(c.eos_token)},
                    {"pad_token_id", token_json(c.pad_token)},
                    {"use_cache", true},
                    {"torch_dtype", torch_name(dtype)}};
  if (c.heads * c.head_dim != c.hidden_size) j["head_dim"] = c.head_dim;
  if (format == ModelFormat::llama || format == ModelFormat::llama_moe) {
    j["attention_bias"] = false;
    j["pretraining_tp"] = 1;
  }
  if (format == ModelFormat::llama) j["mlp_bias"] = false;
  if (format == ModelFormat::llama_moe) {
    j.update(llama_moe_json(c.moe));
    if (first_shared_sizes(c).empty())
      j["auto_map"] = {{"AutoConfig", "configuration_llama_moe.LlamaMoEConfig"},
                       {"AutoModel", "modeling_llama_moe_hf.LlamaMoEModel"},
                       {"AutoModelForCausalLM", "modeling_llama_moe_hf.LlamaMoEForCausalLM"}};
    else
      j.update(residual_json(c));
  }
  if (format == ModelFormat::mixtral || format == ModelFormat::llama_moe_v2) {
    j["num_local_experts"] = c.moe.experts;
    j["num_experts_per_tok"] = c.moe.top_k;
    j["router_aux_loss_coef"] = 0.01;
    j["output_router_logits"] = false;
    j["sliding_window"] = nullptr;
  }
  if (format == ModelFormat::llama_moe_v2) j.update(llama_moe_v2_json(c));
  if (format == ModelFormat::llama_moe_v2 && c.is_attention_moe())
    j.update(attention_json(c.attention_moe));
  return j.dump(2) + "\n";
}

}  // namespace moe
