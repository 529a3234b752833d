// SPDX-License-Identifier: Apache-2.0
#include "eval/task.h"

#include <algorithm>

#include "config/declared_files.h"
#include "core/error.h"
#include "eval/record.h"

namespace moe {

namespace fs = std::filesystem;

ConfigSection task_keys(TaskSpec& t) {
  return {{
      {"name", &t.name, "in reports; default: the file's name", false},
      {"source", &t.source, "where the data comes from, for people", false},
      {"version", &t.version, "of the task, for reports", false},
      {"form",
       config_choice(t.form, {{"choices", TaskForm::choices},
                              {"several", TaskForm::several},
                              {"contexts", TaskForm::contexts},
                              {"continuation", TaskForm::continuation},
                              {"requests", TaskForm::requests}}),
       "what a record asks for", false},
      {"data", &t.data, "jsonl or .csv file, in the folder of --data; * stands for subsets", true},
      {"columns", &t.columns, "names of the columns of .csv files", false},
      {"description", &t.description, "template, once before everything else", false},
      {"prompt", &t.prompt, "template; default: {query}, or {context} for form continuation",
       false},
      {"continuation", &t.continuation, "template, for forms contexts and continuation", false},
      {"choices", &t.choices, "templates of the choices", false},
      {"choices_field", &t.choices_field,
       "field with the list of choices; default: choices, where no templates are given", false},
      {"contexts", &t.contexts, "templates of the contexts, for form contexts", false},
      {"contexts_field", &t.contexts_field,
       "field with the list of contexts; default: context_options, where no templates are given",
       false},
      {"clean", &t.clean, "filter that every prompt, context and choice passes through", false},
      {"gold_field", &t.gold_field, "field with the right one: its number from 0, or its label",
       false},
      {"gold", &t.gold, "number of the right one, where it is the same in all records", false},
      {"labels", &t.labels, "labels of the choices that gold_field may hold", false},
      {"labels_field", &t.labels_field, "field with the list of labels", false},
      {"delimiter", &t.delimiter, "between a context and its continuation", false},
      {"shots", &t.shots, "solved examples before each question", false},
      {"shots_data", &t.shots_data, "file that examples come from; default: data itself", false},
      {"shots_order",
       config_choice(t.shots_order, {{"random", ShotOrder::random}, {"first", ShotOrder::first}}),
       "drawn anew for each question, or the first of the file", false},
      {"separator", &t.separator, "behind each example", false},
  }};
}

namespace {

void complete(TaskSpec& t, const std::string& where) {
  if (t.prompt.empty()) t.prompt = t.form == TaskForm::continuation ? "{context}" : "{query}";
  MOE_REQUIRE(t.choices.empty() || t.choices_field.empty(), where,
              ": choices and choices_field exclude each other");
  MOE_REQUIRE(t.contexts.empty() || t.contexts_field.empty(), where,
              ": contexts and contexts_field exclude each other");
  MOE_REQUIRE(t.labels.empty() || t.labels_field.empty(), where,
              ": labels and labels_field exclude each other");
  if (t.choices.empty() && t.choices_field.empty()) t.choices_field = "choices";
  if (t.contexts.empty() && t.contexts_field.empty()) t.contexts_field = "context_options";
  MOE_REQUIRE(t.shots >= 0, where, ": shots: ", t.shots, " examples");
  MOE_REQUIRE(t.form != TaskForm::requests || t.shots == 0, where,
              ": shots: ready requests hold their examples already");
  MOE_REQUIRE(!t.data.empty(), where, ": data: no file is named");
}

}  // namespace

TaskSpec read_task(const fs::path& file) {
  TaskSpec task;
  read_yaml(read_declared(file), file.string(), {}, task_keys(task));
  if (task.name.empty()) task.name = file.stem().string();
  complete(task, file.string());
  return task;
}

TaskSpec task_of_data(const fs::path& file) {
  TaskSpec task;
  task.name = file.filename().string();
  task.name.resize(task.name.find('.'));
  task.data = fs::absolute(file).string();
  const std::vector<Record> first = read_records(file, {}, "", 1);
  MOE_REQUIRE(!first.empty(), file.string(), ": no records");
  const Record& r = first[0];
  if (r.has("request.continuation") || (r.has("doc_id") && r.has("continuation"))) {
    task.form = TaskForm::requests;
    // olmes keeps all requests of a task as TASK/.../requests.jsonl.gz and names the task inside.
    if (r.has("task_name")) task.name = r.text("task_name");
  } else if (r.has("query") && r.has("choices")) {
    task.form = TaskForm::choices;
  } else if (r.has("context_options") && r.has("continuation")) {
    task.form = TaskForm::contexts;
  } else if (r.has("context") && r.has("continuation")) {
    task.form = TaskForm::continuation;
  } else {
    throw InputError(str(r.where(),
                         ": neither query and choices, nor context_options and continuation, nor "
                         "context and continuation, nor a request: write a task file that says "
                         "which fields are what (docs/evaluation.md)"));
  }
  complete(task, file.string());
  return task;
}

TaskSpec find_task(const std::string& name_or_file, const std::vector<fs::path>& folders) {
  if (const auto file = find_declared(name_or_file, folders))
    return file->extension() == ".yaml" || file->extension() == ".yml" ? read_task(*file)
                                                                       : task_of_data(*file);
  const std::vector<std::string> known = declared_names(folders);
  throw InputError(str(name_or_file, ": no such task and no such file; tasks here: ",
                       known.empty() ? "none" : join(known, ", ")));
}

std::vector<SubsetFile> find_data(const std::string& path, const fs::path& folder,
                                  const std::string& task) {
  const fs::path full = fs::path(path).is_absolute() ? fs::path(path) : folder / path;
  const std::string name = full.filename().string();
  const std::size_t star = name.find('*');
  if (star == name.npos) {
    MOE_REQUIRE(fs::is_regular_file(full), full.string(), ": no such file: task ", task,
                " needs it (docs/evaluation.md says where to get it; --data names its folder)");
    return {{"", full}};
  }
  const std::string head = name.substr(0, star), tail = name.substr(star + 1);
  std::vector<SubsetFile> files;
  if (fs::is_directory(full.parent_path()))
    for (const auto& entry : fs::directory_iterator(full.parent_path())) {
      const std::string n = entry.path().filename().string();
      if (n.size() > head.size() + tail.size() && n.starts_with(head) && n.ends_with(tail))
        files.push_back(
            {n.substr(head.size(), n.size() - head.size() - tail.size()), entry.path()});
    }
  MOE_REQUIRE(!files.empty(), full.string(), ": no such files: task ", task,
              " needs them (docs/evaluation.md says where to get them; --data names their folder)");
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.subset < b.subset; });
  return files;
}

}  // namespace moe
