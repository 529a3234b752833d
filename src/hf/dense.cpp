// SPDX-License-Identifier: Apache-2.0
#include "hf/dense.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <string>

#include "core/error.h"
#include "hf/attention_heads.h"
#include "hf/hf_config.h"

namespace moe {
namespace {

/// Where each neuron of the dense layer lies among the rows of its experts, routed ones first.
using Places = std::vector<std::int64_t>;

Places places_of(const ModelConfig& moe, std::int64_t layer, const std::vector<std::int64_t>& ids) {
  const std::int64_t routed = total_neurons(moe.layer_expert_sizes(layer));
  const std::int64_t shared = total_neurons(moe.layer_shared_sizes(layer));
  const std::int64_t width = moe.intermediate_size;
  if (ids.empty()) {
    MOE_REQUIRE(routed + shared == width, "the experts of layer ", layer, " have ", routed + shared,
                " neurons, the dense model ", width,
                ": without the ids of their neurons no dense model can be made of them");
    Places places(std::size_t(width), 0);
    std::iota(places.begin(), places.begin() + shared, routed);
    std::iota(places.begin() + shared, places.end(), 0);
    return places;
  }
  MOE_REQUIRE(std::int64_t(ids.size()) == routed + shared, "layer ", layer, " has ", ids.size(),
              " neuron ids, its experts ", routed + shared, " neurons");
  Places places(std::size_t(width), -1);
  for (std::size_t row = 0; row < ids.size(); ++row) {
    const std::int64_t id = ids[row];
    MOE_REQUIRE(id >= 0 && id < width, "neuron id ", id, " of layer ", layer,
                " is none of the dense model's ", width, " neurons");
    std::int64_t& place = places[std::size_t(id)];
    MOE_REQUIRE(place < 0, "neuron ", id, " of layer ", layer,
                " is in the experts twice: copied neurons have no place in a dense model");
    place = std::int64_t(row);
  }
  const auto missing = std::find(places.begin(), places.end(), -1);
  MOE_REQUIRE(missing == places.end(), "neuron ", missing - places.begin(), " of layer ", layer,
              " is in no expert: the dense model cannot be made again");
  return places;
}

/// "layers.N.ffn.PART.weight" of a layer with experts.
struct FfnName {
  std::int64_t layer;
  std::string prefix, part;  // "layers.N.", ".PART.weight"
};

std::optional<FfnName> ffn_name(const ModelConfig& moe, const std::string& name) {
  const std::size_t at = name.find(".ffn.");
  if (!name.starts_with("layers.") || at == std::string::npos) return std::nullopt;
  const std::int64_t layer = std::stoll(name.substr(7, at - 7));
  if (!moe.is_moe_layer(layer)) return std::nullopt;
  return FfnName{layer, name.substr(0, at + 1), name.substr(at + 4)};
}

/// The dense matrices of attentions that have experts.
class AttentionSource {
 public:
  AttentionSource(const ModelConfig& moe, ParameterRows rows) : moe_(moe), rows_(std::move(rows)) {}

  /// The layer and matrix of a dense attention's parameter that experts hold.
  std::optional<AttentionMatrix> held_by_experts(const std::string& name) const {
    const auto matrix = dense_attention_matrix(name);
    if (!matrix || !moe_.is_attention_moe_layer(matrix->layer)) return std::nullopt;
    const bool key = matrix->part == "k" || matrix->part == "v";
    if (key && moe_.attention_moe.kind == AttentionExpert::queries) return std::nullopt;
    return matrix;
  }

  Tensor rows(const AttentionMatrix& of, std::int64_t first, std::int64_t count) {
    const std::string name = str("layers.", of.layer, ".attention.experts.", of.part, ".weight");
    if (name != cached_) {
      cached_ = {};
      all_ = of.part == "k" || of.part == "v" ? keys(name) : queries(name, of.part == "o");
      cached_ = name;
    }
    return all_.slice(first, count);
  }

 private:
  Tensor queries(const std::string& name, bool transpose) const {
    const std::vector<std::int64_t> head_at = expert_query_heads(moe_);
    std::vector<std::int64_t> place(head_at.size());
    for (std::size_t i = 0; i < place.size(); ++i) place[std::size_t(head_at[i])] = std::int64_t(i);
    const Tensor experts = rows_(name, 0, moe_.heads * moe_.head_dim);
    const Tensor heads = gather_blocks(experts, place, moe_.head_dim);
    return transpose ? transposed(heads) : heads;
  }

  /// Copies of one head in several experts were equal once; training parts them.
  Tensor keys(const std::string& name) const {
    const std::vector<std::int64_t> head_at = expert_key_heads(moe_);
    const std::int64_t d = moe_.head_dim;
    const Tensor experts = rows_(name, 0, std::int64_t(head_at.size()) * d);
    std::vector<std::int64_t> place(std::size_t(moe_.kv_heads), -1);
    for (std::size_t i = 0; i < head_at.size(); ++i) {
      std::int64_t& first = place[std::size_t(head_at[i])];
      if (first < 0) first = std::int64_t(i);
      const Tensor a = experts.slice(first * d, d), b = experts.slice(std::int64_t(i) * d, d);
      MOE_REQUIRE(std::memcmp(a.bytes(), b.bytes(), a.nbytes()) == 0, name, ": experts ", first,
                  " and ", i, " hold copies of key/value head ", head_at[i],
                  " that differ (they were trained), so one dense attention cannot stand for "
                  "both: export native or llama-moe-v2");
    }
    return gather_blocks(experts, place, d);
  }

  ModelConfig moe_;
  ParameterRows rows_;
  std::string cached_;
  Tensor all_;
};

class DenseSource {
 public:
  DenseSource(const ModelConfig& moe, ParameterRows rows, const NeuronOrder& order)
      : moe_(moe), rows_(std::move(rows)), attention_(moe, rows_) {
    MOE_REQUIRE(!moe.moe.expert_bias,
                "the experts have biases, for which a dense model has no place");
    MOE_REQUIRE(order.empty() || std::int64_t(order.size()) == moe.layers, "neuron ids of ",
                order.size(), " layers were given for a model of ", moe.layers);
    for (std::int64_t l = 0; l < moe.layers; ++l) {
      const auto& ids = order.empty() ? std::vector<std::int64_t>{} : order[std::size_t(l)];
      MOE_REQUIRE(ids.empty() || moe.is_moe_layer(l), "layer ", l,
                  " is dense, but neuron ids were given for it");
      places_.push_back(moe.is_moe_layer(l) ? places_of(moe, l, ids) : Places{});
    }
  }

  Tensor rows(const std::string& name, std::int64_t first, std::int64_t count) {
    if (const auto matrix = attention_.held_by_experts(name))
      return attention_.rows(*matrix, first, count);
    const auto ffn = ffn_name(moe_, name);
    if (!ffn) return rows_(name, first, count);
    const Tensor& all = experts(*ffn, name);
    const Places& places = places_[std::size_t(ffn->layer)];
    const Tensor result = Tensor::empty({count, all.cols()}, all.dtype());
    const std::size_t row = std::size_t(all.cols()) * size_of(all.dtype());
    for (std::int64_t r = 0; r < count; ++r)
      std::memcpy(result.bytes() + std::size_t(r) * row,
                  all.bytes() + std::size_t(places[std::size_t(first + r)]) * row, row);
    return result;
  }

 private:
  /// All rows of a layer's experts: asked for in any order, they are needed from everywhere.
  const Tensor& experts(const FfnName& ffn, const std::string& name) {
    if (name == cached_) return all_;
    cached_ = {};
    const std::int64_t routed = total_neurons(moe_.layer_expert_sizes(ffn.layer));
    const std::int64_t shared = total_neurons(moe_.layer_shared_sizes(ffn.layer));
    all_ = rows_(ffn.prefix + "experts" + ffn.part, 0, routed);
    if (shared > 0) {
      const Tensor both = Tensor::empty({routed + shared, all_.cols()}, all_.dtype());
      both.slice(0, routed).copy_from(all_);
      both.slice(routed, shared).copy_from(rows_(ffn.prefix + "shared" + ffn.part, 0, shared));
      all_ = both;
    }
    cached_ = name;
    return all_;
  }

  ModelConfig moe_;
  ParameterRows rows_;
  AttentionSource attention_;
  std::vector<Places> places_;
  std::string cached_;
  Tensor all_;
};

}  // namespace

ModelConfig dense_config_of(const ModelConfig& moe) {
  MOE_REQUIRE(moe.is_moe() || moe.is_attention_moe(), "the model is dense already");
  ModelConfig dense = moe;
  dense.moe = {};
  dense.attention_moe = {};
  return dense;
}

ParameterRows dense_rows(const ModelConfig& moe, const ParameterRows& rows,
                         const NeuronOrder& order) {
  const auto source = std::make_shared<DenseSource>(moe, rows, order);
  return [source](const std::string& name, std::int64_t first, std::int64_t count) {
    return source->rows(name, first, count);
  };
}

}  // namespace moe
