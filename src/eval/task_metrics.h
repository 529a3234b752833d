// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/likelihood.h"

namespace moe {

/// A figure of a task, under its name in lm-evaluation-harness where it has one.
struct Metric {
  std::string name;
  double value = 0;
  std::optional<double> standard_error;  // none for a single question
  bool higher_is_better = true;
};

/// What each question gives; metrics are their means.
///   acc         1 when the right option has the largest log-likelihood (of equal ones the first)
///   acc_norm    the same by log-likelihood over characters (Unicode code points) of the option
///   acc_bytes   over UTF-8 bytes
///   acc_tokens  over tokens
/// for form several:
///   acc         the share of the right options in the probability of all (TruthfulQA's MC2)
/// and for form continuation:
///   acc         1 when every token is the likeliest at its place
///   perplexity  exp(-mean): the question gives the log-likelihood of its whole continuation
std::vector<std::string> metric_names(TaskForm form);

/// The values of one question, in the order of metric_names(). White space before an option does
/// not count as part of its length.
std::vector<double> question_values(const Question& question, std::span<const RequestScore> options,
                                    TaskForm form);

/// Means over questions with standard errors: the sample's standard deviation over sqrt(n);
/// perplexity's is that of the mean times the perplexity (first order).
std::vector<Metric> summarize(const std::vector<std::vector<double>>& values, TaskForm form);

/// The figures of all subsets together: each question counts the same; the standard error is pooled
/// from the subsets' (sample variances weighed by n - 1), as lm-evaluation-harness does for MMLU.
std::vector<Metric> pool(const std::vector<std::vector<std::vector<double>>>& subsets,
                         TaskForm form);

}  // namespace moe
