// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "app/app.h"
#include "app/device_choice.h"
#include "app/mpi_program.h"
#include "comm/devices.h"
#include "comm/transport.h"
#include "comm/watchdog.h"
#include "core/stop_signal.h"
#include "core/terminal.h"
#include "train/run_plan.h"
#include "train/stages.h"

namespace moe {
namespace {

struct Options {
  std::string config, resume = "none", init_from, progress = "auto";
  std::vector<std::string> set, inject;
  bool selfcheck = false, dry_run = false;
  int ranks = 0;
};

int run(const Options& o, MpiWorld& mpi) {
  std::vector<std::string> overrides = o.set;
  if (!o.init_from.empty()) overrides.push_back("model.init_from=" + o.init_from);
  const TrainConfig config = load_train_config(o.config, overrides);
  MOE_REQUIRE(o.dry_run || o.ranks == 0, "--ranks is for --dry-run: mpirun -n sets the ranks");
  if (o.dry_run) {
    const int ranks = o.ranks > 0 ? o.ranks : mpi.world().size();
    for (const PlannedStage& stage : plan_stages(config)) {
      const std::string plan = to_text(plan_run(stage.config, stage.model, ranks));
      if (mpi.world().rank() > 0) continue;
      if (!stage.name.empty())
        fmt::print("{}stage {}: {} steps\n", stage.name == config.stages.front().name ? "" : "\n",
                   stage.name, stage.config.train.steps);
      fmt::print("{}", plan);
    }
    return kExitOk;
  }
  StartOptions start;
  start.resume = o.resume;
  for (const std::string& fault : o.inject) start.faults.push_back(parse_fault(fault));
  start.threads = set_threads(config.run.threads, mpi.local_ranks());
  start.host = mpi.host();
  if (config.run.device != DeviceChoice::cpu) check_devices(mpi.world());
  start.device = choose_device(config.run.device, mpi.local_rank());
  const Watchdog watchdog(config.parallel.watchdog_seconds);
  start.selfcheck = o.selfcheck;
  start.live_view = o.progress == "live" || (o.progress == "auto" && live_terminal());
  start.stop_requested = stop_signal_came;
  listen_for_stop_signals();
  const std::unique_ptr<Communicator> world =
      for_device(mpi.world(), start.device, config.parallel.transport);
  const RunEnd end = train_run(config, start, *world);
  if (end == RunEnd::complete) return kExitOk;
  ignore_stop_signals();
  return kExitRequeue;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  const moe::ProgramText text = {
      "moe-train",
      "Trains a LLaMA, dense or with experts, expert parallel x data parallel. Alone or under "
      "mpirun.",
      "  moe-train --config configs/x.yaml\n"
      "  mpirun -n 4 --bind-to none moe-train --config configs/x.yaml --set parallel.expert=2\n"
      "  mpirun -n 2 --bind-to none moe-train --config configs/x.yaml --resume auto\n"
      "  moe-train --config configs/x.yaml --dry-run --ranks 64\n"
      "A configuration with stages trains them one after the other, each in a folder of its own.\n"
      "SIGUSR1 or SIGTERM to any rank: saves after the step and ends with exit code 75, which "
      "asks\n"
      "to be started again with --resume auto; a second SIGTERM ends at once.\n"};
  return moe::run_program(argc, argv, text, [&](CLI::App& app) -> moe::Action {
    auto o = std::make_shared<moe::Options>();
    app.add_option("--config", o->config, "The run, as configs/README.md explains key by key")
        ->required();
    app.add_option("--set", o->set, "Override a key: --set a.b=c (repeatable)");
    app.add_option("--resume", o->resume,
                   "none: start anew; auto: from the run's newest checkpoint if there is one; or "
                   "a checkpoint's folder")
        ->capture_default_str();
    app.add_option("--init-from", o->init_from,
                   "Take weights alone from a model folder or checkpoint (model.init_from)");
    app.add_option("--inject", o->inject,
                   "Drill: suffer a fault, as KIND:key=value,... (repeatable; docs/drills.md)");
    app.add_option("--progress", o->progress,
                   "live: a few lines redrawn in place; plain: a line every run.log_every steps; "
                   "auto: live on a terminal. Under mpirun standard error is none: ask for live")
        ->check(CLI::IsMember({"auto", "live", "plain"}))
        ->capture_default_str();
    app.add_flag("--dry-run", o->dry_run,
                 "Print ranks, groups, memory per rank and what every collective moves, and stop");
    app.add_option("--ranks", o->ranks,
                   "Plan --dry-run for this many ranks; default: those running");
    app.add_flag("--selfcheck", o->selfcheck,
                 "First compute a small batch on the grid and in one process, compare every "
                 "gradient, and refuse to train where they differ");
    return [o, &argc, &argv] {
      return moe::run_under_mpi("moe-train", argc, argv,
                                [&](moe::MpiWorld& mpi) { return moe::run(*o, mpi); });
    };
  });
}
