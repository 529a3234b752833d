// SPDX-License-Identifier: Apache-2.0
// What the joint split of one layer of LLaMA-2-7B costs: 16 experts of its 11008 neurons, 4 of them
// shared, 4 of the others chosen, on synthetic tokens of 24 kinds. Every stage runs as in
// moe-split. Beside its FLOPs stand those of a plain way: ten rounds with all experts' outputs,
// products of all neurons for all tokens.
//   bench_split_layer [tokens, default 32768] [hidden, 4096] [neurons, 11008]
//   mpirun -n 2 --oversubscribe --bind-to none bench_split_layer ...        # shares the tokens
#include <sys/resource.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "bench_support.h"
#include "comm/communicator.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "split/construction.h"
#include "split/layer_gate.h"
#include "split/refit_layer.h"

namespace moe {
namespace {

constexpr std::int64_t kExperts = 12, kShared = 4, kTopK = 4, kKinds = 24;

/// Normal numbers times `scale`; row i is that of the whole that starts at row `first`.
Tensor normal(std::int64_t first, std::int64_t rows, std::int64_t cols, std::uint64_t what,
              double scale) {
  const Philox random(1, RandomPurpose::test, {what});
  Tensor t = Tensor::empty({rows, cols}, DType::f32);
  parallel_for(rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * cols; i < end * cols; ++i)
      t.data<float>()[i] = float(scale * random.normal(std::uint64_t(first * cols + i)));
  });
  return t;
}

/// Adds to each row the row of `kinds` that it is of.
Tensor of_kinds(Tensor rows, std::int64_t first, const Tensor& kinds, double weight) {
  parallel_for(rows.rows(), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      for (std::int64_t j = 0; j < rows.cols(); ++j)
        rows.data<float>()[i * rows.cols() + j] +=
            float(weight) * kinds.data<float>()[(first + i) % kKinds * rows.cols() + j];
  });
  return rows;
}

struct Stage {
  std::string name;
  double seconds = 0, processor = 0;  // processor: of all threads of this rank
  double flops = 0, estimate = 0;     // of all ranks; done plainly
};

rusage used() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage;
}

double processor_seconds() {
  const rusage usage = used();
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// On a busy machine threads wait for processors; processor seconds hardly change.
void print(const std::vector<Stage>& stages) {
  Stage all{"all"};
  for (const Stage& s : stages) {
    all.seconds += s.seconds;
    all.processor += s.processor;
    all.flops += s.flops;
    all.estimate += s.estimate;
  }
  std::printf("%-36s %8s %10s %6s %9s %9s %9s\n", "stage", "seconds", "processor", "share", "FLOPs",
              "estimate", "GFLOP/s");
  const auto line = [&](const Stage& s) {
    std::printf("%-36s %8.1f %10.1f %5.1f%% %9.2e %9.2e %9.1f\n", s.name.c_str(), s.seconds,
                s.processor, 100 * s.seconds / all.seconds, s.flops, s.estimate,
                s.flops / s.seconds * 1e-9);
  };
  for (const Stage& s : stages) line(s);
  line(all);
  std::printf("peak memory of this rank: %.2f GB\n", double(used().ru_maxrss) * 1024e-9);
}

void run(Communicator& world, std::int64_t all_tokens, std::int64_t hidden, std::int64_t neurons) {
  const std::int64_t first = all_tokens * world.rank() / world.size();
  const std::int64_t tokens = all_tokens * (world.rank() + 1) / world.size() - first;
  const std::int64_t size = neurons / (kExperts + kShared);
  MOE_REQUIRE(size * (kExperts + kShared) == neurons, "neurons must be a multiple of ",
              kExperts + kShared);
  const Tensor kinds = normal(0, kKinds, hidden, 0, 1);
  const double length = 1 / std::sqrt(double(hidden));
  const FfnMatrices ffn{of_kinds(normal(0, neurons, hidden, 1, length), 0, kinds, 0.7 * length),
                        normal(0, neurons, hidden, 2, length),
                        normal(0, neurons, hidden, 3, length)};
  const std::int64_t held = std::max<std::int64_t>(1, 2048 / world.size());
  LayerCalibration calibration;
  calibration.own = of_kinds(normal(first, tokens, hidden, 4, 0.9), first, kinds, 0.4);
  calibration.validation = of_kinds(normal(first, held, hidden, 5, 0.9), first, kinds, 0.4);
  calibration.world = &world;
  SplitContext context;
  context.seed = 1;
  context.neurons = neurons;
  context.sizes.assign(kExperts, size);
  context.shared_sizes.assign(kShared, size);
  context.top_k = kTopK;
  context.calibration = &calibration;

  const double t = double(all_tokens), d = double(hidden), i = double(neurons);
  const double m = double(size), active = double(kShared + kTopK) * m;
  const double solve = i * i * i / 3 + 2 * i * i * d;
  std::vector<Stage> stages;
  const auto stage = [&](const std::string& name, double flops, double estimate,
                         const std::function<void()>& work) {
    world.barrier().wait();
    const double processor = processor_seconds();
    const double seconds = seconds_of([&] {
      work();
      world.barrier().wait();
    });
    stages.push_back({name, seconds, processor_seconds() - processor, flops, estimate});
    if (world.rank() == 0) std::fprintf(stderr, "%s: %.1f s\n", name.c_str(), seconds);
  };

  LayerSplit split;
  stage("shared and routed neurons (P1, P8)", 4 * t * d * i + t * d * d + d * d * d / 3,
        10 * 2 * t * d * i, [&] {
          split = make_construction("joint", {})->split(context, [&](std::string_view part) {
            return part == "gate" ? ffn.gate : part == "up" ? ffn.up : ffn.down;
          });
        });
  GateWeights gate;
  stage("gate (P2)",
        6 * t * d * kExperts * m + t * d * d + d * d * d / 3 + 60 * 4 * t * d * kExperts,
        2 * t * d * d + 60 * 4 * t * d * kExperts,
        [&] { gate = fit_layer_gate(calibration.own, ffn, split.partition, kTopK, true, world); });
  const auto text = [&](const Tensor& inputs) {
    RouterConfig router;
    router.experts = kExperts;
    router.unit_weights = true;
    return RefitText{inputs, dense_ffn_output(inputs, ffn),
                     route(gate_logits(gate, inputs), kTopK, router)};
  };
  RefitText own, validation;
  stage("dense outputs", 6 * t * d * i, 6 * t * d * i, [&] {
    own = text(calibration.own);
    validation = text(calibration.validation);
  });
  LayerRefit refit;
  stage("refit with one ridge (P3, P4)", 4 * t * d * i + t * active * (active + 2 * d) + solve,
        2 * t * i * (i + d) + solve, [&] {
          refit = refit_layer(ExpertSum(ffn, split.partition), kShared * size, own, validation, 1,
                              true, {1e-3}, world);
        });
  if (world.rank() != 0) return;
  std::printf("%lld tokens, hidden %lld, %lld neurons, %d ranks of %d threads\n",
              (long long)all_tokens, (long long)hidden, (long long)neurons, world.size(),
              compute_threads());
  print(stages);
  std::printf("error on held-back tokens: %.4f, refitted %.4f\n", refit.error_before,
              refit.error_after);
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  moe::MpiWorld mpi(&argc, &argv);
  const auto argument = [&](int i, long long fallback) {
    return argc > i ? std::atoll(argv[i]) : fallback;
  };
  moe::run(mpi.world(), argument(1, 32768), argument(2, 4096), argument(3, 11008));
}
