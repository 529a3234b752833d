// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "eval/task.h"
#include "eval/task_metrics.h"

namespace moe {

struct TaskOptions {
  std::filesystem::path data;                                     // folder of data files
  std::optional<std::int64_t> shots;                              // instead of the task's own
  std::int64_t limit = std::numeric_limits<std::int64_t>::max();  // questions of each subset
  std::int64_t batch = 8;
  std::int64_t positions = 0;  // of a request; 0: the model's
  std::uint64_t seed = 1234;   // of the examples
  bool bos = true;             // put it before every context where the model has one
};

/// A question and what the model made of it.
struct Sample {
  Question question;
  std::vector<RequestScore> options;
  std::vector<double> values;  // in the order of metric_names()
};

/// A task, or a subset of one, after all its questions.
struct TaskResult {
  std::string name;
  TaskSpec spec;
  std::vector<Sample> samples;
  std::int64_t original = 0;   // questions that its file has
  std::int64_t truncated = 0;  // requests whose context was too long
  std::int64_t tokens = 0;     // computed, the contexts' too
  std::vector<Metric> metrics() const;
};

/// Hears how many of how many requests are through, and what task that is.
using TaskProgress =
    std::function<void(const std::string& task, std::int64_t done, std::int64_t of)>;

/// Asks the model every question of every subset. Collective over `world`; every rank holds the
/// whole model and has the same results. Throws InputError naming the file and line at fault,
/// before anything is computed.
std::vector<TaskResult> run_task(const TaskSpec& task, const TaskOptions& options,
                                 const Transformer& model, const Tokenizer& tokenizer,
                                 Communicator& world, const TaskProgress& progress = {});

}  // namespace moe
