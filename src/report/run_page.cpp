// SPDX-License-Identifier: Apache-2.0
#include "report/run_page.h"

#include <fmt/format.h>

#include <functional>
#include <vector>

#include "report/html_page.h"
#include "report/run_chart.h"
#include "report/run_differences.h"
#include "report/run_sections.h"
#include "report/run_style.h"
#include "report/run_summary.h"

namespace moe {
namespace {

constexpr const char* kTokens = "tokens trained on";

using Runs = std::span<const RunRecord>;

/// A curve over the tokens for each run: pale as measured, strong as smoothed.
void add_curves(RunChart& chart, Runs runs,
                const std::function<RunRecord::Series(const RunRecord&)>& pick) {
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const RunRecord::Series s = pick(runs[r]);
    add_smoothed(chart, runs[r].name, r, points_of(s, runs[r].tokens));
  }
}

std::function<RunRecord::Series(const RunRecord&)> named(const std::string& name) {
  return [name](const RunRecord& run) {
    const RunRecord::Series* s = run.find(name);
    return s == nullptr ? RunRecord::Series() : *s;
  };
}

std::function<RunRecord::Series(const RunRecord&)> mean_of(const std::string& prefix) {
  return [prefix](const RunRecord& run) { return run.mean_below(prefix); };
}

RunChart over_tokens(const std::string& y_label) {
  RunChart chart;
  chart.x_label = kTokens;
  chart.y_label = y_label;
  return chart;
}

/// What was skipped as dots, rollbacks as lines.
void add_events(RunChart& chart, Runs runs) {
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const auto add = [&](const std::vector<RunRecord::Event>& events, bool line) {
      for (const RunRecord::Event& e : events)
        chart.marks.push_back(
            {runs[r].tokens[e.row],
             fmt::format("{}, step {}: {}", runs[r].name, runs[r].steps[e.row], e.text), r, line});
    };
    add(runs[r].skipped, false);
    add(runs[r].rollbacks, true);
  }
}

std::string loss_figure(Runs runs) {
  RunChart chart = over_tokens("nats a token");
  add_curves(chart, runs, named("loss"));
  add_events(chart, runs);
  return "<div class=\"tall\">" +
         figure_of("Loss by tokens", chart,
                   "Mean cross-entropy of each step's tokens, without router losses. Pale: every "
                   "step; strong: smoothed, where a run has 100 steps. Dots at the top: skipped "
                   "steps; upright lines: rollbacks.") +
         "</div>\n";
}

std::string held_out_figure(Runs runs) {
  RunChart chart = over_tokens("nats a token");
  chart.exponential_too = true;
  for (std::size_t r = 0; r < runs.size(); ++r)
    if (runs.size() == 1)
      add_each(chart, runs[r], "held_out_loss/", runs[r].tokens, Drawn::dots);
    else
      chart.curves.push_back({runs[r].name,
                              points_of(runs[r].mean_below("held_out_loss/"), runs[r].tokens), r,
                              false, true});
  return figure_of(runs.size() == 1 ? "Held-out loss by domain" : "Held-out loss", chart,
                   runs.size() == 1 ? "Text that is not trained on; right: perplexity."
                                    : "Text that is not trained on, the mean over its domains; "
                                      "right: perplexity.");
}

std::string held_out_table(Runs runs, std::span<const RunSummary> summaries) {
  const std::string table = held_out_html(summaries);
  if (table.empty()) return {};
  return html_figure(runs.size() > 1 ? "Held-out loss by domain, last" : "Last evaluation", table,
                     "Loss in nats a token, perplexity its exponential.");
}

std::string gradient_figure(Runs runs) {
  RunChart chart = over_tokens("norm before clipping");
  chart.logarithmic = true;
  add_curves(chart, runs, named("grad_norm"));
  add_events(chart, runs);
  return figure_of("Gradient norm", chart,
                   "Of all parameters together, on a logarithmic axis. Dots at the top: skipped "
                   "steps; upright lines: rollbacks.");
}

std::string simple_figure(Runs runs, const std::string& heading, const std::string& y_label,
                          const std::function<RunRecord::Series(const RunRecord&)>& pick,
                          const std::string& explanation, bool from_zero) {
  RunChart chart = over_tokens(y_label);
  chart.from_zero = from_zero;
  add_curves(chart, runs, pick);
  return figure_of(heading, chart, explanation);
}

/// As it is: a schedule has corners.
std::string rate_figure(Runs runs) {
  RunChart chart = over_tokens("of AdamW");
  chart.from_zero = true;
  for (std::size_t r = 0; r < runs.size(); ++r)
    if (const RunRecord::Series* s = runs[r].find("learning_rate"))
      chart.curves.push_back({runs[r].name, points_of(*s, runs[r].tokens), r, false, false});
  return figure_of("Learning rate", chart, "");
}

std::string overview(Runs runs, std::span<const RunSummary> summaries) {
  return "<div class=\"charts\">\n" + held_out_figure(runs) + rate_figure(runs) +
         gradient_figure(runs) +
         simple_figure(runs, "Divergence from the teacher", "nats a token", named("teacher_kl"),
                       "KL(teacher || student) of the text trained on.", true) +
         simple_figure(runs, "Busiest expert", "load over the mean", mean_of("load_max_over_mean/"),
                       "Most tokens that an expert of a layer got, over the mean of that layer; "
                       "mean over layers. 1 is balanced.",
                       false) +
         simple_figure(runs, "Router entropy", "nats", mean_of("router_entropy/"),
                       "Of the shares of tokens that the experts of a layer got, mean over layers. "
                       "At most the logarithm of the number of experts.",
                       false) +
         simple_figure(runs, "Busiest expert of the attention", "load over the mean",
                       mean_of("attention/load_max_over_mean/"),
                       "The same of the experts in the attention.", false) +
         simple_figure(runs, "Entropy of the attention's router", "nats",
                       mean_of("attention/router_entropy/"),
                       "The same of the experts in the attention.", false) +
         simple_figure(runs, "Throughput", "tokens a second", named("tokens_per_second"),
                       "Of all ranks together.", true) +
         simple_figure(runs, "Compute", "FLOP/s", named("flops_per_second"),
                       "Floating-point operations a second of all ranks, on activated parameters, "
                       "recomputation not counted.",
                       true) +
         held_out_table(runs, summaries) + "</div>\n";
}

std::string notes(std::span<const RunSummary> summaries) {
  std::string html;
  for (const RunSummary& s : summaries)
    for (const std::string& note : s.notes)
      html += "<p class=\"warning\">" + html_escape(note) + "</p>\n";
  return html;
}

}  // namespace

std::string run_page(Runs runs, const std::string& title) {
  std::vector<RunSummary> summaries;
  std::string names, folders;
  for (const RunRecord& run : runs) {
    summaries.push_back(summary_of(run));
    names += (names.empty() ? "" : ", ") + run.name;
    folders += (folders.empty() ? "" : ", ") + run.folder.string();
  }
  const std::string& heading = title.empty() ? names : title;
  std::string body = fmt::format("<h1>{}</h1>\n<p class=\"soft\">{}</p>\n", html_escape(heading),
                                 html_escape(folders));
  body +=
      summary_html(summaries) + notes(summaries) + loss_figure(runs) + overview(runs, summaries);
  for (const RunRecord& run : runs) body += run_section(run, runs.size() > 1);
  body += differences_html(runs);
  body += fmt::format("<script>{}</script>\n", kRunScript);
  return html_page(heading, body, kRunStyle);
}

}  // namespace moe
