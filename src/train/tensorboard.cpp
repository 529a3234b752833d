// SPDX-License-Identifier: Apache-2.0
#include "train/tensorboard.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/log.h"

namespace moe {
namespace {

/// Scalars of one step; what is no number is left out.
class Scalars {
 public:
  explicit Scalars(EventRecord& record) : record_(record) {}

  void add(const std::string& tag, double value) {
    if (std::isfinite(value)) record_.scalars.emplace_back(tag, float(value));
  }
  template <class Map>
  void add_all(const std::string& prefix, const Map& values) {
    for (const auto& [name, value] : values) add(prefix + name, double(value));
  }
  /// One for each layer with experts, and their mean.
  template <class Number>
  void add_layers(const std::string& tag, const std::vector<Number>& values) {
    if (values.empty()) return;
    for (std::size_t l = 0; l < values.size(); ++l)
      add(fmt::format("{}_by_layer/{:02}", tag, l), double(values[l]));
    add(tag, std::accumulate(values.begin(), values.end(), 0.0) / double(values.size()));
  }

 private:
  EventRecord& record_;
};

void add_losses(const StepMetrics& m, Scalars& s) {
  s.add("train/loss", m.loss);
  s.add("train/teacher_kl", m.teacher_kl.value_or(NAN));
  s.add_all("train/loss_by_domain/", m.domain_loss);
  s.add_all("held_out/", m.held_out_loss);
}

void add_routing(const std::string& prefix, const RoutingMetrics& m, EventRecord& record,
                 Scalars& s) {
  if (m.top_k > 0) s.add(prefix + "router/top_k", double(m.top_k));
  s.add_all(prefix + "router/loss/", m.router_losses);
  s.add_layers(prefix + "router/entropy", m.router_entropy);
  s.add_layers(prefix + "router/probability_entropy", m.probability_entropy);
  s.add_layers(prefix + "load/max_over_mean", m.load_max_over_mean);
  if (!m.dead_experts.empty())
    s.add(prefix + "load/dead_experts",
          std::accumulate(m.dead_experts.begin(), m.dead_experts.end(), 0.0));
  if (!m.load_max_over_mean.empty())
    s.add(prefix + "load/dropped_tokens", double(m.dropped_tokens));
  for (std::size_t l = 0; l < m.expert_load.size(); ++l)
    record.bars.push_back(
        {fmt::format("{}load/experts_of_layer/{:02}", prefix, l), m.expert_load[l]});
}

EventRecord by_tokens(const StepMetrics& m) {
  EventRecord record;
  record.step = m.tokens;
  Scalars s(record);
  add_losses(m, s);
  return record;
}

}  // namespace

EventRecord event_record(const StepMetrics& m) {
  EventRecord record;
  record.step = m.step;
  Scalars s(record);
  add_losses(m, s);
  s.add("train/tokens", double(m.tokens));
  s.add("train/grad_norm", m.grad_norm);
  s.add("train/learning_rate", m.learning_rate);
  s.add("train/skipped_steps", double(m.skipped_steps));
  s.add("train/rollbacks", double(m.rollbacks));
  s.add_all("data/weight/", m.domain_weights);
  s.add_all("data/epochs/", m.domain_epochs);
  add_routing("", m, record, s);
  add_routing("attention/", m.attention, record, s);
  s.add("speed/tokens_per_second", m.tokens_per_second);
  s.add("speed/flops_per_second", m.flops_per_second);
  s.add("time/step", m.step_seconds);
  s.add_all("time/", m.phase_seconds);
  s.add("time/exposed_comm", m.exposed_comm_seconds);
  s.add_all("time/exposed_comm/", m.exposed_comm_by_phase);
  s.add_all("memory/", m.memory_bytes);
  return record;
}

TensorBoard::TensorBoard(const std::filesystem::path& folder, std::int64_t last_step,
                         std::int64_t tokens) {
  guarded([&] {
    steps_.emplace(folder, last_step + 1);
    tokens_.emplace(folder / "by_tokens", tokens + 1);
  });
}

void TensorBoard::write(const StepMetrics& metrics) {
  guarded([&] {
    if (steps_) steps_->write(event_record(metrics));
    // A skipped step trained on nothing: its point would lie above the one before.
    if (tokens_ && metrics.skipped.empty()) tokens_->write(by_tokens(metrics));
  });
}

void TensorBoard::guarded(const std::function<void()>& writing) {
  try {
    writing();
  } catch (const std::exception& e) {
    if (!warned_)
      log_warning("{}: TensorBoard will not show all of this run; metrics.jsonl does", e.what());
    warned_ = true;
  }
}

}  // namespace moe
