// SPDX-License-Identifier: Apache-2.0
#include "report/split_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/error.h"
#include "hf/json_check.h"

namespace moe {
namespace {

using nlohmann::ordered_json;

/// Keys of a layer that are not measures of its construction.
constexpr std::array<std::string_view, 8> kLayerKeys = {
    "layer",          "expert_sizes",   "shared_sizes", "scale",
    "neuron_overlap", "gate_agreement", "by_top_k",     "refit"};

double number(const ordered_json& j) {
  return j.is_null() ? std::numeric_limits<double>::quiet_NaN() : j.get<double>();
}

std::int64_t count(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  MOE_REQUIRE(error == std::errc() && end == text.data() + text.size(), "'", text,
              "' is no number of experts");
  return value;
}

SplitRecord::Quality read_quality(const ordered_json& j) {
  return {number(j.at("reconstruction_error")),   number(j.at("least_squares_scale")),
          number(j.at("least_squares_error")),    number(j.at("activation_recall")),
          number(j.at("best_activation_recall")), j.at("load").get<std::vector<std::int64_t>>(),
          number(j.at("load_max_over_mean"))};
}

SplitRecord::Layer read_layer(const ordered_json& j) {
  SplitRecord::Layer layer;
  layer.layer = j.at("layer").get<std::int64_t>();
  layer.expert_sizes = j.at("expert_sizes").get<std::vector<std::int64_t>>();
  layer.shared_sizes = j.at("shared_sizes").get<std::vector<std::int64_t>>();
  layer.scale = number(j.at("scale"));
  layer.overlap = number(j.at("neuron_overlap"));
  if (j.contains("gate_agreement")) layer.gate_agreement = number(j.at("gate_agreement"));
  for (const auto& [key, value] : j.items())
    if (std::find(kLayerKeys.begin(), kLayerKeys.end(), key) == kLayerKeys.end())
      layer.measures.emplace_back(key, number(value));
  if (j.contains("by_top_k"))
    for (const auto& [k, one] : j.at("by_top_k").items()) {
      SplitRecord::TopK& at = layer.by_top_k[count(k)];
      at.scale = number(one.at("scale"));
      if (one.contains("reconstruction_error")) at.quality = read_quality(one);
    }
  return layer;
}

SplitRecord::Attention read_attention(const ordered_json& j) {
  SplitRecord::Attention a;
  j.at("kind").get_to(a.kind);
  j.at("gate").get_to(a.gate);
  j.at("scale_rule").get_to(a.scale_rule);
  j.at("experts").get_to(a.experts);
  j.at("top_k").get_to(a.top_k);
  j.at("softmax_over_all").get_to(a.softmax_over_all);
  for (const ordered_json& one : j.at("layers")) {
    SplitRecord::Attention::Layer& layer = a.layers.emplace_back();
    one.at("layer").get_to(layer.layer);
    layer.scale = number(one.at("scale"));
    if (one.contains("gate_agreement")) layer.gate_agreement = number(one.at("gate_agreement"));
    if (one.contains("load_max_over_mean")) layer.load_max = number(one.at("load_max_over_mean"));
  }
  return a;
}

SplitRecord read_record(const ordered_json& j) {
  SplitRecord r;
  j.at("input").get_to(r.input);
  j.at("output").get_to(r.output);
  j.at("format").get_to(r.format);
  j.at("method").get_to(r.method);
  j.at("gate").get_to(r.gate);
  j.at("scale_rule").get_to(r.scale_rule);
  j.at("seed").get_to(r.seed);
  j.at("experts").get_to(r.experts);
  j.at("top_k").get_to(r.top_k);
  j.at("shared_experts").get_to(r.shared_experts);
  j.at("gate_noise").get_to(r.gate_noise);
  j.at("softmax_over_all").get_to(r.softmax_over_all);
  r.align = j.value("align", false);
  j.at("calibration_tokens").get_to(r.calibration_tokens);
  j.at("parameters").at("total").get_to(r.parameters_total);
  j.at("parameters").at("activated").get_to(r.parameters_activated);
  r.planning_seconds = number(j.at("planning_seconds"));
  if (j.contains("held_out")) {
    const ordered_json& h = j.at("held_out");
    SplitRecord::HeldOut& held_out = r.held_out.emplace();
    h.at("tokens").get_to(held_out.tokens);
    held_out.dense_loss = number(h.at("dense_loss"));
    for (const auto& [k, loss] : h.at("loss_by_top_k").items())
      held_out.loss_by_top_k[count(k)] = number(loss);
  }
  for (const ordered_json& layer : j.at("layers")) r.layers.push_back(read_layer(layer));
  if (j.contains("attention")) r.attention = read_attention(j.at("attention"));
  MOE_REQUIRE(!r.layers.empty() || r.attention, "lists no layers");
  return r;
}

}  // namespace

const SplitRecord::Quality* SplitRecord::quality(const Layer& layer) const {
  const auto at = layer.by_top_k.find(top_k);
  return at != layer.by_top_k.end() && at->second.quality ? &*at->second.quality : nullptr;
}

SplitRecord parse_split_record(const std::string& json, const std::string& where) {
  require_strict_json(json, where);
  try {
    return read_record(ordered_json::parse(json));
  } catch (const InputError& error) {
    throw InputError(str(where, ": ", error.what()));
  } catch (const ordered_json::exception& error) {
    const std::string what = error.what();
    const std::size_t skip = what.find("] ");
    throw InputError(str(where, ": is no report of a split: ",
                         skip == std::string::npos ? what : what.substr(skip + 2)));
  }
}

std::optional<MeanQuality> mean_quality(const SplitRecord& record) {
  if (record.layers.empty()) return std::nullopt;
  MeanQuality mean;
  const auto layers = double(record.layers.size());
  for (const auto& layer : record.layers) {
    const SplitRecord::Quality* q = record.quality(layer);
    if (q == nullptr) return std::nullopt;
    mean.error += q->error / layers;
    mean.recall += q->recall / layers;
    mean.load_max += q->load_max / layers;
  }
  return mean;
}

std::string attention_phrase(const std::string& kind, std::int64_t experts, std::int64_t top_k) {
  return fmt::format("{} experts of {}, {} chosen", experts, kind, top_k);
}

std::string size_range(const std::vector<std::int64_t>& sizes) {
  const auto [least, most] = std::minmax_element(sizes.begin(), sizes.end());
  return *least == *most ? fmt::format("{}", *least) : fmt::format("{} to {}", *least, *most);
}

}  // namespace moe
