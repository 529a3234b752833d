// SPDX-License-Identifier: Apache-2.0
#include "train/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/durable_files.h"
#include "core/error.h"
#include "core/readable.h"
#include "train/checkpoint_files.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// A whole line of this run's part up to `last_step`.
bool belongs(const std::string& line, std::int64_t last_step) {
  const auto j = nlohmann::json::parse(line, nullptr, false);
  return j.is_object() && j.contains("step") && j["step"].is_number_integer() &&
         j["step"].get<std::int64_t>() <= last_step;
}

/// Moves what does not belong out of the way, so that no moment has less than both files together.
void cut(const fs::path& file, std::int64_t last_step) {
  if (!fs::exists(file)) return;
  const std::string text = read_text(file);
  std::string kept, tail;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    const bool whole = end != std::string::npos;
    const std::string line = text.substr(begin, whole ? end - begin : end);
    (whole && belongs(line, last_step) ? kept : tail) += line + "\n";
    begin += line.size() + 1;
  }
  if (tail.empty()) return;
  const fs::path before = str(file.string(), ".before-", last_step);
  write_synced(before, (fs::exists(before) ? read_text(before) : "") + tail);
  const fs::path shorter = file.string() + ".tmp";
  write_synced(shorter, kept);
  rename_path(shorter, file);
}

nlohmann::ordered_json to_json(const SaveResult& r) {
  nlohmann::ordered_json j;
  j["step"] = r.step;
  j["saved"] = r.failure.empty();
  j["seconds_still"] = r.seconds_still;
  if (r.failure.empty()) {
    j["seconds"] = r.seconds;
    j["bytes"] = r.bytes;
    j["bytes_per_second"] = double(r.bytes) / r.seconds;
  } else {
    j["failure"] = r.failure;
  }
  return j;
}

void add_routing(nlohmann::ordered_json& j, const RoutingMetrics& m) {
  if (m.top_k > 0) j["top_k"] = m.top_k;
  j["router_losses"] = m.router_losses;
  j["load_max_over_mean"] = m.load_max_over_mean;
  j["router_entropy"] = m.router_entropy;
  j["probability_entropy"] = m.probability_entropy;
  j["dead_experts"] = m.dead_experts;
  j["dropped_tokens"] = m.dropped_tokens;
  if (!m.expert_load.empty()) j["expert_load"] = m.expert_load;
}

}  // namespace

std::string to_json(const StepMetrics& m) {
  nlohmann::ordered_json j;
  j["step"] = m.step;
  j["tokens"] = m.tokens;
  j["loss"] = m.loss;
  if (m.teacher_kl) j["teacher_kl"] = *m.teacher_kl;
  j["domain_loss"] = m.domain_loss;
  j["domain_weights"] = m.domain_weights;
  j["domain_epochs"] = m.domain_epochs;
  j["grad_norm"] = m.grad_norm;
  j["learning_rate"] = m.learning_rate;
  j["tokens_per_second"] = m.tokens_per_second;
  j["step_seconds"] = m.step_seconds;
  j["phase_seconds"] = m.phase_seconds;
  j["flops_per_second"] = m.flops_per_second;
  add_routing(j, m);
  if (!m.attention.load_max_over_mean.empty()) add_routing(j["attention"], m.attention);
  j["exposed_comm_seconds"] = m.exposed_comm_seconds;
  j["exposed_comm_by_phase"] = m.exposed_comm_by_phase;
  j["memory_bytes"] = m.memory_bytes;
  j["skipped_steps"] = m.skipped_steps;
  j["rollbacks"] = m.rollbacks;
  if (!m.skipped.empty()) j["skipped"] = m.skipped;
  if (!m.held_out_loss.empty()) j["held_out_loss"] = m.held_out_loss;
  if (m.checkpoint) j["checkpoint"] = to_json(*m.checkpoint);
  // Names come from a configuration file, which need not be UTF-8.
  return j.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

MetricsWriter::MetricsWriter(const fs::path& file, std::int64_t last_step)
    : file_((cut(file, last_step), file)) {}

void MetricsWriter::write(const StepMetrics& metrics) { file_.append(to_json(metrics) + "\n"); }

std::string progress_line(const StepMetrics& m, std::int64_t total_steps, double eta_seconds) {
  const std::string total = fmt::format("{}", total_steps);
  std::string line = fmt::format("step {:>{}}/{}", m.step, total.size(), total);
  const auto add = [&](double value, auto&& text) {
    if (!std::isnan(value)) line += " | " + text(value);
  };
  add(m.loss, [](double x) { return fmt::format("loss {:.4f}", x); });
  add(m.teacher_kl.value_or(NAN), [](double x) { return fmt::format("kl {:.4f}", x); });
  add(m.learning_rate, [](double x) { return fmt::format("lr {:.2e}", x); });
  add(m.grad_norm, [](double x) { return fmt::format("grad {:.3g}", x); });
  add(m.tokens_per_second, [](double x) { return readable_count(x) + " tok/s"; });
  add(m.flops_per_second, [](double x) { return readable_count(x) + "FLOP/s"; });
  if (!m.load_max_over_mean.empty())
    add(*std::max_element(m.load_max_over_mean.begin(), m.load_max_over_mean.end()),
        [](double x) { return fmt::format("load {:.2f}", x); });
  if (const auto dead = std::accumulate(m.dead_experts.begin(), m.dead_experts.end(), 0l); dead > 0)
    line += fmt::format(" | {} dead", dead);
  if (m.dropped_tokens > 0)
    line += fmt::format(" | {} dropped", readable_count(double(m.dropped_tokens)));
  if (!m.skipped.empty()) line += " | skipped: " + m.skipped;
  for (const auto& [domain, loss] : m.held_out_loss)
    line += fmt::format(" | held-out {} {:.4f}", domain, loss);
  add(eta_seconds, [](double x) { return readable_seconds(x) + " left"; });
  return line;
}

}  // namespace moe
