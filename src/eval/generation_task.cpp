// SPDX-License-Identifier: Apache-2.0
#include "eval/generation_task.h"

#include <nlohmann/json.hpp>

#include "config/declared_files.h"
#include "config/yaml_reader.h"
#include "core/error.h"
#include "eval/template.h"

namespace moe {
namespace {

ConfigSection field_keys(GenerationTask::Field& f) {
  return {{
      {"field", &f.field, "its name", true},
      {"value", &f.value, "template; left out: the completion", false},
  }};
}

ConfigSection task_keys(GenerationTask& t) {
  return {{
      {"name", &t.name, "default: the file's name", false},
      {"source", &t.source, "where the data comes from, for people", false},
      {"prompt", &t.prompt, "template", false},
      {"shots", &t.shots, "solved examples before each prompt", false},
      {"shots_data", &t.shots_data, "file whose first records they are", false},
      {"shot_answer", &t.shot_answer, "template, behind the prompt of an example", false},
      {"separator", &t.separator, "behind each example", false},
      {"stop", &t.stop, "texts that a completion ends before", false},
      {"max_tokens", &t.max_tokens, "of a completion", false},
      {"trim", &t.trim, "leave out white space at both ends of completions", false},
      {"output", config_list(t.output, field_keys), "the fields of the lines written", true},
  }};
}

}  // namespace

GenerationTask read_generation_task(const std::filesystem::path& file) {
  GenerationTask task;
  const std::string where = file.string();
  read_yaml(read_declared(file), where, {}, task_keys(task));
  if (task.name.empty()) task.name = file.stem().string();
  MOE_REQUIRE(task.shots >= 0 && task.max_tokens > 0, where, ": shots or max_tokens is below 0");
  MOE_REQUIRE(task.shots == 0 || (!task.shots_data.empty() && !task.shot_answer.empty()), where,
              ": shots need shots_data and shot_answer");
  MOE_REQUIRE(!task.output.empty(), where, ": output: no field is named");
  for (const std::string& stop : task.stop)
    MOE_REQUIRE(!stop.empty(), where, ": stop: an empty text");
  return task;
}

GenerationTask find_generation_task(const std::string& name_or_file) {
  const auto folders = declared_folders("generation");
  if (const auto file = find_declared(name_or_file, folders)) return read_generation_task(*file);
  const auto known = declared_names(folders);
  throw InputError(str(name_or_file, ": no such generation task and no such file; tasks here: ",
                       known.empty() ? "none" : join(known, ", ")));
}

std::vector<std::string> generation_prompts(const GenerationTask& task,
                                            const std::vector<Record>& records,
                                            const std::filesystem::path& folder) {
  std::string examples;
  if (task.shots > 0) {
    const std::filesystem::path file = folder / task.shots_data;
    const std::vector<Record> shots = read_records(file, {}, "", task.shots);
    MOE_REQUIRE(std::int64_t(shots.size()) == task.shots, file.string(), ": ", shots.size(),
                " examples, task ", task.name, " wants ", task.shots);
    for (const Record& shot : shots)
      examples +=
          fill_template(task.prompt, shot) + fill_template(task.shot_answer, shot) + task.separator;
  }
  std::vector<std::string> prompts;
  for (const Record& record : records)
    prompts.push_back(examples + fill_template(task.prompt, record));
  return prompts;
}

std::string completion_line(const GenerationTask& task, const Record& record,
                            const std::string& completion) {
  std::string text = completion;
  if (task.trim) {
    constexpr const char* kSpace = " \t\r\n\f\v";
    text.erase(0, std::min(text.find_first_not_of(kSpace), text.size()));
    text.erase(text.find_last_not_of(kSpace) + 1);
  }
  nlohmann::ordered_json line;
  for (const GenerationTask::Field& f : task.output)
    line[f.field] = f.value.empty() ? text : fill_template(f.value, record);
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace moe
