// SPDX-License-Identifier: Apache-2.0
#include "report/split_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/readable.h"
#include "report/split_record.h"
#include "report/split_terms.h"

namespace moe {
namespace {

using nlohmann::ordered_json;

/// Busiest expert over the mean.
double load_max_over_mean(const std::vector<std::int64_t>& load) {
  const auto total = double(std::accumulate(load.begin(), load.end(), std::int64_t{0}));
  return total > 0
             ? double(*std::max_element(load.begin(), load.end())) * double(load.size()) / total
             : 0;
}

ordered_json quality_json(const LayerQuality& q) {
  return {{"reconstruction_error", q.error},
          {"least_squares_scale", q.best_scale},
          {"least_squares_error", q.best_error},
          {"activation_recall", q.recall},
          {"best_activation_recall", q.best_recall},
          {"load", q.load},
          {"load_max_over_mean", load_max_over_mean(q.load)}};
}

/// "4", or "3.1 to 4.2" for scales that differ by layer.
std::string scale_range(const SplitPlan& plan) {
  double least = INFINITY, most = -INFINITY;
  for (const auto& [l, layer] : plan.layers) {
    const double scale = layer.scale.at(plan.config.moe.top_k);
    least = std::min(least, scale);
    most = std::max(most, scale);
  }
  return least == most ? fmt::format("{:g}", least) : fmt::format("{:.3g} to {:.3g}", least, most);
}

ordered_json attention_json(const SplitOptions& o, const SplitPlan& plan) {
  const AttentionMoeConfig& a = plan.config.attention_moe;
  ordered_json layers = ordered_json::array();
  for (std::int64_t l = 0; l < plan.config.layers; ++l) {
    if (!plan.config.is_attention_moe_layer(l)) continue;
    ordered_json& one = layers.emplace_back();
    one = {{"layer", l}, {"scale", a.score_scale[std::size_t(l)]}};
    const auto found = plan.attention.find(l);
    if (found == plan.attention.end()) continue;
    if (found->second.gate_agreement) one["gate_agreement"] = *found->second.gate_agreement;
    one["load"] = found->second.load;
    one["load_max_over_mean"] = load_max_over_mean(found->second.load);
  }
  return {{"kind", name(a.kind)},
          {"experts", a.experts},
          {"top_k", a.top_k},
          {"gate", attention_gate_name(plan.attention_gate)},
          {"softmax_over_all", a.softmax_over_all},
          {"scale_rule", name(o.attention.scale)},
          {"layers", layers}};
}

/// A column for every measure that the construction took.
std::string measures_table(const SplitPlan& plan) {
  if (plan.layers.empty()) return {};
  const auto& first = plan.layers.begin()->second.measures;
  if (first.empty()) return {};
  std::string text = fmt::format("\n{:>5}", "layer");
  for (const auto& [measure, value] : first) text += fmt::format("  {:>20}", measure);
  text += "\n";
  for (const auto& [l, layer] : plan.layers) {
    text += fmt::format("{:>5}", l);
    for (const auto& [measure, value] : layer.measures) text += fmt::format("  {:>20.6g}", value);
    text += "\n";
  }
  return text;
}

std::string quality_table(const SplitPlan& plan) {
  if (plan.layers.empty() || plan.layers.begin()->second.quality.empty()) return {};
  std::string text =
      fmt::format("\n{:>5}  {:>7}  {:>7}  {:>11}  {:>13}  {:>8}  {:>8}  {:>7}\n", "layer", "scale",
                  "error", "least error", "recall (best)", "load max", "overlap", "gate");
  for (const auto& [l, layer] : plan.layers) {
    const std::int64_t k = plan.config.moe.top_k;
    const LayerQuality& q = layer.quality.at(k);
    text += fmt::format(
        "{:>5}  {:>7.3f}  {:>7.4f}  {:>11.4f}  {:>5.3f} ({:>5.3f})  {:>8.2f}  "
        "{:>8.3f}  {:>7}\n",
        l, layer.scale.at(k), q.error, q.best_error, q.recall, q.best_recall,
        load_max_over_mean(q.load), neuron_overlap(layer.partition.experts),
        layer.gate_agreement ? fmt::format("{:.2f} %", 100 * *layer.gate_agreement) : "");
  }
  text += fmt::format(
      "error: {}; least error: {};\n"
      "recall: {}, and {};\n"
      "load max: {}; overlap: {};\n"
      "gate: {}.\n",
      term::kError, term::kLeastError, term::kRecall, term::kBestRecall, term::kLoadMax,
      term::kOverlap, term::kGate);
  return text;
}

/// What the refit did, layer by layer.
std::string refit_table(const SplitPlan& plan) {
  std::string text;
  for (const auto& [l, layer] : plan.layers) {
    if (!layer.refit) continue;
    const LayerRefit& r = *layer.refit;
    if (text.empty())
      text = fmt::format("\n{:>7}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}\n", "refit", "before", "after",
                         "fit", "ridge", "jitter");
    text += fmt::format("{:>7}  {:>8.4f}  {:>8.4f}  {:>8.4f}  {:>8g}  {:>8g}{}{}\n", l,
                        r.error_before, r.error_after, r.error_of_fit, r.ridge, r.jitter,
                        r.note.empty() ? "" : "  ", r.note);
  }
  return text.empty() ? text
                      : text +
                            "error on validation text with the dense down projections and with "
                            "those refitted; fit: the latter on the text they are fitted to.\n";
}

ordered_json refit_json(const LayerRefit& r) {
  return {{"error_before", r.error_before},
          {"error_after", r.error_after},
          {"error_of_fit", r.error_of_fit},
          {"ridge", r.ridge},
          {"jitter", r.jitter},
          {"note", r.note}};
}

/// Whom calibration tokens choose in the attention.
std::string attention_table(const SplitPlan& plan) {
  if (plan.attention.empty()) return {};
  std::string text = fmt::format("\n{:>9}  {:>8}  {:>7}\n", "attention", "load max", "gate");
  for (const auto& [l, layer] : plan.attention)
    text += fmt::format(
        "{:>9}  {:>8.2f}  {:>7}\n", l, load_max_over_mean(layer.load),
        layer.gate_agreement ? fmt::format("{:.2f} %", 100 * *layer.gate_agreement) : "");
  return text + fmt::format("load max: {}; gate: {}.\n", term::kLoadMax, term::kGate);
}

/// Of the feed-forward; 0 where that is dense.
std::int64_t chosen_experts(const SplitPlan& plan) {
  return plan.config.is_moe() ? plan.config.moe.top_k : 0;
}

std::string loss_table(const SplitPlan& plan, const SplitLosses& losses) {
  std::string text = fmt::format("\n{:>7}  {:>16}  {:>12}\n", "experts", "held-out loss", "added");
  text += fmt::format("{:>7}  {:>16.4f}  {:>12}\n", "dense", losses.dense.loss, "");
  for (const auto& [k, loss] : losses.by_top_k)
    text +=
        fmt::format("{:>7}  {:>16.4f}  {:>+12.4f}{}\n", k, loss.loss, loss.loss - losses.dense.loss,
                    k == chosen_experts(plan) ? "  <- the model written" : "");
  if (losses.in_native)
    text += fmt::format("{:>7}  {:>16.4f}  {:>+12.4f}  with unit weights and biases, in native\n",
                        chosen_experts(plan), losses.in_native->loss,
                        losses.in_native->loss - losses.dense.loss);
  text += fmt::format("nats a token over {} tokens, right after the split, by experts chosen.\n",
                      losses.dense.tokens);
  return text;
}

/// What the report says of the experts of the feed-forward, as rows of label and value.
void feed_forward_rows(const SplitOptions& o, const SplitPlan& plan,
                       const std::function<void(const char*, const std::string&)>& row) {
  const MoeConfig& moe = plan.config.moe;
  const Partition& first = plan.layers.begin()->second.partition;
  row("experts", fmt::format("{} of {} neurons, {} chosen per token", moe.experts,
                             size_range(sizes_of(first.experts)), moe.top_k));
  if (!first.shared.empty())
    row("shared experts",
        fmt::format("{} of {} neurons", first.shared.size(), size_range(sizes_of(first.shared))));
  row("method", fmt::format("{}, seed {}", plan.method, plan.seed));
  row("gate", fmt::format("{}{}{}", name(plan.gate_init), moe.gate_noise ? ", with noise" : "",
                          moe.softmax_over_all ? ", weights by the softmax over all" : ""));
  row("scale", fmt::format("{}{}", scale_range(plan), o.align ? ", channels aligned" : ""));
  row("weights", fmt::format("{}", name(o.weights)));
  if (o.refit != SplitRefit::none) row("refit", name(o.refit));
}

}  // namespace

std::string split_report_json(const SplitOptions& o, const SplitPlan& plan,
                              const std::optional<SplitLosses>& losses) {
  const MoeConfig& moe = plan.config.moe;
  ordered_json layers = ordered_json::array();
  for (const auto& [l, layer] : plan.layers) {
    ordered_json one = {{"layer", l},
                        {"expert_sizes", sizes_of(layer.partition.experts)},
                        {"shared_sizes", sizes_of(layer.partition.shared)},
                        {"scale", layer.scale.at(moe.top_k)},
                        {"neuron_overlap", neuron_overlap(layer.partition.experts)}};
    for (const auto& [measure, value] : layer.measures) one[measure] = value;
    if (layer.refit) one["refit"] = refit_json(*layer.refit);
    if (layer.gate_agreement) one["gate_agreement"] = *layer.gate_agreement;
    for (const auto& [k, scale] : layer.scale) {
      ordered_json& at = one["by_top_k"][std::to_string(k)];
      at["scale"] = scale;
      if (layer.quality.contains(k)) at.update(quality_json(layer.quality.at(k)));
    }
    layers.push_back(one);
  }
  const ParameterCounts parameters = count_parameters(plan.config);
  ordered_json j = {
      {"input", o.input.string()},
      {"output", o.output.string()},
      {"format", name(o.format)},
      {"method", plan.method},
      {"seed", plan.seed},
      {"experts", moe.experts},
      {"top_k", chosen_experts(plan)},
      {"shared_experts",
       plan.layers.empty() ? 0 : plan.layers.begin()->second.partition.shared.size()},
      {"gate", name(plan.gate_init)},
      {"gate_noise", moe.gate_noise},
      {"softmax_over_all", moe.softmax_over_all},
      {"scale_rule", name(o.scale)},
      {"scale",
       plan.layers.empty() ? 1 : moe.score_scale.at(std::size_t(plan.layers.begin()->first))},
      {"align", o.align},
      {"weights", name(o.weights)},
      {"refit", name(o.refit)},
      {"calibration_tokens", plan.calibration_tokens},
      {"validation_tokens", plan.validation_tokens},
      {"parameters", {{"total", parameters.total}, {"activated", parameters.activated}}},
      {"planning_seconds", plan.seconds}};
  if (losses) {
    ordered_json by_top_k;
    for (const auto& [k, loss] : losses->by_top_k) by_top_k[std::to_string(k)] = loss.loss;
    j["held_out"] = {{"tokens", losses->dense.tokens},
                     {"dense_loss", losses->dense.loss},
                     {"loss_by_top_k", by_top_k}};
    if (losses->in_native) j["held_out"]["loss_in_native"] = losses->in_native->loss;
  }
  j["layers"] = layers;
  if (plan.config.is_attention_moe()) j["attention"] = attention_json(o, plan);
  // A path need not be UTF-8.
  return j.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string split_report_text(const SplitOptions& o, const SplitPlan& plan,
                              const std::optional<SplitLosses>& losses) {
  std::string text;
  const auto row = [&](const char* label, const std::string& value) {
    text += fmt::format("{:<22}{}\n", label, value);
  };
  const auto layers = [&](std::int64_t split) {
    return split == plan.config.layers
               ? fmt::format("{}", plan.config.layers)
               : fmt::format("{}, of which {} left dense", plan.config.layers,
                             plan.config.layers - split);
  };
  row("layers", plan.config.is_moe() ? layers(std::int64_t(plan.layers.size()))
                                     : fmt::format("{}, dense feed-forward", plan.config.layers));
  if (plan.config.is_moe()) feed_forward_rows(o, plan, row);
  if (plan.config.is_attention_moe()) {
    const AttentionMoeConfig& a = plan.config.attention_moe;
    const auto split = std::count(a.layers.begin(), a.layers.end(), true);
    row("attention", fmt::format("{} experts of {}, {} chosen per token, layers: {}", a.experts,
                                 name(a.kind), a.top_k, layers(split)));
    row("attention gate", fmt::format("{}{}, scale {:g}", attention_gate_name(plan.attention_gate),
                                      a.softmax_over_all ? ", weights by the softmax over all" : "",
                                      a.score_scale.front()));
  }
  const ParameterCounts parameters = count_parameters(plan.config);
  row("parameters", fmt::format("{} ({}), {} activated", parameters.total,
                                readable_count(double(parameters.total)),
                                readable_count(double(parameters.activated))));
  if (plan.calibration_tokens > 0)
    row("calibration",
        fmt::format("{} tokens{}", plan.calibration_tokens,
                    plan.validation_tokens > 0
                        ? fmt::format(", {} more decide between fits", plan.validation_tokens)
                        : ""));
  row("planned in", fmt::format("{:.2f} s", plan.seconds));
  text += measures_table(plan) + quality_table(plan) + refit_table(plan) + attention_table(plan);
  if (losses) text += loss_table(plan, *losses);
  return text;
}

}  // namespace moe
