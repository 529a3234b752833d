// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "optim/adamw.h"
#include "optim/gradients.h"
#include "optim/schedule.h"

namespace moe {
namespace {

using Kind = TrainConfig::Schedule::Kind;

TrainConfig::Schedule schedule(Kind kind) {
  TrainConfig::Schedule s;
  s.kind = kind;
  s.warmup_steps = 10;
  s.floor = 0.1;
  s.decay_steps = 20;
  return s;
}

TEST(Schedule, WarmsUpInAStraightLine) {
  EXPECT_DOUBLE_EQ(learning_rate(schedule(Kind::cosine), 2, 1, 110), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(schedule(Kind::cosine), 2, 10, 110), 2);
}

TEST(Schedule, CosineIsClippedAtTheFloorAsInLlamaMoe) {
  const auto rate = [](std::int64_t step) {
    return learning_rate(schedule(Kind::cosine), 1, step, 110);
  };
  EXPECT_NEAR(rate(60), 0.5, 1e-12);
  EXPECT_NEAR(rate(85), (1 + std::cos(0.75 * M_PI)) / 2, 1e-12);
  // (1 + cos(pi p)) / 2 = 0.1 at p = 0.795: flat over the last 20.5 %.
  EXPECT_GT(rate(89), 0.1);
  EXPECT_DOUBLE_EQ(rate(90), 0.1);
  EXPECT_DOUBLE_EQ(rate(110), 0.1);
}

TEST(Schedule, ConstantStaysAndWsdFallsAtTheEnd) {
  EXPECT_DOUBLE_EQ(learning_rate(schedule(Kind::constant), 3, 100, 110), 3);
  EXPECT_DOUBLE_EQ(learning_rate(schedule(Kind::wsd), 1, 90, 110), 1);
  EXPECT_NEAR(learning_rate(schedule(Kind::wsd), 1, 100, 110), 0.55, 1e-12);
  EXPECT_NEAR(learning_rate(schedule(Kind::wsd), 1, 110, 110), 0.1, 1e-12);
}

TEST(Clip, ScalesOnlyWhatIsTooLarge) {
  EXPECT_DOUBLE_EQ(clip_factor(4, 1), 0.25);
  EXPECT_DOUBLE_EQ(clip_factor(0.5, 1), 1);
  EXPECT_DOUBLE_EQ(clip_factor(100, 0), 1);
}

ModelConfig tiny() {
  ModelConfig c;
  c.vocab_size = 5;
  c.hidden_size = 4;
  c.intermediate_size = 4;
  c.layers = 1;
  c.heads = c.kv_heads = 2;
  c.head_dim = 2;
  c.moe.experts = 2;
  c.moe.top_k = 1;
  c.moe.expert_sizes = {{2, 2}};
  c.moe.score_scale = {2};
  return c;
}

/// A loss that uses every parameter but those named: sum of all elements times `factor`.
void give_gradients(ParameterStore& store, double factor, const std::string& leave_out) {
  Tape tape;
  std::vector<Variable> uses;
  for (Parameter& p : store.all())
    if (p.name() != leave_out)
      uses.push_back(record("use", {p.variable}, Tensor::of<double>({1}, {0}),
                            [shape = p.variable.value.shape(), factor](std::span<const Tensor>) {
                              Tensor g = Tensor::empty(shape, DType::f64);
                              std::fill_n(g.data<double>(), g.size(), factor);
                              return std::vector<Tensor>{g};
                            }));
  const Tensor one = Tensor::of<double>({1}, {1});
  const std::vector<Tensor> ones(uses.size(), one);
  tape.backward(uses, ones);
}

// Each rank gives 2^rank, so a sum says which ranks took part.
TEST(GradientBuckets, SumOverExactlyTheGroupThatSharesTheParameter) {
  run_ranks(4, [](Communicator& world) {
    const ProcessGrid grid(world, 2);
    const ModelConfig config = tiny();
    ParameterStore store(config, DType::f64, grid.expert_group().rank(), 2);
    store.load(initial_weights(config, 1));
    GradientBuckets buckets(store, grid, 100);
    for (int step = 0; step < 2; ++step) {
      buckets.begin_step();
      give_gradients(store, std::exp2(world.rank()), "norm.weight");  // first micro-batch
      buckets.begin_last_micro_batch();
      give_gradients(store, std::exp2(world.rank()), "norm.weight");
      buckets.finish();
      for (std::size_t i = 0; i < store.all().size(); ++i) {
        const Parameter& p = store.all()[i];
        double want = 2 * (1 + 2 + 4 + 8);
        if (p.spec.placement == Placement::expert) want = world.rank() % 2 == 0 ? 2 * 5 : 2 * 10;
        if (p.name() == "norm.weight") want = 0;
        for (std::int64_t j = 0; j < p.variable.value.size(); ++j)
          ASSERT_EQ(buckets.gradient(i).data<double>()[j], want) << p.name();
      }
      // Replicated elements count once, each expert's once.
      double squares = 0;
      for (const Parameter& p : store.all()) {
        const double n = double(p.variable.value.size());
        if (p.spec.placement == Placement::expert) {
          squares += n * (10 * 10 + 20 * 20);  // this half's size is the other's
        } else if (p.name() != "norm.weight") {
          squares += n * 30 * 30;
        }
      }
      EXPECT_NEAR(buckets.global_norm(), std::sqrt(squares), 1e-9);
    }
  });
}

TEST(AdamW, DecaysWeightsButNotNormsAndKeepsF32MastersOfBf16Weights) {
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  const ModelConfig config = tiny();
  ParameterStore store(config, DType::bf16);
  const ParameterRows rows = initial_weights(config, 1);
  store.load(rows);
  TrainConfig::Optimizer options;
  options.weight_decay = 0.5;
  AdamW optimizer(store, options);
  optimizer.load_masters(rows);
  GradientBuckets buckets(store, grid, 1 << 20);
  buckets.begin_step();
  buckets.begin_last_micro_batch();
  buckets.finish();  // no gradient at all: only decay acts
  const Tensor before = rows("embed.weight", 0, 5);
  optimizer.step(buckets, 0.1, 1);
  EXPECT_EQ(store["norm.weight"].value.data<bf16>()[0], 1.0f);
  EXPECT_FLOAT_EQ(optimizer.states()[0].master.data<float>()[3],
                  before.data<float>()[3] * (1 - 0.1f * 0.5f));
  EXPECT_EQ(float(store["embed.weight"].value.data<bf16>()[3]),
            float(bf16(optimizer.states()[0].master.data<float>()[3])));
}

}  // namespace
}  // namespace moe
