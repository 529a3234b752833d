// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include "app/app.h"
#include "app/eval_loss_command.h"
#include "app/eval_tasks_command.h"

int main(int argc, char** argv) {
  const moe::ProgramText text = {
      "moe-eval",
      "How well a model predicts held-out text, and how it does on tasks. Alone, or data parallel "
      "under mpirun.",
      "  moe-eval loss --model demo/moe --data demo/shards/docs.held-out.h5\n"
      "  moe-eval loss --model runs/x --data a.h5 b.h5 --per-document --scores scores.jsonl\n"
      "  moe-eval tasks --model runs/x --tokenizer llama2 --tasks arc_easy piqa --data tasks\n"
      "  moe-eval tasks --model runs/x --tasks my_task.yaml questions.jsonl --limit 100 --json\n"
      "  mpirun -n 4 --bind-to none moe-eval tasks --model runs/x --tasks mmlu --data tasks\n"};
  return moe::run_program(argc, argv, text, [&](CLI::App& app) -> moe::Action {
    app.require_subcommand(1);
    CLI::App* loss = app.add_subcommand(
        "loss", "Mean cross-entropy in nats over every scored token of the shards");
    CLI::App* tasks = app.add_subcommand(
        "tasks", "Multiple choice and last words, by log-likelihood (docs/evaluation.md)");
    const moe::Action run_loss = moe::define_eval_loss(*loss, argc, argv);
    const moe::Action run_tasks = moe::define_eval_tasks(*tasks, argc, argv);
    return [=] { return loss->parsed() ? run_loss() : run_tasks(); };
  });
}
