// SPDX-License-Identifier: Apache-2.0
// Every way to keep routers balanced is the same on every layout that it promises, under
// accumulation and under recompute.
#include <gtest/gtest.h>

#include <functional>

#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;

struct Mechanism {
  const char* name;
  std::function<void(ModelConfig&, EngineOptions&)> set;
  bool accumulates = true;  // whether it is the same for any size of micro-batch
};

void no_cv(EngineOptions& o) { o.router.cv_squared = 0; }

const std::vector<Mechanism> kMechanisms = {
    {"Sequence", [](ModelConfig&, EngineOptions&) {}},
    // One accumulation step must hold the same sequences on every layout: all eight at once.
    {"Step",
     [](ModelConfig&, EngineOptions& o) {
       o.router.scope = BalanceScope::step;
       o.micro_batch = 8;
     },
     false},
    {"GlobalBatch",
     [](ModelConfig&, EngineOptions& o) {
       no_cv(o);
       o.router.scope = BalanceScope::global_batch;
     }},
    {"Capacity", [](ModelConfig&, EngineOptions& o) { o.router.capacity_factor = 1; }},
    {"AnnealedNoise", [](ModelConfig&, EngineOptions& o) { o.router.noise_anneal_steps = 2; }},
    {"SelectionBias",
     [](ModelConfig& c, EngineOptions& o) {
       no_cv(o);
       c.moe.selection_bias = true;
       o.router.bias_update_rate = 0.05;
     }},
    {"AnnealedTopK",
     [](ModelConfig& c, EngineOptions& o) {
       c = with_attention_experts(c, AttentionExpert::queries, 2, 1);
       o.router.top_k_from = o.attention_router.top_k_from = 0;
       o.router.top_k_steps = o.attention_router.top_k_steps = 3;  // 5, 4, 2 and 2, 2, 1
       o.router.capacity_factor = 1;
     }},
    {"AnnealedUnitWeightsAndBias",
     [](ModelConfig& c, EngineOptions& o) {
       no_cv(o);
       c.moe.unit_weights = c.moe.expert_bias = c.moe.selection_bias = true;
       o.router.bias_update_rate = 0.05;
       o.router.scope = BalanceScope::global_batch;
       o.router.top_k_from = 4;
       o.router.top_k_steps = 3;
     }},
    {"All",
     [](ModelConfig& c, EngineOptions& o) {
       c.moe.gate = GateKind::linear;
       c.moe.softmax_over_all = true;
       no_cv(o);
       c.moe.selection_bias = true;
       o.router.bias_update_rate = 0.05;
       o.router.scope = BalanceScope::global_batch;
       o.router.capacity_factor = 1.25;
       o.router.noise_anneal_steps = 3;
     }},
};

struct Job {
  ModelConfig config = parity_model();
  EngineOptions options = parity_options(DType::f64);

  explicit Job(const Mechanism& m) { m.set(config, options); }
};

class Balance : public ::testing::TestWithParam<Mechanism> {};

TEST_P(Balance, IsTheSameOnEveryLayout) {
  const Job job(GetParam());
  const Outcome want = reference_outcome(job.config, job.options);
  for (const auto& [ep, dp] : {std::pair{2, 1}, {1, 2}, {2, 2}, {4, 1}})
    run_ranks(ep * dp, [&, ep = ep, dp = dp](Communicator& world) {
      EXPECT_EQ(
          differences(run_job(world, ep, job.config, job.options), want, tolerance_of(DType::f64)),
          "")
          << "EP " << ep << " x DP " << dp << ", rank " << world.rank();
    });
}

TEST_P(Balance, IsTheSameForRecomputedBlocks) {
  Job job(GetParam());
  const std::unique_ptr<Communicator> alone = single_rank();
  const Outcome want = run_job(*alone, 1, job.config, job.options);
  job.options.recompute = Recompute::block;
  EXPECT_EQ(differences(run_job(*alone, 1, job.config, job.options), want, {0, 0, 0}), "");
}

TEST_P(Balance, IsTheSameForAnySizeOfMicroBatchUnlessItLooksAtOneStep) {
  Job job(GetParam());
  const std::unique_ptr<Communicator> alone = single_rank();
  const Outcome want = run_job(*alone, 1, job.config, job.options);
  for (const std::int64_t micro : {1, 3, 5}) {
    job.options.micro_batch = micro;
    const std::string found =
        differences(run_job(*alone, 1, job.config, job.options), want, tolerance_of(DType::f64));
    EXPECT_EQ(found.empty(), GetParam().accumulates)
        << "micro-batches of " << micro << ": " << found;
  }
}

INSTANTIATE_TEST_SUITE_P(Mechanisms, Balance, ::testing::ValuesIn(kMechanisms),
                         [](const auto& test) { return std::string(test.param.name); });

/// Three steps of one process.
std::vector<StepResult> results_of(const Job& job) {
  const std::unique_ptr<Communicator> alone = single_rank();
  const ProcessGrid grid(*alone, 1);
  Engine engine(job.config, job.options, grid, parity_weights(job.config));
  std::vector<StepResult> results;
  for (std::int64_t step = 1; step <= 3; ++step) {
    const GlobalBatch batch = parity_batch(step);
    results.push_back(engine.train_step(batch.all, batch.counts, step, kRate));
  }
  return results;
}

TEST(StepStatistics, CountsEveryPairOfTheGlobalBatchAndWhatCapacityDropped) {
  Job job(kMechanisms.front());
  for (const double factor : {0.0, 1.0, 0.5}) {
    job.options.router.capacity_factor = factor;
    const StepResult r = results_of(job).front();
    ASSERT_EQ(r.routing.loads.size(), 3u);
    const std::int64_t tokens = parity_batch(1).counts.routed;
    for (std::size_t l = 0; l < 2; ++l) {
      std::int64_t pairs = 0;
      for (const std::int64_t n : r.routing.loads[l]) pairs += n;
      EXPECT_EQ(pairs, 2 * tokens);
      double probability = 0;
      for (const double p : r.routing.probabilities[l]) probability += p;
      EXPECT_NEAR(probability, double(tokens), 1e-9);
    }
    EXPECT_EQ(r.routing.loads[2], std::vector<std::int64_t>(5, 0)) << "a dense layer";
    EXPECT_EQ(r.routing.dropped > 0, factor > 0);
    // 8 sequences of 6 or 4 tokens in 2 layers of 5 experts: at most ceil(0.5 * 6 * 2 / 5) = 2 or
    // ceil(0.5 * 4 * 2 / 5) = 1 pairs stay of each.
    if (factor == 0.5) {
      EXPECT_GE(r.routing.dropped, 2 * (2 * tokens - 5 * (6 * 2 + 2 * 1)));
    }
  }
}

TEST(SelectionBias, FollowsTheLoadsOfUpdatesAndOfNothingElse) {
  Job job(kMechanisms.front());
  job.config.moe.selection_bias = true;
  job.options.router.bias_update_rate = 0.125;
  const std::unique_ptr<Communicator> alone = single_rank();
  const ProcessGrid grid(*alone, 1);
  Engine engine(job.config, job.options, grid, parity_weights(job.config));
  const GlobalBatch batch = parity_batch(1);
  const Tensor bias = engine.parameters()["layers.1.router.selection_bias"].value;
  const auto values = [&] {
    return std::vector<double>(bias.data<double>(), bias.data<double>() + bias.size());
  };
  (void)engine.compute_gradients(batch.all, batch.counts, 1);  // a step that is skipped
  EXPECT_EQ(values(), std::vector<double>(5, 0.0));
  EXPECT_EQ(engine.previous_counts().data<std::int64_t>()[5], 1);
  const StepResult r = engine.train_step(batch.all, batch.counts, 1, kRate);
  double pairs = 0;
  for (const std::int64_t n : r.routing.loads[1]) pairs += double(n);
  for (std::size_t e = 0; e < 5; ++e) {
    const double over = double(r.routing.loads[1][e]) - pairs / 5;
    EXPECT_EQ(values()[e], over > 0 ? -0.125 : over < 0 ? 0.125 : 0) << "expert " << e;
    EXPECT_EQ(engine.previous_counts().data<std::int64_t>()[5 + e], r.routing.loads[1][e]);
  }
}

TEST(GlobalBatchScope, TakesTheCountsOfTheStepBefore) {
  const Job job(kMechanisms[2]);
  const std::vector<StepResult> results = results_of(job);
  // Uniform counts before the first step: 1 for each of two layers.
  EXPECT_NEAR(results[0].routing.switch_top_k, 2 * job.options.router.switch_top_k, 1e-12);
  for (std::size_t i = 1; i < results.size(); ++i) {
    double want = 0;
    for (std::size_t l = 0; l < 2; ++l) {
      double pairs = 0, tokens = 0, fp = 0;
      for (std::size_t e = 0; e < 5; ++e) {
        pairs += double(results[i - 1].routing.loads[l][e]);
        tokens += results[i].routing.probabilities[l][e];
        fp += double(results[i - 1].routing.loads[l][e]) * results[i].routing.probabilities[l][e];
      }
      want += job.options.router.switch_top_k * 5 * fp / pairs / tokens;
    }
    EXPECT_NEAR(results[i].routing.switch_top_k, want, 1e-12) << "step " << i + 1;
  }
}

}  // namespace
}  // namespace moe
