// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/yaml_reader.h"

namespace moe {

/// What a record of a task asks for (docs/evaluation.md).
enum class TaskForm : std::uint8_t {
  choices,       // a prompt, several continuations: the likeliest
  several,       // the same, and several are right: how much of the probability they have
  contexts,      // several contexts, one continuation: where it is likeliest
  continuation,  // a prompt, one continuation: is it what the model would write?
  requests,      // one record a (context, continuation) pair, as it is to be scored
};

enum class ShotOrder : std::uint8_t { random, first };

/// A task as its file declares it. Texts are templates over the fields of a record
/// (eval/template.h).
struct TaskSpec {
  std::string name, source;
  std::int64_t version = 1;
  TaskForm form = TaskForm::choices;
  std::string data, shots_data;
  std::vector<std::string> columns;
  std::string description, prompt, continuation = "{continuation}";
  std::vector<std::string> choices, contexts;
  std::string clean;
  std::string choices_field, contexts_field;
  std::string gold_field = "gold";
  std::optional<std::int64_t> gold;
  std::vector<std::string> labels;
  std::string labels_field;
  std::string delimiter = " ", separator = "\n\n";
  std::int64_t shots = 0;
  ShotOrder shots_order = ShotOrder::random;
};

/// The keys of a task file.
ConfigSection task_keys(TaskSpec& task);

/// Reads a task file; keys that it leaves out get the defaults of its form. Throws InputError with
/// file and line.
TaskSpec read_task(const std::filesystem::path& file);

/// The task that a bare data file stands for, by the fields of its first record: query, choices;
/// context_options, continuation; context, continuation; or requests. Throws InputError where it
/// has none of these.
TaskSpec task_of_data(const std::filesystem::path& file);

/// `name_or_file`: a task file (.yaml), a data file, or the name of a task in one of `folders`.
/// Throws InputError naming the tasks that there are.
TaskSpec find_task(const std::string& name_or_file,
                   const std::vector<std::filesystem::path>& folders);

/// The data files of a task. A '*' in the path stands for the names of subsets, in alphabetical
/// order; without one there is a single file, and its subset has no name.
struct SubsetFile {
  std::string subset;
  std::filesystem::path file;
};
/// Relative paths are looked for in `folder`. Throws InputError where there is no such file.
std::vector<SubsetFile> find_data(const std::string& path, const std::filesystem::path& folder,
                                  const std::string& task);

}  // namespace moe
