// SPDX-License-Identifier: Apache-2.0
#include "app/eval_tasks_command.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <set>

#include "app/device_choice.h"
#include "app/eval_model.h"
#include "config/declared_files.h"
#include "eval/task_report.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

struct TasksOptions {
  EvalModelOptions model;
  std::string tokenizer, data, output, samples;
  std::vector<std::string> tasks;
  TaskOptions task;
  std::int64_t shots = -1;
  bool no_bos = false, json = false, list = false;
};

int list_tasks() {
  for (const std::string& name : declared_names(declared_folders("tasks"))) {
    const TaskSpec task = find_task(name, declared_folders("tasks"));
    std::printf("%-16s %3lld shots, %s\n", name.c_str(), static_cast<long long>(task.shots),
                task.source.c_str());
  }
  return kExitOk;
}

int run(const TasksOptions& o, Communicator& world, int local_rank) {
  const auto start = std::chrono::steady_clock::now();
  require_writable(o.output);
  require_writable(o.samples);
  std::vector<TaskSpec> tasks;
  std::set<std::string> names;
  for (const std::string& name : o.tasks) {
    tasks.push_back(find_task(name, declared_folders("tasks")));
    MOE_REQUIRE(names.insert(tasks.back().name).second, name, ": a second task named ",
                tasks.back().name);
  }
  TaskRun about{o.model.model, o.tokenizer, o.model.dtype, o.task};
  if (about.tokenizer.empty()) about.tokenizer = o.model.model;
  about.options.data = o.data;
  about.options.bos = !o.no_bos;
  if (o.shots >= 0) about.options.shots = o.shots;

  const ModelSource source = open_eval_model(o.model);
  MOE_REQUIRE(o.task.positions <= source.config.max_positions, "--length ", o.task.positions,
              " exceeds the model's ", source.config.max_positions, " positions");
  const Tokenizer tokenizer =
      Tokenizer::open(o.tokenizer.empty() ? source.folder : fs::path(o.tokenizer));
  const LoadedModel loaded(source, float_dtype_named(o.model.dtype),
                           choose_device(o.model.device, local_rank));
  std::vector<TaskGroup> groups;
  for (const TaskSpec& task : tasks) {
    std::unique_ptr<Progress> progress;
    std::string shown;
    groups.push_back(
        {task, run_task(task, about.options, loaded.model(), tokenizer, world,
                        [&](const std::string& name, std::int64_t done, std::int64_t of) {
                          if (name != shown)
                            progress = std::make_unique<Progress>(name, of, "requests");
                          shown = name;
                          progress->update(done, done);
                        })});
  }
  if (world.rank() > 0) return kExitOk;
  about.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string results = task_results_json(groups, about);
  if (!o.samples.empty()) write_result(o.samples, task_samples_jsonl(groups));
  if (!o.output.empty()) write_result(o.output, results);
  std::fputs((o.json ? results : task_results_table(groups)).c_str(), stdout);
  return kExitOk;
}

}  // namespace

Action define_eval_tasks(CLI::App& app, int& argc, char**& argv) {
  auto o = std::make_shared<TasksOptions>();
  add_model_options(app, o->model);
  app.add_option("--tokenizer", o->tokenizer,
                 "The model's tokenizer, a file or its folder (default: the model's folder)");
  app.add_option("--tasks", o->tasks,
                 "Names of configs/tasks, task files (.yaml), or data files (.jsonl) whose fields "
                 "say what they are")
      ->delimiter(',');
  app.add_flag("--list", o->list, "List the named tasks and stop");
  app.add_option("--data", o->data, "Folder of the tasks' data files")->default_str(".");
  app.add_option("--shots", o->shots, "Solved examples before each question (default: the task's)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--seed", o->task.seed, "Of the choice of examples")->capture_default_str();
  app.add_option("--limit", o->task.limit, "Only the first questions of each file")
      ->default_str("all")
      ->check(CLI::PositiveNumber);
  app.add_option("--batch", o->task.batch, "Requests computed at once")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--length", o->task.positions,
                 "Inputs of a request at most; longer contexts lose their left end (default: the "
                 "model's positions)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--no-bos", o->no_bos, "No BOS before each context");
  app.add_option("--output", o->output, "Write the results as JSON, too");
  app.add_option("--samples", o->samples, "Write one JSON line for every question");
  app.add_flag("--json", o->json,
               "Print the results as JSON in the shape of lm-evaluation-harness");
  return [o, &argc, &argv] {
    if (o->list) return list_tasks();
    MOE_REQUIRE(!o->tasks.empty(), "--tasks is required (--list names those there are)");
    return run_data_parallel(argc, argv, [&](Communicator& world, int local_rank) {
      return run(*o, world, local_rank);
    });
  };
}

}  // namespace moe
