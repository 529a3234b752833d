// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "eval/record.h"

namespace moe {

/// A task whose answers a program outside of ours grades, as a file of configs/generation declares
/// it: how a record becomes a prompt, where an answer ends, and what the grader reads
/// (docs/evaluation.md). Texts are templates over the fields of a record (eval/template.h).
struct GenerationTask {
  /// A field of the lines that are written.
  struct Field {
    std::string field;
    std::string value;  // template; empty: the completion
  };
  std::string name, source;
  std::string prompt = "{prompt}";
  std::string shots_data;   // file that solved examples come from, in the folder of the prompts
  std::int64_t shots = 0;   // the first so many of it stand before each prompt
  std::string shot_answer;  // template, behind the prompt of an example
  std::string separator = "\n\n";  // behind each example
  std::vector<std::string> stop;   // a completion ends before these
  std::int64_t max_tokens = 512;
  bool trim = false;  // completions without white space at both ends
  std::vector<Field> output;
};

/// Reads a task file. Throws InputError with file and line.
GenerationTask read_generation_task(const std::filesystem::path& file);
/// `name_or_file`: a file, or the name of one in configs/generation. Throws InputError naming the
/// tasks that there are.
GenerationTask find_generation_task(const std::string& name_or_file);

/// The prompts of the records, examples before them. `folder`: where shots_data lies. Throws
/// InputError naming the record for fields that it lacks.
std::vector<std::string> generation_prompts(const GenerationTask& task,
                                            const std::vector<Record>& records,
                                            const std::filesystem::path& folder);

/// The JSON line for the grader.
std::string completion_line(const GenerationTask& task, const Record& record,
                            const std::string& completion);

}  // namespace moe
