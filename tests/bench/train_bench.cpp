// SPDX-License-Identifier: Apache-2.0
// How near a training step comes to the matrix-product rate of the machine, and what a MoE layer
// costs over a dense FFN of the same active FLOPs. Yardstick and measurement alternate, medians of
// each; ratios are what to read, on a machine that does nothing else. And what a step costs that
// learns from the dense model, step by step in turn with one that does not.
//   bench_train [rounds]
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "bench_model.h"
#include "bench_support.h"
#include "kernels/backend.h"
#include "layer_pass.h"
#include "train/model_source.h"
#include "train/step_metrics.h"

namespace moe {
namespace {

Tensor random_matrix(std::int64_t rows, std::int64_t cols) {
  Tensor t = Tensor::empty({rows, cols}, DType::f32);
  const std::vector<Philox> stream = {Philox(1, RandomPurpose::test)};
  backend(Device::cpu).normal(t, stream);
  return t;
}

/// FLOP/s of an f32 product of 2048^3: the yardstick.
class Yardstick {
 public:
  double rate() {
    return 2.0 * 2048 * 2048 * 2048 /
           seconds_of([&] { backend(Device::cpu).gemm(c_, a_, false, b_, false, 0); });
  }

 private:
  Tensor a_ = random_matrix(2048, 2048), b_ = random_matrix(2048, 2048),
         c_ = Tensor::empty({2048, 2048}, DType::f32);
};

void bench_step(int rounds, Yardstick& yardstick) {
  constexpr std::int64_t sequences = 4, length = 512, tokens = sequences * length;
  const ModelConfig config = bench_model();
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  EngineOptions options;
  options.micro_batch = sequences;
  Engine engine(config, options, grid, initial_weights(config, 1));
  const Batch batch = bench_batch(0, sequences, length);
  const double flops = step_flops(config, tokens, length);
  std::vector<double> step, gemm;
  std::map<std::string, std::vector<double>> phases;
  const std::int64_t steps_before = 2;
  std::int64_t allocations = 0;
  for (int r = 0; r < rounds + steps_before; ++r) {
    const double rate = yardstick.rate();
    StepResult result;
    const std::int64_t before = memory_account().system_allocations;
    const double seconds = seconds_of([&] {
      result = engine.train_step(batch, {tokens, tokens}, r + 1, 1e-4);
    });
    if (r < steps_before) continue;
    allocations += memory_account().system_allocations - before;
    gemm.push_back(rate);
    step.push_back(flops / seconds);
    for (const auto& [name, s] : result.seconds) phases[name].push_back(s);
  }
  std::printf(
      "training step: %.1f GFLOP active, %.1f GFLOP/s, product of 2048^3 %.1f GFLOP/s: %.0f %%\n",
      flops / 1e9, median(step) / 1e9, median(gemm) / 1e9, 100 * median(step) / median(gemm));
  for (const auto& [name, s] : phases)
    std::printf("  %-10s %7.1f ms\n", name.c_str(), 1e3 * median(s));
  const MemoryAccount m = memory_account();
  for (std::size_t k = 0; k < kMemoryKindNames.size(); ++k)
    std::printf("  %-12s %7.1f MB at most\n", kMemoryKindNames[k], double(m.peak[k]) / 1e6);
  std::printf("  %lld blocks asked of the system after warm-up\n",
              static_cast<long long>(allocations));
}

void bench_teacher(int rounds) {
  constexpr std::int64_t sequences = 4, length = 512, tokens = sequences * length;
  const ModelConfig config = bench_model();
  ModelConfig dense = config;
  dense.moe = {};
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  EngineOptions options;
  options.micro_batch = sequences;
  Engine alone(config, options, grid, initial_weights(config, 1));
  const auto teacher = std::make_shared<const LoadedModel>(
      ModelSource{dense, initial_weights(dense, 2), {}}, options.dtype);
  options.teacher = {teacher, &teacher->model()};
  Engine taught(config, options, grid, initial_weights(config, 1));
  const Batch batch = bench_batch(0, sequences, length);
  std::vector<double> seconds[2], ratio, asking;
  for (int r = 0; r < rounds + 2; ++r) {
    double each[2];
    StepResult result;
    for (const bool with : {false, true})
      each[with] = seconds_of([&] {
        result = (with ? taught : alone).train_step(batch, {tokens, tokens}, r + 1, 1e-4);
      });
    if (r < 2) continue;
    for (const bool with : {false, true}) seconds[with].push_back(each[with]);
    ratio.push_back(each[1] / each[0]);
    asking.push_back(result.seconds.at("teacher"));
  }
  std::printf(
      "step with a dense teacher %.0f ms (its forward %.0f ms), without %.0f ms: %.2f x; by FLOPs "
      "%.2f x\n",
      1e3 * median(seconds[1]), 1e3 * median(asking), 1e3 * median(seconds[0]), median(ratio),
      1 + forward_flops(dense, tokens, length) / step_flops(config, tokens, length));
}

void bench_layer(int rounds) {
  constexpr std::int64_t sequences = 4, length = 512;
  ModelConfig moe = bench_model(), dense = bench_model();
  moe.layers = dense.layers = 1;
  moe.moe.expert_sizes.resize(1);
  moe.moe.score_scale.resize(1);
  dense.moe = {};
  dense.intermediate_size = 512;  // 2 experts of 256
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  ParameterStore moe_store(moe, DType::f32), dense_store(dense, DType::f32);
  moe_store.load(initial_weights(moe, 1));
  dense_store.load(initial_weights(dense, 1));
  const MoeLayer experts(moe, moe_store, 0, grid);
  const DenseFfn ffn(dense_store, 0);
  const Tensor x = random_matrix(sequences * length, 512),
               dy = random_matrix(sequences * length, 512);
  const std::vector<std::int64_t> ids = {0, 1, 2, 3};
  const ForwardContext context = layer_context(ids, length);
  std::vector<double> moe_seconds, dense_seconds, ratio;
  for (int r = 0; r < 3 * rounds + 3; ++r) {
    for (ParameterStore* store : {&moe_store, &dense_store})
      for (Parameter& p : store->all()) p.variable.slot->grad = {};
    const double d =
        seconds_of([&] { layer_pass([&](const Variable& v) { return ffn.forward(v); }, x, dy); });
    const double m = seconds_of(
        [&] { layer_pass([&](const Variable& v) { return experts.forward(v, context); }, x, dy); });
    if (r < 3) continue;
    moe_seconds.push_back(m);
    dense_seconds.push_back(d);
    ratio.push_back(m / d);
  }
  std::printf(
      "MoE layer forward and backward %.2f ms, dense FFN of the same active FLOPs %.2f ms: %.2f "
      "x\n",
      1e3 * median(moe_seconds), 1e3 * median(dense_seconds), median(ratio));
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 7;
  std::printf("%d threads\n", omp_get_max_threads());
  moe::Yardstick yardstick;
  moe::bench_step(rounds, yardstick);
  moe::bench_layer(rounds);
  moe::bench_teacher(rounds);
}
