// SPDX-License-Identifier: Apache-2.0
#include "generate/routing_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

namespace moe {
namespace {

/// The slots of a token, those with the largest weight first.
std::vector<std::size_t> by_weight(const TextRouting::Layer& layer, std::size_t first) {
  std::vector<std::size_t> slots(std::size_t(layer.top_k));
  std::iota(slots.begin(), slots.end(), first);
  std::stable_sort(slots.begin(), slots.end(), [&](std::size_t a, std::size_t b) {
    return layer.weights[a] > layer.weights[b];
  });
  return slots;
}

std::string chosen(const TextRouting::Layer& layer, std::size_t token) {
  std::string out;
  for (const std::size_t slot : by_weight(layer, token * std::size_t(layer.top_k)))
    out += fmt::format("{}{}", out.empty() ? "" : ",", layer.experts[slot]);
  return out;
}

/// On one line, at most 16 bytes wide.
std::string shortened(const std::string& piece) {
  std::string out;
  for (const char c : piece) out += c == '\n' ? std::string("\\n") : std::string(1, c);
  while (out.size() > 16) {
    // Whole characters of UTF-8.
    while ((static_cast<unsigned char>(out.back()) & 0xc0) == 0x80) out.pop_back();
    out.pop_back();
  }
  return out;
}

}  // namespace

std::string routing_table(const TextRouting& routing, std::span<const std::int32_t> ids,
                          const std::vector<std::string>& pieces) {
  if (routing.layers.empty()) return "no experts: the model is dense\n";
  const std::size_t tokens =
      routing.layers[0].experts.size() / std::size_t(routing.layers[0].top_k);
  std::vector<std::size_t> widths;
  for (const TextRouting::Layer& layer : routing.layers) {
    widths.push_back(fmt::formatted_size("layer {}", layer.layer));
    for (std::size_t t = 0; t < tokens; ++t)
      widths.back() = std::max(widths.back(), chosen(layer, t).size());
  }
  std::string out = fmt::format("{:>6} {:>7} {:<16}", "token", "id", pieces.empty() ? "" : "text");
  for (std::size_t l = 0; l < widths.size(); ++l)
    out += fmt::format("  {:<{}}", fmt::format("layer {}", routing.layers[l].layer), widths[l]);
  out += "\n";
  for (std::size_t t = 0; t < tokens; ++t) {
    out += fmt::format("{:>6} {:>7} {:<16}", t, ids[t], pieces.empty() ? "" : shortened(pieces[t]));
    for (std::size_t l = 0; l < widths.size(); ++l)
      out += fmt::format("  {:<{}}", chosen(routing.layers[l], t), widths[l]);
    out += "\n";
  }
  return out;
}

std::string routing_json(const TextRouting& routing) {
  using Json = nlohmann::ordered_json;
  Json out = {{"layers", Json::array()}, {"experts", Json::array()}, {"weights", Json::array()}};
  for (const TextRouting::Layer& layer : routing.layers) {
    const auto k = std::size_t(layer.top_k);
    Json experts = Json::array(), weights = Json::array();
    for (std::size_t first = 0; first < layer.experts.size(); first += k) {
      Json of_token = Json::array(), weight_of_token = Json::array();
      for (const std::size_t slot : by_weight(layer, first)) {
        of_token.push_back(layer.experts[slot]);
        weight_of_token.push_back(layer.weights[slot]);
      }
      experts.push_back(of_token);
      weights.push_back(weight_of_token);
    }
    out["layers"].push_back(layer.layer);
    out["experts"].push_back(experts);
    out["weights"].push_back(weights);
  }
  return out.dump();
}

}  // namespace moe
