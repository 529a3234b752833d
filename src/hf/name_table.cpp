// SPDX-License-Identifier: Apache-2.0
#include "hf/name_table.h"

#include <array>
#include <cmath>
#include <functional>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace moe {
namespace {

using Names = std::pair<std::string_view, std::string_view>;

constexpr std::array kModelNames = {
    Names{"embed.weight", "model.embed_tokens.weight"},
    Names{"norm.weight", "model.norm.weight"},
    Names{"head.weight", "lm_head.weight"},
};

constexpr std::array kLayerNames = {
    Names{"attention_norm.weight", "input_layernorm.weight"},
    Names{"attention.q.weight", "self_attn.q_proj.weight"},
    Names{"attention.k.weight", "self_attn.k_proj.weight"},
    Names{"attention.v.weight", "self_attn.v_proj.weight"},
    Names{"attention.o.weight", "self_attn.o_proj.weight"},
    Names{"ffn_norm.weight", "post_attention_layernorm.weight"},
};

constexpr std::string_view kAttentionRouter = "attention.router.";

constexpr std::array kLlamaMoeRouterNames = {
    Names{"router.weight", "gate.gate_network.weight"},
    Names{"router.hidden.weight", "gate.gate_network.0.weight"},
    Names{"router.output.weight", "gate.gate_network.2.weight"},
    Names{"router.noise.weight", "gate.weight_noise.weight"},
};

template <class Table>
std::string lookup(const Table& table, std::string_view ours) {
  for (const auto& [from, to] : table)
    if (from == ours) return std::string(to);
  return {};
}

bool is_mixtral(ModelFormat format) {
  return format == ModelFormat::mixtral || format == ModelFormat::llama_moe_v2;
}

/// What Mixtral calls gate, up and down.
std::string mixtral_matrix(std::string_view part) {
  return part == "gate" ? "w1.weight" : part == "up" ? "w3.weight" : "w2.weight";
}

/// Names one parameter of one model.
class Namer {
 public:
  Namer(const ModelConfig& config, ModelFormat format, const ParameterSpec& spec)
      : config_(config),
        format_(format),
        spec_(spec),
        stored_{spec.name, spec.shape[0], spec.shape.size() > 1 ? spec.shape[1] : 1, {}} {}

  StoredParameter named() && {
    if (format_ == ModelFormat::native)
      whole(spec_.name, false);
    else if (spec_.name.starts_with("layers."))
      layer();
    else
      whole(lookup(kModelNames, spec_.name), false);
    if (spec_.name == "embed.weight" && config_.tie_embeddings)
      stored_.pieces.back().alternative =
          format_ == ModelFormat::native ? "head.weight" : lookup(kModelNames, "head.weight");
    return std::move(stored_);
  }

 private:
  void layer() {
    const std::string& name = spec_.name;
    const std::size_t dot = name.find('.', 7);
    layer_ = std::stoll(name.substr(7, dot - 7));
    prefix_ = name.substr(0, dot + 1).insert(0, "model.");
    const std::string_view ours = std::string_view(name).substr(dot + 1);
    const std::size_t block_end = ours.find('.');
    const std::string_view block = ours.substr(0, block_end);
    const std::string_view part =
        ours.substr(block_end + 1, ours.find('.', block_end + 1) - block_end - 1);
    if (ours.starts_with("attention.experts.")) return attention_experts(ours);
    if (block == "ffn") return dense(part);
    if (block == "experts") return experts(part);
    if (block == "shared") return shared(part);
    whole(prefixed(block == "router"                    ? router(ours)
                   : block == "shared_router"           ? shared_router()
                   : ours.starts_with(kAttentionRouter) ? attention_router(ours)
                                                        : lookup(kLayerNames, ours)),
          false);
  }

  bool has_shared() const { return !config_.layer_shared_sizes(layer_).empty(); }
  std::string llama_moe_block() const { return has_shared() ? "mlp.moe_layer." : "mlp."; }

  void dense(std::string_view part) {
    const std::string llama = str("mlp.", part, "_proj.weight");
    if (format_ == ModelFormat::llama) return whole(prefixed(llama), part == "down");
    if (format_ != ModelFormat::llama_moe_v2) return whole("", false);
    whole(prefixed("block_sparse_moe." + mixtral_matrix(part)), part == "down");
    stored_.pieces.back().alternative = prefixed(llama);
  }

  void experts(std::string_view part) {
    const bool scaled = part == "down" && format_ == ModelFormat::mixtral;
    each(config_.layer_expert_sizes(layer_), part == "down",
         scaled ? config_.moe.score_scale.at(std::size_t(layer_)) : 1.0, [&](std::size_t e) {
           return is_mixtral(format_)
                      ? str("block_sparse_moe.experts.", e, ".", mixtral_matrix(part))
                      : str(llama_moe_block(), "calculator.experts.weight_", part, ".", e);
         });
  }

  void shared(std::string_view part) {
    if (format_ == ModelFormat::llama_moe_v2)
      return whole(prefixed("mlp_residual." + mixtral_matrix(part)), part == "down");
    if (format_ != ModelFormat::llama_moe) return whole("", false);
    each(config_.layer_shared_sizes(layer_), part == "down", 1, [&](std::size_t e) {
      return str("mlp.residual_block.calculator.experts.weight_", part, ".", e);
    });
  }

  std::string router(std::string_view ours) const {
    if (is_mixtral(format_)) return ours == "router.weight" ? "block_sparse_moe.gate.weight" : "";
    const std::string theirs = lookup(kLlamaMoeRouterNames, ours);
    return theirs.empty() ? theirs : llama_moe_block() + theirs;
  }

  void attention_experts(std::string_view ours) {
    if (format_ != ModelFormat::llama_moe_v2) return whole("", false);
    const std::string part(ours.substr(ours.rfind('.', ours.rfind('.') - 1) + 1, 1));
    const std::int64_t experts = config_.attention_moe.experts;
    each(std::vector(std::size_t(experts), stored_.rows / experts), part == "o", 1,
         [&](std::size_t e) { return str("self_attn.", part, "_proj.", e, ".weight"); });
  }

  std::string attention_router(std::string_view ours) const {
    const bool named =
        format_ == ModelFormat::llama_moe_v2 && ours.substr(kAttentionRouter.size()) == "weight";
    return named ? "self_attn.gate.weight" : "";
  }

  std::string shared_router() const {
    return format_ == ModelFormat::llama_moe ? "mlp.residual_block.gate.gate_network.weight" : "";
  }

  std::string prefixed(const std::string& theirs) const {
    return theirs.empty() ? theirs : prefix_ + theirs;
  }

  void whole(std::string tensor, bool transposed) {
    MOE_CHECK(!tensor.empty(), "parameter ", spec_.name, " has no name in format ", name(format_));
    Shape shape = spec_.shape;
    if (transposed) std::swap(shape.at(0), shape.at(1));
    stored_.pieces.push_back({std::move(tensor), std::move(shape), 0, stored_.rows, transposed});
    stored_.pieces.back().keeps_f32 = !spec_.trained;
  }

  /// One tensor for each expert, of `sizes` rows of ours.
  void each(const std::vector<std::int64_t>& sizes, bool transposed, double scale,
            const std::function<std::string(std::size_t)>& tensor) {
    std::int64_t first = 0;
    for (std::size_t e = 0; e < sizes.size(); first += sizes[e++])
      stored_.pieces.push_back(
          {prefix_ + tensor(e),
           transposed ? Shape{stored_.cols, sizes[e]} : Shape{sizes[e], stored_.cols}, first,
           sizes[e], transposed, scale});
  }

  const ModelConfig& config_;
  ModelFormat format_;
  const ParameterSpec& spec_;
  StoredParameter stored_;
  std::int64_t layer_ = 0;
  std::string prefix_;  // "model.layers.N."
};

}  // namespace

std::vector<StoredParameter> stored_parameters(const ModelConfig& config, ModelFormat format) {
  std::vector<StoredParameter> list;
  for (const ParameterSpec& spec : model_parameters(config))
    list.push_back(Namer(config, format, spec).named());
  return list;
}

std::vector<StoredParameter> computed_tensors(const ModelConfig& config, ModelFormat format) {
  std::vector<StoredParameter> list;
  if (format != ModelFormat::llama_moe || config.rope_scaling.kind == RopeScaling::Kind::llama3)
    return list;
  const std::int64_t half = config.head_dim / 2;
  for (std::int64_t l = 0; l < config.layers; ++l)
    list.push_back(
        {str("layers.", l, ".attention.inv_freq"),
         half,
         1,
         {{str("model.layers.", l, ".self_attn.rotary_emb.inv_freq"), {half}, 0, half}}});
  return list;
}

Tensor rotary_frequencies(const ModelConfig& config) {
  Tensor t = Tensor::empty({config.head_dim / 2}, DType::f32);
  for (std::int64_t j = 0; j < t.size(); ++j)
    t.data<float>()[j] =
        float(std::pow(config.rope_theta, -2.0 * double(j) / double(config.head_dim)));
  return t;
}

}  // namespace moe
