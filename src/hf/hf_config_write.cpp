// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

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

/// What the format's config calls intermediate_size.
std::int64_t stored_intermediate_size(const ModelConfig& c, ModelFormat format) {
  if (format == ModelFormat::llama) return c.intermediate_size;
  const auto& sizes = c.moe.expert_sizes.front();
  return format == ModelFormat::mixtral
             ? sizes.front()
             : std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
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
          {"capacity_factor", 1.25},
          {"auto_map",
           {{"AutoConfig", "configuration_llama_moe.LlamaMoEConfig"},
            {"AutoModel", "modeling_llama_moe_hf.LlamaMoEModel"},
            {"AutoModelForCausalLM", "modeling_llama_moe_hf.LlamaMoEForCausalLM"}}}};
}

}  // namespace

std::string hf_config_json(const ModelConfig& c, ModelFormat format, DType dtype) {
  const char* architecture = format == ModelFormat::llama       ? "LlamaForCausalLM"
                             : format == ModelFormat::llama_moe ? "LlamaMoEForCausalLM"
                                                                : "MixtralForCausalLM";
  const char* type = format == ModelFormat::llama       ? "llama"
                     : format == ModelFormat::llama_moe ? "llama_moe"
                                                        : "mixtral";
  ordered_json j = {{"architectures", {architecture}},
                    {"model_type", type},
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
  if (format != ModelFormat::mixtral) {
    j["attention_bias"] = false;
    j["pretraining_tp"] = 1;
  }
  if (format == ModelFormat::llama) j["mlp_bias"] = false;
  if (format == ModelFormat::llama_moe) j.update(llama_moe_json(c.moe));
  if (format == ModelFormat::mixtral) {
    j["num_local_experts"] = c.moe.experts;
    j["num_experts_per_tok"] = c.moe.top_k;
    j["router_aux_loss_coef"] = 0.01;
    j["output_router_logits"] = false;
    j["sliding_window"] = nullptr;
  }
  return j.dump(2) + "\n";
}

void require_representable(const ModelConfig& c, ModelFormat format) {
  if (format == ModelFormat::llama) {
    MOE_REQUIRE(!c.is_moe(),
                "a model with experts cannot be written as llama: use llama-moe, or "
                "mixtral for a linear gate");
    return;
  }
  MOE_REQUIRE(c.is_moe(), "a dense model cannot be written as ", name(format), ": use llama");
  MOE_REQUIRE(!c.moe.softmax_over_all, name(format),
              " weighs experts by the softmax over the chosen ones: a model that takes it over all "
              "experts cannot be written so");
  if (format == ModelFormat::llama_moe) {
    const std::int64_t sum = stored_intermediate_size(c, format);
    for (std::size_t l = 0; l < c.moe.expert_sizes.size(); ++l) {
      const auto& sizes = c.moe.expert_sizes[l];
      MOE_REQUIRE(
          std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}) == sum,
          "llama-moe needs the same number of neurons in every layer; the experts of layer ", l,
          " differ from layer 0");
    }
    return;
  }
  MOE_REQUIRE(
      c.moe.gate == GateKind::linear,
      "mixtral has a linear gate, the model an mlp gate: split with --gate linear, or write "
      "llama-moe");
  MOE_REQUIRE(
      !c.moe.gate_noise,
      "mixtral has no place for the weights of the gate noise: leave the noise out, or write "
      "llama-moe");
  const std::int64_t size = c.moe.expert_sizes.front().front();
  for (const auto& layer : c.moe.expert_sizes)
    for (const std::int64_t n : layer)
      MOE_REQUIRE(n == size, "mixtral needs experts of one size, the model has ", size, " and ", n,
                  " neurons: write llama-moe");
}

}  // namespace moe
