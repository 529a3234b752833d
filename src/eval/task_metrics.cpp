// SPDX-License-Identifier: Apache-2.0
#include "eval/task_metrics.h"

#include <algorithm>
#include <cmath>

namespace moe {
namespace {

const std::string kPerplexity = "perplexity";

double characters(std::string_view text) {
  return double(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

double right_share(const Question& question, std::span<const RequestScore> options) {
  double likeliest = options[0].log_likelihood, right = 0, all = 0;
  for (const RequestScore& o : options) likeliest = std::max(likeliest, o.log_likelihood);
  for (std::size_t i = 0; i < options.size(); ++i) {
    const double p = std::exp(options[i].log_likelihood - likeliest);
    all += p;
    if (question.right[i]) right += p;
  }
  return right / all;
}

struct Moments {
  double sum = 0, squares = 0;  // squares: of distances from the mean
  std::size_t n = 0;
  double mean() const { return sum / double(n); }
};

Moments moments_of(const std::vector<std::vector<double>>& values, std::size_t metric) {
  Moments m;
  m.n = values.size();
  for (const auto& v : values) m.sum += v[metric];
  for (const auto& v : values) m.squares += (v[metric] - m.mean()) * (v[metric] - m.mean());
  return m;
}

/// `variance`: of a question.
Metric metric_of(const std::string& name, double mean, std::optional<double> variance,
                 std::size_t n) {
  Metric metric{name, mean, {}, true};
  if (variance) metric.standard_error = std::sqrt(*variance / double(n));
  if (name != kPerplexity) return metric;
  metric.value = std::exp(-mean);
  metric.higher_is_better = false;
  if (metric.standard_error) *metric.standard_error *= metric.value;
  return metric;
}

}  // namespace

std::vector<std::string> metric_names(TaskForm form) {
  if (form == TaskForm::continuation) return {"acc", kPerplexity};
  if (form == TaskForm::several) return {"acc"};
  return {"acc", "acc_norm", "acc_bytes", "acc_tokens"};
}

std::vector<double> question_values(const Question& question, std::span<const RequestScore> options,
                                    TaskForm form) {
  if (form == TaskForm::continuation)
    return {options[0].greedy ? 1.0 : 0.0, options[0].log_likelihood};
  if (form == TaskForm::several) return {right_share(question, options)};
  const auto right = [&](auto length) {
    std::size_t best = 0;
    double largest = 0;
    for (std::size_t i = 0; i < options.size(); ++i) {
      const double x = options[i].log_likelihood / length(i);
      if (i == 0 || x > largest) best = i, largest = x;
    }
    return best == question.gold ? 1.0 : 0.0;
  };
  std::vector<std::string_view> texts;
  for (const std::string& text : question.continuations) {
    const std::size_t first = text.find_first_not_of(" \t\n\r\f\v");
    texts.push_back(std::string_view(text).substr(first == text.npos ? 0 : first));
  }
  return {right([](std::size_t) { return 1.0; }),
          right([&](std::size_t i) { return characters(texts[i]); }),
          right([&](std::size_t i) { return double(texts[i].size()); }),
          right([&](std::size_t i) { return double(options[i].tokens); })};
}

std::vector<Metric> summarize(const std::vector<std::vector<double>>& values, TaskForm form) {
  return pool({values}, form);
}

std::vector<Metric> pool(const std::vector<std::vector<std::vector<double>>>& subsets,
                         TaskForm form) {
  const std::vector<std::string> names = metric_names(form);
  std::vector<Metric> metrics;
  for (std::size_t m = 0; m < names.size(); ++m) {
    double sum = 0, squares = 0;
    std::size_t n = 0;
    for (const auto& values : subsets) {
      const Moments subset = moments_of(values, m);
      sum += subset.sum;
      squares += subset.squares;
      n += subset.n;
    }
    const std::optional<double> variance =
        n > subsets.size() ? std::optional(squares / double(n - subsets.size())) : std::nullopt;
    metrics.push_back(metric_of(names[m], sum / double(n), variance, n));
  }
  return metrics;
}

}  // namespace moe
