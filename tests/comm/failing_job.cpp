// SPDX-License-Identifier: Apache-2.0
// A job that goes wrong in the way its argument names; failing_jobs.sh watches how it ends.
#include <csignal>
#include <cstdio>
#include <iostream>
#include <map>
#include <thread>

#include "comm/communicator.h"
#include "comm/watchdog.h"

namespace moe {
namespace {

constexpr double kLimit = 2;  // seconds

void seconds(double n) { std::this_thread::sleep_for(std::chrono::duration<double>(n)); }

void all_reduce(Communicator& world) {
  world.all_reduce(Tensor::zeros({100}, DType::f32), ReduceOp::sum).wait();
}

void train_until(Communicator& world, int last_step) {
  for (int step = 0; step <= last_step; ++step) {
    set_phase_step(step);
    set_phase("forward");
    all_reduce(world);
  }
}

void throws(Communicator& world) {
  train_until(world, 3);
  if (world.rank() == 1) throw Error("the loss is not finite");
  all_reduce(world);
}

void stops(Communicator& world, int rank) {
  const Watchdog watchdog(kLimit);
  train_until(world, 5);
  if (world.rank() == rank) set_phase("backward", 7);
  seconds(kLimit);  // lets a heartbeat out, also of a busy machine, before anyone waits
  if (world.rank() == rank) std::raise(SIGSTOP);
  set_phase("gradient reduction");
  all_reduce(world);
}

void loops(Communicator& world) {
  const Watchdog watchdog(kLimit);
  train_until(world, 5);
  if (world.rank() == 1) {
    set_phase("experts", 3);
    seconds(60);
  }
  set_phase("gradient reduction");
  all_reduce(world);
}

void ends_early(Communicator& world) {
  const Watchdog watchdog(kLimit);
  train_until(world, 5);
  if (world.rank() == 1) return;
  set_phase("gradient reduction");
  all_reduce(world);
}

void leaves_without_the_rest(Communicator& world) {
  const Watchdog watchdog(kLimit);
  train_until(world, 5);
  if (world.rank() == 1) {
    set_phase("writing");
    seconds(60);
  }
}

/// Computes for longer than the limit, but nobody waits for anybody.
void computes(Communicator& world) {
  const Watchdog watchdog(kLimit);
  train_until(world, 5);
  std::cout << "computing" << std::endl;
  seconds(3 * kLimit);
  train_until(world, 9);
}

const std::map<std::string, void (*)(Communicator&)> kJobs = {
    {"throws", throws},
    {"ends_early", ends_early},
    {"stops", [](Communicator& world) { stops(world, 1); }},
    {"first_rank_stops", [](Communicator& world) { stops(world, 0); }},
    {"loops", loops},
    {"leaves_without_the_rest", leaves_without_the_rest},
    {"computes", computes},
};

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  try {
    moe::MpiWorld job(&argc, &argv);
    if (name == "unwinds") moe::kJobs.at("throws")(job.world());
    try {
      moe::kJobs.at(name)(job.world());
    } catch (const std::exception& failure) {
      job.abort(failure.what(), 3);
    }
  } catch (const std::exception& failure) {
    std::cerr << failure.what() << "\n";
    return 1;
  }
}
