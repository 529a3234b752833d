// SPDX-License-Identifier: Apache-2.0
#include "train/training_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/log.h"
#include "core/readable.h"
#include "core/status_lines.h"
#include "core/terminal.h"

namespace moe {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr std::size_t kLosses = 50, kLossBars = 20, kMostBars = 64;

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

/// How full each expert is, over all layers; 1 is the mean. Empty where layers differ in size.
std::vector<double> shares(const std::vector<std::vector<std::int64_t>>& load) {
  std::vector<double> sums;
  double all = 0;
  for (const auto& layer : load) {
    sums.resize(std::max(sums.size(), layer.size()));
    if (layer.size() != sums.size()) return {};
    for (std::size_t e = 0; e < layer.size(); ++e) {
      sums[e] += double(layer[e]);
      all += double(layer[e]);
    }
  }
  for (double& sum : sums) sum *= double(sums.size()) / std::max(all, 1.0);
  return sums;
}

std::string progress(const ViewFacts& f, int width) {
  constexpr int kWords = 62, kLeastBar = 8, kMostBar = 28;
  const std::int64_t step = f.metrics.step, total = std::max(f.total_steps, step);
  const int bar = std::clamp(width - kWords, kLeastBar, kMostBar);
  const int filled = int(double(step) / double(total) * bar);
  std::string line =
      fmt::format("step {}/{} [{}{}] {}%", step, total, std::string(std::size_t(filled), '#'),
                  std::string(std::size_t(bar - filled), '.'), 100 * step / total);
  if (std::isfinite(f.seconds_left)) line += " | " + readable_seconds(f.seconds_left) + " left";
  return line + fmt::format(" | {} tokens | {} gone", readable_count(double(f.metrics.tokens)),
                            readable_seconds(f.seconds_gone));
}

std::string learning(const StepMetrics& m, const std::vector<double>& losses) {
  std::string line = fmt::format("loss {:.4f}", m.loss);
  if (!losses.empty()) {
    const auto [least, most] = std::minmax_element(losses.begin(), losses.end());
    std::vector<double> last(losses.end() - std::ptrdiff_t(std::min(kLossBars, losses.size())),
                             losses.end());
    for (double& loss : last) loss -= *least;
    line += fmt::format(", mean {:.4f} {}", mean(losses), bars(last, *most - *least));
  }
  line += fmt::format(" | lr {:.2e}", m.learning_rate);
  if (!std::isnan(m.grad_norm)) line += fmt::format(" | grad {:.3g}", m.grad_norm);
  return line;
}

std::string machine(const StepMetrics& m) {
  std::string line = fmt::format("{} tok/s | {}FLOP/s", readable_count(m.tokens_per_second),
                                 readable_count(m.flops_per_second));
  if (!m.load_max_over_mean.empty()) {
    line += fmt::format(" | load {:.2f}", *std::max_element(m.load_max_over_mean.begin(),
                                                            m.load_max_over_mean.end()));
    const std::vector<double> experts = shares(m.expert_load);
    if (experts.size() <= kMostBars) line += " " + bars(experts, 2);
  }
  if (const auto dead = std::accumulate(m.dead_experts.begin(), m.dead_experts.end(), 0l); dead > 0)
    line += fmt::format(" | {} dead", dead);
  if (m.dropped_tokens > 0)
    line += fmt::format(" | {} dropped", readable_count(double(m.dropped_tokens)));
  if (m.skipped_steps > 0) line += fmt::format(" | skipped {}", m.skipped_steps);
  if (m.rollbacks > 0) line += fmt::format(" | rollbacks {}", m.rollbacks);
  return line;
}

}  // namespace

std::vector<std::string> view_lines(const ViewFacts& f, int width) {
  std::vector<std::string> lines = {progress(f, width), learning(f.metrics, f.losses),
                                    machine(f.metrics)};
  if (f.held_out.empty()) return lines;
  double sum = 0;
  std::string each;
  for (const auto& [domain, loss] : f.held_out) {
    sum += loss;
    each += fmt::format("{} {} {:.4f}", each.empty() ? ":" : ",", domain, loss);
  }
  const double loss = sum / double(f.held_out.size());
  lines.push_back(fmt::format("held-out {:.4f}, perplexity {:.2f}, after step {}{}", loss,
                              std::exp(loss), f.held_out_step, each));
  return lines;
}

TrainingView::TrainingView(std::int64_t total_steps, bool live) : live_(live) {
  facts_.total_steps = total_steps;
}

TrainingView::~TrainingView() {
  if (live_) leave_status();
}

void TrainingView::show(const StepMetrics& m, double seconds_left, bool due) {
  if (!live_) {
    if (due || !m.held_out_loss.empty())
      log_info("{}", progress_line(m, facts_.total_steps, seconds_left));
    return;
  }
  if (std::isfinite(m.loss)) facts_.losses.push_back(m.loss);
  if (facts_.losses.size() > kLosses) facts_.losses.erase(facts_.losses.begin());
  if (!m.held_out_loss.empty()) {
    facts_.held_out = m.held_out_loss;
    facts_.held_out_step = m.step;
  }
  const auto now = Clock::now();
  if (now < next_ && m.step < facts_.total_steps) return;
  next_ = now + kRedraw;
  facts_.metrics = m;
  facts_.seconds_gone = std::chrono::duration<double>(now - start_).count();
  facts_.seconds_left = seconds_left;
  show_status(view_lines(facts_, terminal_width()));
}

}  // namespace moe
