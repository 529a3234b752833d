// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "kernels/backend.h"
#include "optim/adamw.h"
#include "optim/gradients.h"
#include "optim/schedule.h"
#include "optim/weight_gather.h"

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
void sums_come_from_exactly_the_group_that_shares_the_parameter(bool sharded) {
  run_ranks(4, [sharded](Communicator& world) {
    const ProcessGrid grid(world, 2);
    const ModelConfig config = tiny();
    ParameterStore store(config, DType::f64, grid.expert_group().rank(), 2);
    store.load(initial_weights(config, 1));
    const BucketPlan plan(store.layout(), grid.position(), DType::f64, 100, sharded);
    GradientBuckets buckets(store, plan, grid, DType::f64);
    for (int step = 0; step < 2; ++step) {
      buckets.begin_step();
      give_gradients(store, std::exp2(world.rank()), "norm.weight");  // first micro-batch
      buckets.begin_last_micro_batch();
      give_gradients(store, std::exp2(world.rank()), "norm.weight");
      buckets.finish();
      const double norm = buckets.global_norm();
      buckets.gather();
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
      EXPECT_NEAR(norm, std::sqrt(squares), 1e-9);
    }
  });
}

TEST(GradientBuckets, SumOverExactlyTheGroupThatSharesTheParameter) {
  sums_come_from_exactly_the_group_that_shares_the_parameter(false);
}

TEST(GradientBuckets, ShardedSumsReachTheirOwnersFromExactlyThatGroup) {
  sums_come_from_exactly_the_group_that_shares_the_parameter(true);
}

TEST(GradientBuckets, TravelAsBf16AndAreSummedInF32) {
  run_ranks(4, [](Communicator& world) {
    const ProcessGrid grid(world, 1);
    ParameterStore store(tiny(), DType::f32);
    store.load(initial_weights(tiny(), 1));
    const BucketPlan plan(store.layout(), grid.position(), DType::f32, 100, true);
    GradientBuckets buckets(store, plan, grid, DType::bf16);
    buckets.begin_step();
    buckets.begin_last_micro_batch();
    // 256 and 1.00390625 as bf16: 256 and 1. In bf16 the sum would stay 256.
    give_gradients(store, world.rank() == 0 ? 256 : 1.00390625, "");
    buckets.finish();
    buckets.gather();
    for (std::size_t i = 0; i < store.all().size(); ++i)
      EXPECT_EQ(buckets.gradient(i).data<float>()[0], 259.f) << store.all()[i].name();
  });
}

TEST(BucketPlan, SharesEveryRowOutExactlyOnceInNearlyEqualParts) {
  for (const int ep : {1, 2})
    for (const std::int64_t bytes : {1, 100, 1 << 20}) {
      std::mutex mutex;
      std::map<std::string, std::vector<int>> owners;
      std::vector<std::int64_t> elements(4, 0);
      std::int64_t total = 0, widest = 0;
      run_ranks(4, [&](Communicator& world) {
        const ProcessGrid grid(world, ep);
        const ParameterLayout layout(tiny(), grid.expert_group().rank(), ep);
        const BucketPlan plan(layout, grid.position(), DType::f32, bytes, true);
        const std::lock_guard lock(mutex);
        for (const OwnedRows& o : plan.owned()) {
          const HeldParameter& p = layout.all()[o.parameter];
          auto& rows = owners[p.name()];
          rows.resize(std::size_t(p.spec.shape[0]), 0);
          for (std::int64_t r = 0; r < o.rows; ++r) ++rows[std::size_t(p.first_row + o.first + r)];
          elements[std::size_t(world.rank())] += o.rows * p.cols();
        }
        for (const HeldParameter& p : layout.all()) widest = std::max(widest, p.cols());
      });
      for (const ParameterSpec& spec : model_parameters(tiny())) {
        EXPECT_EQ(owners[spec.name], std::vector<int>(std::size_t(spec.shape[0]), 1)) << spec.name;
        std::int64_t size = 1;
        for (const std::int64_t n : spec.shape) size *= n;
        total += size;
      }
      if (bytes == 1 << 20) {  // one bucket of each placement
        for (const std::int64_t n : elements)
          EXPECT_NEAR(double(n), double(total) / 4, 64 + double(widest)) << ep;
      }
    }
}

// Each owner adds its rank + 1 to its rows: afterwards all ranks hold what the owners made.
TEST(WeightGather, BringsEveryOwnersRowsToAllInTheOrderOfTheForwardPass) {
  run_ranks(4, [](Communicator& world) {
    const ProcessGrid grid(world, 2);
    ParameterStore store(tiny(), DType::f32, grid.expert_group().rank(), 2);
    for (Parameter& p : store.all()) backend(Device::cpu).fill(p.variable.value, 0);
    const BucketPlan plan(store.layout(), grid.position(), DType::f32, 100, true);
    for (const OwnedRows& o : plan.owned()) {
      Tensor rows = store.all()[o.parameter].variable.value.slice(o.first, o.rows);
      backend(Device::cpu).fill(rows, double(o.parameter) + 1);
    }
    WeightGather gather(store, plan, grid);
    for (std::size_t b = plan.buckets().size(); b-- > 0;) gather.start(b);
    for (std::size_t i = 0; i < store.all().size(); ++i) {
      gather.wait_for_first(i + 1);
      const Tensor& w = store.all()[i].variable.value;
      for (std::int64_t j = 0; j < w.size(); ++j)
        ASSERT_EQ(w.data<float>()[j], float(i) + 1) << store.all()[i].name();
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
  const BucketPlan plan(store.layout(), grid.position(), DType::f32, 1 << 20, false);
  AdamW optimizer(store, plan, options);
  optimizer.load_masters(rows);
  GradientBuckets buckets(store, plan, grid, DType::f32);
  buckets.begin_step();
  buckets.begin_last_micro_batch();
  buckets.finish();  // no gradient at all: only decay acts
  const Tensor before = rows("embed.weight", 0, 5);
  optimizer.step(buckets, 0.1, 1);
  EXPECT_EQ(store["norm.weight"].value.data<bf16>()[0], 1.0f);
  const AdamW::State& embed = *std::ranges::find_if(
      optimizer.states(), [](const AdamW::State& s) { return s.rows.parameter == 0; });
  EXPECT_FLOAT_EQ(embed.master.data<float>()[3], before.data<float>()[3] * (1 - 0.1f * 0.5f));
  EXPECT_EQ(float(store["embed.weight"].value.data<bf16>()[3]),
            float(bf16(embed.master.data<float>()[3])));
}

TEST(AdamW, ARateOfAFamilyIsAFactorOnItsStepsAndItsDecay) {
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  const ModelConfig config = tiny();
  const ParameterRows rows = initial_weights(config, 1);
  const auto changes = [&](const TrainConfig::Optimizer& options) {
    ParameterStore store(config, DType::f64);
    store.load(rows);
    const BucketPlan plan(store.layout(), grid.position(), DType::f64, 1 << 20, false);
    AdamW optimizer(store, plan, options);
    GradientBuckets buckets(store, plan, grid, DType::f64);
    buckets.begin_step();
    buckets.begin_last_micro_batch();
    give_gradients(store, 2, "");
    buckets.finish();
    std::map<std::string, std::vector<double>> list;
    for (const Parameter& p : store.all())
      for (std::int64_t i = 0; i < p.size(); ++i)
        list[p.name()].push_back(-p.variable.value.data<double>()[i]);
    optimizer.step(buckets, 0.1, 1);
    for (const Parameter& p : store.all())
      for (std::int64_t i = 0; i < p.size(); ++i)
        list[p.name()][std::size_t(i)] += p.variable.value.data<double>()[i];
    return list;
  };
  TrainConfig::Optimizer options;
  options.weight_decay = 0.5;
  const auto plain = changes(options);
  options.rates[std::size_t(ParameterFamily::router)] = 3;
  options.rates[std::size_t(ParameterFamily::attention)] = 0.25;
  for (const auto& [name, change] : changes(options)) {
    const ParameterFamily family = family_of(name);
    const double factor = family == ParameterFamily::router      ? 3
                          : family == ParameterFamily::attention ? 0.25
                                                                 : 1;
    for (std::size_t i = 0; i < change.size(); ++i) {
      EXPECT_NE(change[i], 0) << name;
      EXPECT_NEAR(change[i], factor * plain.at(name)[i], 1e-14) << name;
    }
  }
}

}  // namespace
}  // namespace moe
