// SPDX-License-Identifier: Apache-2.0
// Training steps of several ranks, what is compared measured alternately in one run, medians.
//   mpirun -n 2 --bind-to none bench_exchange scaling [rounds]
//     ranks of one thread against one rank with as many threads; exposed communication
//   mpirun -n 2 --bind-to none bench_exchange overlap [rounds] [chunks] [hidden size]
//     communication beside computation against one after the other (overlap_bench.sh: between
//     hosts with a slow link)
#include <omp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench_model.h"
#include "bench_support.h"
#include "comm/collective_log.h"

namespace moe {
namespace {

constexpr std::int64_t kSequences = 4, kLength = 512;

/// A group whose collectives are over when their calls return.
class BlockingComm final : public Communicator {
 public:
  explicit BlockingComm(Communicator& group) : group_(group) {}
  explicit BlockingComm(std::unique_ptr<Communicator> group)
      : owned_(std::move(group)), group_(*owned_) {}

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  Pending all_reduce(Tensor x, ReduceOp op) override { return over(group_.all_reduce(x, op)); }
  Pending reduce_scatter(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    return over(group_.reduce_scatter(out, in, parts));
  }
  Pending all_gather(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    return over(group_.all_gather(out, in, parts));
  }
  Pending all_to_all(Tensor out, std::span<const std::int64_t> recv_rows, Tensor in,
                     std::span<const std::int64_t> send_rows, RowCounts counts) override {
    return over(group_.all_to_all(out, recv_rows, in, send_rows, counts));
  }
  Pending broadcast(Tensor x, int root) override { return over(group_.broadcast(x, root)); }
  Pending barrier() override { return over(group_.barrier()); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return std::make_unique<BlockingComm>(group_.split(color, key));
  }
  void progress() override {}

 private:
  static Pending over(Pending pending) {
    pending.wait();
    return {};
  }

  std::unique_ptr<Communicator> owned_;
  Communicator& group_;
};

/// An engine and what its steps took on this rank.
struct Contender {
  Contender(std::string what, Communicator& ranks, int ep, const ExchangeOptions& exchange,
            const EngineOptions& options, const ModelConfig& model)
      : name(std::move(what)),
        world(ranks),
        grid(ranks, ep, exchange),
        engine(model, options, grid, initial_weights(model, 1)) {}

  /// One step as it is behind another: the weights of the step before are still on their way when
  /// it begins. Leaves nothing under way.
  void step(bool counts) {
    const std::int64_t mine = kSequences / world.size();
    const Batch batch = bench_batch(world.rank() * mine, mine, kLength);
    const GlobalCounts counted{kSequences * kLength, kSequences * kLength};
    engine.train_step(batch, counted, ++steps, 1e-4);
    StepResult result;
    const double taken =
        seconds_of([&] { result = engine.train_step(batch, counted, ++steps, 1e-4); });
    while (collective_summary().finished < collective_summary().started)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (!counts) return;
    seconds.push_back(taken);
    double all = 0, rows = 0;
    for (const auto& [phase, waited] : result.exposed_seconds) {
      all += waited;
      if (phase.starts_with("dispatch") || phase.starts_with("combine") ||
          phase.starts_with("experts") || phase == "exchange counts")
        rows += waited;
    }
    exposed.push_back(all);
    exposed_rows.push_back(rows);
    for (const auto& [phase, waited] : result.exposed_seconds) phases[phase].push_back(waited);
  }

  void print() const {
    std::printf("%-28s %8.1f ms a step, %6.0f tokens/s, exposed %7.1f ms, of that rows %7.1f ms\n",
                name.c_str(), 1e3 * median(seconds), double(kSequences * kLength) / median(seconds),
                1e3 * median(exposed), 1e3 * median(exposed_rows));
    for (const auto& [phase, waited] : phases)
      std::printf("    %-24s %8.2f ms\n", phase.c_str(), 1e3 * median(waited));
  }

  std::string name;
  Communicator& world;
  ProcessGrid grid;
  Engine engine;
  std::int64_t steps = 0;
  std::vector<double> seconds, exposed, exposed_rows;
  std::map<std::string, std::vector<double>> phases;
};

EngineOptions bench_options() {
  EngineOptions options;
  options.micro_batch = kSequences;
  options.zero = true;
  return options;
}

/// Waits for the others without taking time from them.
void wait_asleep(Communicator& world) {
  Pending pending = world.barrier();
  while (!pending.test()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

void scaling(Communicator& world, int rounds) {
  const ModelConfig model = bench_model();
  const auto alone = single_rank();
  std::unique_ptr<Contender> solo;
  if (world.rank() == 0)
    solo = std::make_unique<Contender>(str("1 rank x ", world.size(), " threads"), *alone, 1,
                                       ExchangeOptions{}, bench_options(), model);
  Contender data(str(world.size(), " ranks x 1 thread, EP = 1"), world, 1, {}, bench_options(),
                 model);
  Contender expert(str(world.size(), " ranks x 1 thread, EP = ", world.size()), world, world.size(),
                   {}, bench_options(), model);
  for (int r = 0; r < rounds + 2; ++r) {
    wait_asleep(world);
    if (solo) {
      omp_set_num_threads(world.size());
      solo->step(r >= 2);
      omp_set_num_threads(1);
    }
    wait_asleep(world);
    data.step(r >= 2);
    wait_asleep(world);
    expert.step(r >= 2);
  }
  if (world.rank() > 0) return;
  solo->print();
  for (const Contender* c : {&data, &expert}) {
    c->print();
    std::vector<double> ratio, share;
    for (std::size_t i = 0; i < c->seconds.size(); ++i) {
      ratio.push_back(solo->seconds[i] / c->seconds[i]);
      share.push_back(c->exposed_rows[i] / c->seconds[i]);
    }
    std::printf("  %.2f x the tokens/s of one rank (aim 0.9); exposed rows %.1f %% of the step\n",
                median(ratio), 100 * median(share));
  }
}

void overlap(Communicator& world, int rounds, std::int64_t chunks, std::int64_t hidden) {
  ModelConfig model = bench_model();
  model.hidden_size = hidden;
  model.head_dim = hidden / model.heads;
  omp_set_num_threads(1);
  BlockingComm blocking(world);
  Contender off("nothing overlaps", blocking, world.size(), {.chunks = 1}, bench_options(), model);
  Contender whole("rows in one chunk", world, world.size(), {.chunks = 1}, bench_options(), model);
  Contender parts(str("rows in ", chunks, " chunks"), world, world.size(), {.chunks = chunks},
                  bench_options(), model);
  for (int r = 0; r < rounds + 2; ++r)
    for (Contender* c : {&off, &whole, &parts}) {
      world.barrier().wait();
      c->step(r >= 2);
    }
  if (world.rank() > 0) return;
  off.print();
  for (const Contender* on : {&whole, &parts}) {
    on->print();
    std::vector<double> gain, hidden_all, hidden_rows;
    for (std::size_t i = 0; i < off.seconds.size(); ++i) {
      gain.push_back(off.seconds[i] / on->seconds[i]);
      hidden_all.push_back(1 - on->exposed[i] / off.exposed[i]);
      hidden_rows.push_back(1 - on->exposed_rows[i] / off.exposed_rows[i]);
    }
    std::printf("  gain %.2f x; hidden %.0f %% of the rows' communication, %.0f %% of all\n",
                median(gain), 100 * median(hidden_rows), 100 * median(hidden_all));
  }
}

int run(int argc, char** argv) {
  MpiWorld mpi(&argc, &argv);
  const std::string what = argc > 1 ? argv[1] : "";
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 7;
  try {
    if (what == "scaling")
      scaling(mpi.world(), rounds);
    else if (what == "overlap")
      overlap(mpi.world(), rounds, argc > 3 ? std::atoi(argv[3]) : ExchangeOptions{}.chunks,
              argc > 4 ? std::atoi(argv[4]) : 512);
    else
      throw InputError("bench_exchange scaling | overlap [rounds]");
  } catch (const std::exception& failure) {
    mpi.abort(failure.what(), 1);
  }
  return 0;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) { return moe::run(argc, argv); }
