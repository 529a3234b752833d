// SPDX-License-Identifier: Apache-2.0
#include "train/run_plan.h"

#include <gmock/gmock.h>

#include <mutex>

#include "core/memory.h"
#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;
using ::testing::HasSubstr;

TrainConfig config_of(int ep) {
  TrainConfig c;
  c.data.sequence_length = 6;
  c.batch.global = 8;
  c.batch.micro = 2;
  c.parallel.expert = ep;
  c.parallel.bucket_mb = 0.004;
  return c;
}

ModelConfig wide_model() {
  ModelConfig c = parity_model();
  c.hidden_size = 64;
  c.heads = 16;
  c.intermediate_size = 400;
  c.moe.expert_sizes = {{80, 80, 80, 80, 80}, {90, 70, 80, 100, 60}, {}};
  return c;
}

std::int64_t live(MemoryKind kind) { return memory_account().live[std::size_t(kind)]; }

using Families = std::vector<std::string>;

class PlannedMemory : public ::testing::TestWithParam<std::tuple<int, bool, DType, Families>> {};

TEST_P(PlannedMemory, IsWhatTheEnginesOfAllRanksTake) {
  const auto [ep, zero, dtype, freeze] = GetParam();
  TrainConfig c = config_of(ep);
  c.train.freeze = freeze;
  c.model.dtype = dtype;
  c.parallel.zero = zero;
  const ModelConfig model = wide_model();
  const RunPlan plan = plan_run(c, model, 4);
  RankMemory all;
  for (const RankMemory& m : plan.memory) {
    // The rotary tables are made by the first forward pass.
    const std::int64_t tables = 6 * model.head_dim * std::int64_t(size_of(accumulator(dtype)));
    all.weights += (m.weights - tables) * 4 / ep;
    all.gradients += m.gradients * 4 / ep;
    all.optimizer += m.optimizer * 4 / ep;
  }
  const std::int64_t weights = live(MemoryKind::weights), gradients = live(MemoryKind::gradients),
                     optimizer = live(MemoryKind::optimizer);
  run_ranks(4, [&, ep = ep, zero = zero, dtype = dtype, freeze = freeze](Communicator& world) {
    const ProcessGrid grid(world, ep);
    EngineOptions o = parity_options(dtype);
    o.zero = zero;
    o.freeze = freeze;
    o.bucket_part_bytes = 4000;
    const Engine engine(model, o, grid, parity_weights(model));
    world.barrier().wait();
    if (world.rank() == 0) {
      const auto near = [](std::int64_t planned, std::int64_t taken, const char* what) {
        // The arena hands out blocks of a few sizes.
        EXPECT_NEAR(double(planned), double(taken), 0.08 * double(taken)) << what;
      };
      near(all.weights, live(MemoryKind::weights) - weights, "weights");
      near(all.gradients, live(MemoryKind::gradients) - gradients, "gradients");
      near(all.optimizer, live(MemoryKind::optimizer) - optimizer, "optimizer");
    }
    world.barrier().wait();
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, PlannedMemory,
                         ::testing::Combine(::testing::Values(1, 2, 4), ::testing::Bool(),
                                            ::testing::Values(DType::f32, DType::bf16),
                                            ::testing::Values(Families{},
                                                              Families{"experts", "attention"})));

TEST(RunPlan, ZeroDividesTheOptimizerByTheRanks) {
  TrainConfig c = config_of(2);
  c.batch.global = 64;
  const ModelConfig model = wide_model();
  const auto optimizer = [&](int ranks, bool zero) {
    c.parallel.zero = zero;
    std::int64_t total = 0;
    for (const RankMemory& m : plan_run(c, model, ranks).memory) total += m.optimizer * ranks / 2;
    return double(total);
  };
  const double whole = 8.0 * double(count_parameters(model).total);
  EXPECT_NEAR(optimizer(4, true), whole, 0.1 * whole);
  EXPECT_NEAR(optimizer(32, true), whole, 0.1 * whole);
  EXPECT_GT(optimizer(32, false), 15 * whole);
}

TEST(RunPlan, ListsWhatARankSendsInAStep) {
  TrainConfig c = config_of(2);
  ModelConfig model = wide_model();
  model.moe.experts = 4;
  model.moe.expert_sizes = {{100, 100, 100, 100}, {100, 100, 100, 100}, {}};
  const RunPlan plan = plan_run(c, model, 4);
  const auto bytes = [&](const std::string& name) {
    for (const PlannedCollective& p : plan.collectives)
      if (p.name == name) return p.bytes;
    return std::int64_t{-1};
  };
  // 12 tokens a rank, 2 experts each, half of them elsewhere, 2 layers, 64 numbers of 4 bytes.
  EXPECT_EQ(bytes("dispatch"), 12 * 2 / 2 * 2 * 64 * 4);
  EXPECT_EQ(bytes("dispatch gradient"), bytes("dispatch"));
  const ParameterLayout layout(model, 0, 2);
  EXPECT_EQ(bytes("expert gradients (reduce-scatter)"), layout.elements(Placement::expert) / 2 * 4);
  EXPECT_EQ(bytes("weights (all-gather)"), layout.elements(Placement::replicated) * 3 / 4 * 4);
  EXPECT_THAT(to_text(plan), HasSubstr("expert groups (2): ranks 0, 1; 2, 3"));
  EXPECT_THAT(to_text(plan), HasSubstr("data groups (2):   ranks 0, 2; 1, 3"));
}

TEST(RunPlan, RefusesRanksThatDoNotSuit) {
  const auto error = [&](int ranks, int ep) -> std::string {
    try {
      (void)plan_run(config_of(ep), wide_model(), ranks);
    } catch (const InputError& e) {
      return e.what();
    }
    return "none";
  };
  EXPECT_THAT(error(3, 2), HasSubstr("parallel.expert is 2, which does not divide the 3 ranks"));
  EXPECT_THAT(error(6, 2), HasSubstr("batch.global is 8 sequences, which 6 ranks"));
  EXPECT_THAT(error(8, 8), HasSubstr("parallel.expert is 8 but the model has 5 experts"));
}

}  // namespace
}  // namespace moe
