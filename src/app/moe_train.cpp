// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <memory>

#include "app/app.h"
#include "app/mpi_program.h"
#include "comm/watchdog.h"
#include "train/trainer.h"

namespace moe {
namespace {

struct Options {
  std::string config, resume = "none", init_from;
  std::vector<std::string> set;
};

int run(const Options& o, MpiWorld& mpi) {
  std::vector<std::string> overrides = o.set;
  if (!o.init_from.empty()) overrides.push_back("model.init_from=" + o.init_from);
  const TrainConfig config = load_train_config(o.config, overrides);
  StartOptions start;
  start.resume = o.resume;
  start.threads = set_threads(config.run.threads, mpi.local_ranks());
  const Watchdog watchdog(config.parallel.watchdog_seconds);
  Trainer(config, start, mpi.world()).run();
  return kExitOk;
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
      "  mpirun -n 2 --bind-to none moe-train --config configs/x.yaml --resume auto\n"};
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
    return [o, &argc, &argv] {
      return moe::run_under_mpi("moe-train", argc, argv,
                                [&](moe::MpiWorld& mpi) { return moe::run(*o, mpi); });
    };
  });
}
