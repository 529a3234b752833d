// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "eval/run_task.h"

namespace moe {

/// The results of one task; several where it has subsets.
struct TaskGroup {
  TaskSpec spec;
  std::vector<TaskResult> results;
};

/// What stands beside the results for whoever reads them later.
struct TaskRun {
  std::string model, tokenizer, dtype;
  TaskOptions options;
  double seconds = 0;
};

/// JSON in the shape of lm-evaluation-harness: "results" by task with "acc,none",
/// "acc_stderr,none", ...; "group_subtasks", "configs", "versions", "n-shot", "higher_is_better",
/// "n-samples", "config". A task with subsets has an entry for each and one for all together.
std::string task_results_json(const std::vector<TaskGroup>& groups, const TaskRun& run);

/// A table for people.
std::string task_results_table(const std::vector<TaskGroup>& groups);

/// One JSON line for every question: task, where, gold, and for each option its log-likelihood,
/// tokens and whether it is greedy, and the question's metrics.
std::string task_samples_jsonl(const std::vector<TaskGroup>& groups);

}  // namespace moe
