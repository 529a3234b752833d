// SPDX-License-Identifier: Apache-2.0
#include "report/split_comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "comm/communicator.h"
#include "core/error.h"
#include "eval/top_k_loss.h"
#include "hf/json_check.h"
#include "report/split_report.h"
#include "train/model_source.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLargestReport = std::int64_t{256} << 20;  // bytes
constexpr std::int64_t kMicroBatch = 4;

/// A model with what was read of it.
struct Entry {
  fs::path path;
  ComparedModel model;
  std::optional<SplitRecord> record;
  std::optional<ModelSource> source;  // without a record, or to measure
};

bool is_split_layer(const ModelConfig& c, std::int64_t layer) {
  return c.is_moe() && c.is_moe_layer(layer);
}

std::string scales_of(const ModelConfig& c) {
  double least = INFINITY, most = -INFINITY;
  for (std::int64_t l = 0; l < c.layers; ++l) {
    if (!is_split_layer(c, l)) continue;
    least = std::min(least, c.moe.score_scale.at(std::size_t(l)));
    most = std::max(most, c.moe.score_scale.at(std::size_t(l)));
  }
  return least == most ? fmt::format("{:g}", least) : fmt::format("{:.3g} to {:.3g}", least, most);
}

Entry open_entry(const fs::path& path, bool to_measure) {
  Entry entry;
  entry.path = path;
  ComparedModel& m = entry.model;
  m.folder = path.string();
  const fs::path report = path / kSplitReport;
  if (fs::exists(report)) {
    entry.record =
        parse_split_record(read_text_file(report.string(), kLargestReport), report.string());
    const SplitRecord& r = *entry.record;
    m.method = r.method;
    m.gate = r.gate;
    m.scale = r.scale_rule;
    m.experts = r.experts;
    m.shared_experts = r.shared_experts;
    m.top_k = r.top_k;
    m.quality = mean_quality(r);
    if (r.attention)
      m.attention = attention_phrase(r.attention->kind, r.attention->experts, r.attention->top_k);
    if (!to_measure) return entry;
  }
  entry.source = open_model(path);
  const ModelConfig& c = entry.source->config;
  if (entry.record)
    MOE_REQUIRE(c.moe.experts == m.experts && (m.experts == 0 || c.moe.top_k == m.top_k),
                report.string(), " does not describe the model beside it: it says ", m.experts,
                " experts, ", m.top_k, " chosen, the model has ", c.moe.experts, ", ", c.moe.top_k);
  if (entry.record) return entry;
  if (c.is_attention_moe())
    m.attention = attention_phrase(name(c.attention_moe.kind), c.attention_moe.experts,
                                   c.attention_moe.top_k);
  if (!c.is_moe()) return entry;
  m.method = "unknown";
  m.gate = c.moe.gate == GateKind::mlp ? "mlp" : "linear";
  m.scale = scales_of(c);
  m.experts = c.moe.experts;
  m.top_k = c.moe.top_k;
  for (std::int64_t l = 0; l < c.layers; ++l)
    m.shared_experts = std::max(m.shared_experts, std::int64_t(c.layer_shared_sizes(l).size()));
  return entry;
}

/// Losses that were measured when the models were split.
void take_recorded_losses(std::vector<Entry>& entries, const std::vector<std::int64_t>& top_k,
                          SplitComparison& comparison) {
  const Entry* first = nullptr;
  for (const Entry& e : entries) {
    if (!e.record || !e.record->held_out) continue;
    if (first == nullptr) first = &e;
    const auto &a = *first->record->held_out, &b = *e.record->held_out;
    // The same sums by other numbers of ranks differ in the last digits of f32.
    const bool same_loss = std::abs(a.dense_loss - b.dense_loss) <= 1e-5 * std::abs(a.dense_loss);
    if (a.tokens == b.tokens && same_loss) continue;
    comparison.warnings.push_back(fmt::format(
        "losses are left out: they were measured on different text or against different dense "
        "models ({}: dense loss {:.4f} over {} tokens, {}: {:.4f} over {}); measure them on the "
        "same text with --data",
        first->model.folder, a.dense_loss, a.tokens, e.model.folder, b.dense_loss, b.tokens));
    return;
  }
  if (first == nullptr) {
    comparison.notes.push_back(
        "no losses: split with --held-out, or compare with --data, to have some");
    return;
  }
  comparison.tokens = first->record->held_out->tokens;
  for (Entry& e : entries) {
    if (!e.record) {
      std::error_code ignored;
      for (const Entry& other : entries)
        if (other.record && other.record->held_out && e.model.experts == 0 &&
            fs::equivalent(e.path, other.record->input, ignored))
          e.model.loss[0] = other.record->held_out->dense_loss;
      if (e.model.loss.empty())
        comparison.notes.push_back(fmt::format(
            "no loss of {}: no split was made of it; measure it with --data", e.model.folder));
    } else if (e.record->held_out) {
      for (const auto& [k, loss] : e.record->held_out->loss_by_top_k)
        if (k == 0 || top_k.empty() || std::count(top_k.begin(), top_k.end(), k) > 0)
          e.model.loss[k] = loss;
    }
  }
  comparison.notes.push_back(fmt::format(
      "loss: nats a token over {} tokens, right after the split, by experts chosen; dense: {:.4f}",
      comparison.tokens, first->record->held_out->dense_loss));
}

/// The scale of a layer for k chosen experts, in units of the model's own; nothing when the report
/// does not say. A ratio, because formats without a scale hold it in the weights.
std::optional<double> recorded_ratio(const SplitRecord* record, std::int64_t layer,
                                     std::int64_t k) {
  if (record == nullptr) return std::nullopt;
  for (const SplitRecord::Layer& l : record->layers) {
    if (l.layer != layer) continue;
    const auto other = l.by_top_k.find(k);
    if (other == l.by_top_k.end() || !(l.scale > 0) || !(other->second.scale > 0)) break;
    return other->second.scale / l.scale;
  }
  return std::nullopt;
}

/// The same model with k chosen experts; `guessed`: the report had no scale for that.
ModelConfig with_top_k(ModelConfig c, std::int64_t k, const SplitRecord* record, bool& guessed) {
  const std::int64_t own = c.moe.top_k;
  guessed = false;
  if (k == own) return c;
  // A softmax over all experts gives k of them k / E in all, one over the chosen gives 1.
  const double guess =
      c.moe.softmax_over_all ? std::pow(double(own) / double(k), 2) : double(own) / double(k);
  for (std::int64_t l = 0; l < c.layers; ++l) {
    if (!is_split_layer(c, l)) continue;
    const auto ratio = recorded_ratio(record, l, k);
    guessed = guessed || !ratio;
    c.moe.score_scale.at(std::size_t(l)) *= ratio.value_or(guess);
  }
  c.moe.top_k = k;
  c.validate();
  return c;
}

void measure(std::vector<Entry>& entries, const ComparisonOptions& o, SplitComparison& comparison) {
  ModelConfig common = entries.front().source->config;
  for (const Entry& e : entries) {
    const ModelConfig& c = e.source->config;
    MOE_REQUIRE(c.vocab_size == common.vocab_size,
                "vocabularies differ: ", entries.front().model.folder, " has ", common.vocab_size,
                " ids, ", e.model.folder, " ", c.vocab_size);
    common.max_positions = std::min(common.max_positions, c.max_positions);
  }
  const HeldOut text =
      held_out_documents(o.shards, common, std::min(o.length, common.max_positions));
  std::vector<std::string> recorded, guessed;
  for (Entry& e : entries) {
    std::vector<std::int64_t> chosen;
    std::vector<ModelConfig> configs;
    const ModelConfig& c = e.source->config;
    bool any_recorded = false, any_guessed = false;
    if (!c.is_moe()) {
      chosen = {0};
      configs = {c};
    } else {
      for (const std::int64_t k : o.top_k.empty() ? std::vector{c.moe.top_k} : o.top_k) {
        if (k > c.moe.experts) continue;
        bool guess = false;
        chosen.push_back(k);
        configs.push_back(with_top_k(c, k, e.record ? &*e.record : nullptr, guess));
        any_guessed = any_guessed || guess;
        any_recorded = any_recorded || (k != c.moe.top_k && !guess);
      }
    }
    if (any_recorded) recorded.push_back(e.model.folder);
    if (any_guessed) guessed.push_back(e.model.folder);
    if (configs.empty()) continue;
    const auto world = single_rank();
    const auto losses = losses_of(configs, e.source->rows, DType::f32, text, kMicroBatch, *world);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      e.model.loss[chosen[i]] = losses[i].loss;
      comparison.tokens = losses[i].tokens;
    }
  }
  comparison.notes.push_back(fmt::format(
      "loss: nats a token over {} tokens, measured now, by experts chosen", comparison.tokens));
  if (!recorded.empty())
    comparison.notes.push_back(
        fmt::format("scales for other numbers of chosen experts from {} of {}", kSplitReport,
                    join(recorded, ", ")));
  if (!guessed.empty())
    comparison.notes.push_back(fmt::format(
        "no scales are known of {} for another k than the own: the own scale times own k / k, "
        "squared where weights are by the softmax over all",
        join(guessed, ", ")));
}

/// The number of chosen experts at which most models have a loss, then that which most have for
/// their own, then the smallest.
std::int64_t common_top_k(const std::vector<ComparedModel>& models) {
  std::map<std::int64_t, std::pair<int, int>> votes;
  for (const ComparedModel& m : models)
    for (const auto& [k, loss] : m.loss)
      if (k > 0) {
        votes[k].first += 1;
        votes[k].second += k == m.top_k ? 1 : 0;
      }
  std::int64_t best = 0;
  for (const auto& [k, count] : votes)
    if (best == 0 || count > votes.at(best)) best = k;
  return best;
}

double loss_for_order(const ComparedModel& m, std::int64_t k) {
  const auto found = m.loss.find(m.experts == 0 ? 0 : k);
  return found == m.loss.end() || std::isnan(found->second)
             ? std::numeric_limits<double>::infinity()
             : found->second;
}

}  // namespace

SplitComparison compare_splits(const ComparisonOptions& o) {
  SplitComparison comparison;
  comparison.measured_now = !o.shards.empty();
  MOE_REQUIRE(!o.models.empty(), "name models to compare");
  MOE_REQUIRE(o.length >= 1, "the length of documents must be positive, is ", o.length);
  std::vector<Entry> entries;
  std::int64_t most = 0;
  for (const fs::path& path : o.models) {
    entries.push_back(open_entry(path, comparison.measured_now));
    most = std::max(most, entries.back().model.experts);
  }
  for (const std::int64_t k : o.top_k)
    MOE_REQUIRE(k >= 1 && k <= most, "top-k must lie between 1 and the most experts of a model (",
                most, "), is ", k);
  if (comparison.measured_now)
    measure(entries, o, comparison);
  else
    take_recorded_losses(entries, o.top_k, comparison);

  std::set<std::int64_t> columns;
  for (Entry& e : entries) {
    for (const auto& [k, loss] : e.model.loss)
      if (k > 0) columns.insert(k);
    comparison.models.push_back(std::move(e.model));
  }
  comparison.top_k = {columns.begin(), columns.end()};
  comparison.sorted_by = common_top_k(comparison.models);
  std::stable_sort(comparison.models.begin(), comparison.models.end(),
                   [k = comparison.sorted_by](const ComparedModel& a, const ComparedModel& b) {
                     return loss_for_order(a, k) < loss_for_order(b, k);
                   });
  return comparison;
}

}  // namespace moe
