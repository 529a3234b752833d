// SPDX-License-Identifier: Apache-2.0
#include "hf/name_table.h"

#include <array>
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
    Names{"ffn.gate.weight", "mlp.gate_proj.weight"},
    Names{"ffn.up.weight", "mlp.up_proj.weight"},
    Names{"ffn.down.weight", "mlp.down_proj.weight"},
};

constexpr std::array kLlamaMoeRouterNames = {
    Names{"router.weight", "mlp.gate.gate_network.weight"},
    Names{"router.hidden.weight", "mlp.gate.gate_network.0.weight"},
    Names{"router.output.weight", "mlp.gate.gate_network.2.weight"},
    Names{"router.noise.weight", "mlp.gate.weight_noise.weight"},
};

constexpr std::array kMixtralRouterNames = {
    Names{"router.weight", "block_sparse_moe.gate.weight"},
};

template <class Table>
std::string lookup(const Table& table, std::string_view ours) {
  for (const auto& [from, to] : table)
    if (from == ours) return std::string(to);
  return {};
}

std::string expert_tensor(ModelFormat format, std::string_view part, std::size_t expert) {
  if (format == ModelFormat::llama_moe)
    return str("mlp.calculator.experts.weight_", part, ".", expert);
  const char* matrix = part == "gate" ? "w1" : part == "up" ? "w3" : "w2";
  return str("block_sparse_moe.experts.", expert, ".", matrix, ".weight");
}

}  // namespace

std::vector<StoredParameter> stored_parameters(const ModelConfig& config, ModelFormat format) {
  std::vector<StoredParameter> list;
  for (const ParameterSpec& spec : model_parameters(config)) {
    StoredParameter stored{spec.name, spec.shape[0], spec.shape.size() > 1 ? spec.shape[1] : 1, {}};
    const auto whole = [&](std::string tensor, bool transposed) {
      MOE_CHECK(!tensor.empty(), "parameter ", spec.name, " has no name in format ", name(format));
      Shape shape = spec.shape;
      if (transposed) std::swap(shape.at(0), shape.at(1));
      stored.pieces.push_back({std::move(tensor), std::move(shape), 0, stored.rows, transposed});
    };

    if (!spec.name.starts_with("layers.")) {
      whole(lookup(kModelNames, spec.name), false);
      list.push_back(std::move(stored));
      continue;
    }
    const std::size_t dot = spec.name.find('.', 7);
    const std::size_t layer = std::stoul(spec.name.substr(7, dot - 7));
    const std::string prefix = str("model.layers.", layer, ".");
    const std::string_view ours = std::string_view(spec.name).substr(dot + 1);
    if (spec.placement == Placement::expert) {
      const std::string_view part = ours.substr(8, ours.find('.', 8) - 8);  // experts.PART.weight
      const bool down = part == "down";
      for (std::size_t e = 0; e + 1 < spec.expert_offsets.size(); ++e) {
        const std::int64_t first = spec.expert_offsets[e];
        const std::int64_t rows = spec.expert_offsets[e + 1] - first;
        stored.pieces.push_back(
            {prefix + expert_tensor(format, part, e),
             down ? Shape{stored.cols, rows} : Shape{rows, stored.cols}, first, rows, down,
             down && format == ModelFormat::mixtral ? config.moe.score_scale.at(layer) : 1.0});
      }
    } else if (ours.starts_with("router.")) {
      const std::string theirs = format == ModelFormat::mixtral
                                     ? lookup(kMixtralRouterNames, ours)
                                     : lookup(kLlamaMoeRouterNames, ours);
      whole(theirs.empty() ? theirs : prefix + theirs, false);
    } else {
      const std::string theirs = lookup(kLayerNames, ours);
      whole(theirs.empty() ? theirs : prefix + theirs, ours == "ffn.down.weight");
    }
    list.push_back(std::move(stored));
  }
  return list;
}

}  // namespace moe
