// SPDX-License-Identifier: Apache-2.0
// Splits that keep what the dense model knew: neurons and gate found together, refits, arms.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"
#include "data/held_out.h"
#include "nn/transformer.h"
#include "split/arms.h"
#include "split/calibration_support.h"
#include "split/expert_sum.h"
#include "split/layer_gate.h"
#include "split/split_context.h"
#include "split/split_model.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::random_tensor;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(ExpertSum, AddsUpChosenAndSharedExpertsWithTheirBiases) {
  const FfnMatrices ffn{random_tensor({6, 4}, DType::f32, 1), random_tensor({6, 4}, DType::f32, 2),
                        random_tensor({6, 4}, DType::f32, 3)};
  const Partition partition{{{1, 4}, {0, 5}}, {{2}}};  // neuron 3 is in no expert
  const Tensor x = random_tensor({3, 4}, DType::f32, 4),
               bias = random_tensor({2, 4}, DType::f32, 5);
  ExpertSum experts(ffn, partition);
  experts.set_down(experts.down(), bias);
  const TokenRouting routing{Tensor::of<std::int32_t>({3, 1}, {1, 0, 1}),
                             Tensor::of<float>({3, 1}, {0.5F, 2, 1})};
  const Tensor y = experts.output(x, routing, 3), norms = experts.norms(x);
  for (std::int64_t t = 0; t < 3; ++t) {
    const auto neuron = [&](std::int64_t n, std::int64_t c) {
      double g = 0, u = 0;
      for (std::int64_t i = 0; i < 4; ++i) {
        g += double(ffn.gate.data<float>()[n * 4 + i]) * double(x.data<float>()[t * 4 + i]);
        u += double(ffn.up.data<float>()[n * 4 + i]) * double(x.data<float>()[t * 4 + i]);
      }
      return g / (1 + std::exp(-g)) * u * double(ffn.down.data<float>()[n * 4 + c]);
    };
    const auto e = std::size_t(routing.experts.data<std::int32_t>()[t]);
    const double w = 3 * double(routing.weights.data<float>()[t]);
    std::array<double, 2> squares{};
    for (std::int64_t c = 0; c < 4; ++c) {
      const auto of = [&](std::size_t expert) {
        return neuron(partition.experts[expert][0], c) + neuron(partition.experts[expert][1], c);
      };
      EXPECT_NEAR(y.data<float>()[t * 4 + c],
                  neuron(2, c) + w * (of(e) + double(bias.data<float>()[std::int64_t(e) * 4 + c])),
                  1e-5);
      for (const std::size_t expert : {0, 1}) squares[expert] += of(expert) * of(expert);
    }
    for (const std::size_t expert : {0, 1})
      EXPECT_NEAR(norms.data<float>()[t * 2 + std::int64_t(expert)], std::sqrt(squares[expert]),
                  1e-5);
  }
}

TEST(ExpertSum, NormsAreTheLengthsOfOutputsWithMoreNeuronsThanChannelsAndWithFewer) {
  const FfnMatrices ffn{random_tensor({9, 4}, DType::f32, 1), random_tensor({9, 4}, DType::f32, 2),
                        random_tensor({9, 4}, DType::f32, 3)};
  const ExpertSum experts(ffn, {{{0, 2, 3, 5, 6, 8}, {7, 1, 4}}, {}});
  const Tensor x = random_tensor({5, 4}, DType::f32, 4), norms = experts.norms(x);
  for (const std::int32_t e : {0, 1}) {
    const Tensor y = experts.output(x,
                                    {Tensor::of<std::int32_t>({5, 1}, {e, e, e, e, e}),
                                     Tensor::of<float>({5, 1}, {1, 1, 1, 1, 1})},
                                    1);
    for (std::int64_t t = 0; t < 5; ++t) {
      const double length =
          test::relative_error(test::to_doubles(y.slice(t, 1)), std::vector<double>(4, 0.0));
      EXPECT_NEAR(norms.data<float>()[2 * t + e], length, 1e-5 * (1 + length));
    }
  }
}

/// Tokens of four kinds, neurons that fire for one kind each and some that fire for all; neuron n
/// belongs to group n % 5, of which the last is the one for all.
struct Planted {
  static constexpr std::int64_t kNeurons = 40, kHidden = 16, kKinds = 4;
  LayerCalibration text;
  FfnMatrices ffn{Tensor::zeros({kNeurons, kHidden}, DType::f32),
                  Tensor::zeros({kNeurons, kHidden}, DType::f32),
                  random_tensor({kNeurons, kHidden}, DType::f32, 9)};

  Planted() {
    text = test::random_calibration(kNeurons, kHidden, kKinds, 1);
    text.own = tokens(400, 1);
    text.validation = tokens(100, 2);
    for (std::int64_t n = 0; n < kNeurons; ++n) {
      const std::int64_t group = n % (kKinds + 1);
      float* gate = ffn.gate.data<float>() + n * kHidden;
      float* up = ffn.up.data<float>() + n * kHidden;
      for (std::int64_t k = 0; k < kKinds; ++k) gate[k] = group == kKinds || group == k ? 2 : -2;
      up[group == kKinds ? kKinds : group] = 1;
      up[kKinds] = group == kKinds ? 4 : 1;
    }
  }

  static Tensor tokens(std::int64_t count, std::uint64_t seed) {
    Tensor x = random_tensor({count, kHidden}, DType::f32, seed);
    backend(Device::cpu).scale(x, 0.1);
    for (std::int64_t t = 0; t < count; ++t) {
      x.data<float>()[t * kHidden + t % kKinds] += 2;
      x.data<float>()[t * kHidden + kKinds] += 2;
    }
    return x;
  }

  LayerSplit split(const char* method) const {
    SplitContext context{0, 5, kNeurons, {8, 8, 8, 8}, {4, 4}, &text, 1};
    return make_construction(method, {})->split(context, [&](std::string_view part) {
      return (part == "gate" ? ffn.gate : part == "up" ? ffn.up : ffn.down).clone();
    });
  }
};

class FindsPlantedExperts : public testing::TestWithParam<const char*> {};

TEST_P(FindsPlantedExperts, AndSharesWhatFiresForAll) {
  const Planted planted;
  const Partition found = planted.split(GetParam()).partition;
  for (const NeuronSets* sets : {&found.shared, &found.experts})
    for (const auto& set : *sets)
      for (const std::int64_t n : set) {
        EXPECT_EQ(n % 5, set.front() % 5) << "one expert of two kinds";
        EXPECT_EQ(n % 5 == 4, sets == &found.shared) << n;
      }
}
INSTANTIATE_TEST_SUITE_P(Construction, FindsPlantedExperts,
                         testing::Values("joint", "gate-variation"), [](const auto& test) {
                           return std::string(test.index == 0 ? "joint" : "gate_variation");
                         });

/// Neurons and tokens without any order.
LayerSplit joint_of_random(int threads, std::uint64_t seed = 6, std::int64_t top_k = 1) {
  const test::OpenMpThreads scope(threads);
  LayerCalibration text = test::random_calibration(48, 12, 4, 3);
  text.own = random_tensor({900, 12}, DType::f32, seed);
  text.validation = random_tensor({300, 12}, DType::f32, seed + 100);
  SplitContext context{0, 5, 48, {7, 7, 7, 7, 7, 7}, {6}, &text, top_k};
  return make_construction("joint", {})->split(context, test::random_weights(48, 12));
}

TEST(Joint, GetsBetterThanClustersAndKeepsTheBestOfAllThatItTried) {
  const LayerSplit split = joint_of_random(2);
  ASSERT_EQ(split.measures.size(), 4U);
  EXPECT_EQ(split.measures.front().first, "energy_by_clusters");
  double before = 0;
  for (const auto& [name, share] : split.measures) {
    EXPECT_GE(share, before) << name;
    before = share;
  }
  EXPECT_GT(before, 1.05 * split.measures.front().second);
}

TEST(Joint, GoesOnByMembershipWherePredictedEnergiesFindNoMore) {
  for (const std::uint64_t seed : {2, 14}) {
    const LayerSplit split = joint_of_random(2, seed, 2);
    EXPECT_GT(split.measures.at(3).second, split.measures.at(2).second + 0.005) << seed;
  }
}

TEST(Joint, AllExpertsAndTheSharedNeuronsHoldAllEnergy) {
  LayerCalibration text = test::random_calibration(48, 12, 4, 3);
  text.own = random_tensor({90, 12}, DType::f32, 6);
  const SplitContext context{0, 5, 48, {14, 14, 14}, {6}, &text, 3};
  for (const auto& [name, share] :
       make_construction("joint", {})->split(context, test::random_weights(48, 12)).measures)
    EXPECT_NEAR(share, 1, 1e-6) << name;
}

TEST(Joint, IsTheSameOnAnyNumberOfThreads) {
  const Partition one = joint_of_random(1).partition;
  EXPECT_EQ(joint_of_random(2).partition, one);
  EXPECT_EQ(joint_of_random(3).partition, one);
}

TEST(Markers, TheNeuronNearestToItsExpertsMeanStandsForIt) {
  constexpr std::int64_t kNeurons = 80, kHidden = 12, kTokens = 300, kMarked = 4;
  LayerCalibration text = test::random_calibration(kNeurons, kHidden, 4, 3);
  text.own = random_tensor({kTokens, kHidden}, DType::f32, 6);
  const FfnWeights weights = test::random_weights(kNeurons, kHidden);
  const SplitContext context{0, 5, kNeurons, {19, 19, 19, 19}, {4}, &text, 1};
  const LayerSplit split = make_construction("cmoe", {})->split(context, weights);

  const auto dot = [](const Tensor& a, std::int64_t i, const Tensor& b, std::int64_t j) {
    double sum = 0, squares = 0;  // rows of b are taken at length 1, and then those of a
    for (std::int64_t c = 0; c < kHidden; ++c) {
      const double x = double(a.data<float>()[i * kHidden + c]);
      const double y = double(b.data<float>()[j * kHidden + c]);
      sum += x * y, squares += y * y;
    }
    return sum / std::sqrt(squares);
  };
  const Tensor gate = weights("gate"), up = weights("up");
  std::vector<std::vector<double>> marks(kNeurons, std::vector<double>(kTokens, 0));
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const double length = dot(text.own, t, text.own, t);
    std::vector<std::pair<double, std::int64_t>> strength;
    for (std::int64_t n = 0; n < kNeurons; ++n) {
      const double g = dot(text.own, t, gate, n) / length, u = dot(text.own, t, up, n) / length;
      strength.emplace_back(-std::fabs(g / (1 + std::exp(-g)) * u), n);
    }
    std::sort(strength.begin(), strength.end());
    for (std::int64_t i = 0; i < kMarked; ++i)
      marks[std::size_t(strength[std::size_t(i)].second)][std::size_t(t)] = 1;
  }
  for (std::size_t e = 0; e < split.partition.experts.size(); ++e) {
    const auto& set = split.partition.experts[e];
    std::vector<double> mean(kTokens, 0);
    for (const std::int64_t n : set)
      for (std::size_t t = 0; t < mean.size(); ++t)
        mean[t] += marks[std::size_t(n)][t] / double(set.size());
    const auto distance = [&](std::int64_t n) {
      double sum = 0;
      for (std::size_t t = 0; t < mean.size(); ++t)
        sum += std::fabs(marks[std::size_t(n)][t] - mean[t]);
      return sum;
    };
    double least = distance(set.front());
    for (const std::int64_t n : set) least = std::min(least, distance(n));
    EXPECT_NEAR(distance(split.representatives.at(e)), least, 1e-9) << e;
  }
}

TEST(Energy, KeepsTheNeuronsThatSayMost) {
  const Planted planted;
  SplitContext context{0, 5, Planted::kNeurons, {8}, {}, &planted.text, 1};
  const auto weights = [&](std::string_view part) {
    return (part == "gate" ? planted.ffn.gate
            : part == "up" ? planted.ffn.up
                           : planted.ffn.down)
        .clone();
  };
  const LayerSplit split = make_construction("energy", {})->split(context, weights);
  for (const std::int64_t n : split.partition.experts[0]) EXPECT_EQ(n % 5, 4) << n;
  const auto random = share_by_energy(make_construction("random", {}));
  context.sizes = {16, 16};
  context.shared_sizes = {8};
  const Partition shared = random->split(context, weights).partition;
  EXPECT_EQ(shared.shared, split.partition.experts);
  EXPECT_NO_THROW(check_partition(shared, Planted::kNeurons, Coverage::exact));
}

TEST(Paired, DifferenceHasTheIntervalOfARatioOfSums) {
  DocumentLosses a, b;
  const std::array<std::array<double, 3>, 4> rows = {
      {{10, 7, 5}, {21, 17, 10}, {9, 9.5, 4}, {6, 5, 3}}};
  for (std::size_t d = 0; d < rows.size(); ++d) {
    a.documents[std::int64_t(d)] = {rows[d][0], rows[d][2]};
    b.documents[std::int64_t(d)] = {rows[d][1], rows[d][2]};
  }
  const double mean = (46 - 38.5) / 22;
  double squares = 0;
  for (const auto& r : rows) squares += std::pow(r[0] - r[1] - mean * r[2], 2);
  const WithInterval got = paired_difference(a, b);
  EXPECT_NEAR(got.value, mean, 1e-15);
  EXPECT_NEAR(got.half_width, 1.96 * std::sqrt(squares * 4 / 3) / 22, 1e-15);
  EXPECT_EQ(paired_difference(a, a).half_width, 0);
}

/// A dense model with texts of different documents.
class Retention : public testing::Test {
 protected:
  Retention()
      : config_(test::small_dense()),
        input_(test::write_dense(folder_, config_)),
        fit_(test::write_shard(folder_, config_, std::vector<std::int64_t>(60, 24), "fit.h5", "",
                               10)),
        held_(test::write_shard(folder_, config_, std::vector<std::int64_t>(20, 24), "held.h5", "",
                                20)),
        test_(test::write_shard(folder_, config_, std::vector<std::int64_t>(30, 24), "test.h5", "",
                                30)) {}

  SplitOptions options() const {
    SplitOptions o;
    o.input = input_;
    o.output = folder_ / "moe";
    o.method = "joint";
    o.gate = GateInit::logistic;
    o.weights = SplitWeights::unit;
    o.refit = SplitRefit::down_and_bias;
    o.experts = 3;
    o.shared = 1;
    o.top_k = 1;
    o.format = ModelFormat::native;
    o.dtype = DType::f32;
    o.calibration.shards = {fit_};
    o.calibration.length = 24;
    o.validation = {held_};
    return o;
  }

  SplitPlan plan(const SplitOptions& o) const {
    const auto world = single_rank();
    return plan_split(ModelFolder(o.input), o, *world);
  }

  ArmsReport arms(const SplitOptions& o, const std::vector<std::string>& names) const {
    ArmsOptions a;
    a.split = o;
    a.tests = {{"test", {test_}}};
    a.arms = arms_named(names);
    const auto world = single_rank();
    return compare_arms(a, *world);
  }

  /// Mean loss of a model on the test text, through the whole Transformer.
  double loss_of(const ModelConfig& config, const ParameterRows& rows) const {
    const auto world = single_rank();
    const ProcessGrid grid(*world, 1);
    ParameterStore store(config, DType::f32);
    store.load(rows);
    const Transformer model(config, store, grid);
    const HeldOut text =
        HeldOut::documents({test_}, 24, config.vocab_size, std::int32_t(config.bos_token));
    double sum = 0;
    for (std::int64_t s = 0; s < text.sequences(); ++s) {
      const Batch b = text.load(s, 1);
      ForwardContext context;
      context.sequences = 1;
      context.length = b.tokens.cols();
      sum += model.loss(b.tokens, b.labels, 1.0, context).total.value.data<float>()[0];
    }
    return sum / double(text.labels());
  }

  test::TestFolder folder_;
  ModelConfig config_;
  std::filesystem::path input_, fit_, held_, test_;
};

TEST_F(Retention, RefitLowersTheErrorAndArmsMeasureTheModelThatIsWritten) {
  const SplitOptions o = options();
  const SplitPlan p = plan(o);
  for (const auto& [l, layer] : p.layers) {
    ASSERT_TRUE(layer.refit.has_value());
    EXPECT_LT(layer.refit->error_after, layer.refit->error_before) << l;
    EXPECT_LT(layer.refit->error_of_fit, layer.refit->error_before) << l;
    EXPECT_GT(layer.refit->error_of_fit, 0) << l;
    EXPECT_TRUE(layer.refit->down.defined() && layer.refit->bias.defined());
  }
  const ArmsReport report = arms(o, {"joint+refit"});
  const ArmLoss& arm = report.arms.at(0).losses.at(0);
  const ModelFolder dense(input_);
  (void)write_split(dense, o, p);
  const ModelFolder written(o.output);
  const auto rows_of = [](const ModelFolder& model) -> ParameterRows {
    return [&](const std::string& name, std::int64_t first, std::int64_t count) {
      return model.read(name, first, count, DType::f32);
    };
  };
  EXPECT_NEAR(arm.by_seed.at(0), loss_of(written.config(), rows_of(written)), 2e-6);
  EXPECT_NEAR(report.tests.at(0).dense_loss, loss_of(dense.config(), rows_of(dense)), 2e-6);
  EXPECT_EQ(report.arms.at(0).activated, count_parameters(written.config()).activated);
}

TEST_F(Retention, TakesTheRidgeThatValidationTextLikesBest) {
  SplitOptions o = options();
  o.refit_ridges = {1e-2, 1e9};  // the second leaves everything nearly as it is
  for (const auto& [l, layer] : plan(o).layers) EXPECT_EQ(layer.refit->ridge, 1e-2) << l;
}

TEST_F(Retention, FitsALayerToWhatTheSplitLayersBeforeItGive) {
  SplitOptions o = options();
  o.method = "random";
  o.gate = GateInit::zeros;
  o.refit_ridges = {1e-2};
  const auto refitted = [&] { return plan(o).layers.at(1).refit->down; };
  const Tensor behind_experts = refitted();
  o.dense_layers = {0};
  EXPECT_FALSE(test::same_bits(behind_experts, refitted()));
}

TEST_F(Retention, AllExpertsAreTheDenseModelAndLeaveNothingToRefit) {
  SplitOptions o = options();
  o.top_k = o.experts;
  for (const bool to_dense_stream : {false, true}) {
    o.refit_to_dense_stream = to_dense_stream;
    for (const auto& [l, layer] : plan(o).layers) EXPECT_LT(layer.refit->error_before, 1e-6) << l;
  }
  const ArmLoss arm = arms(o, {"joint"}).arms.at(0).losses.at(0);
  EXPECT_NEAR(arm.added.value, 0, 1e-6);
  EXPECT_NEAR(arm.kl, 0, 1e-6);
  EXPECT_NEAR(arm.by_oracle, 0, 1e-6);
}

TEST_F(Retention, AMixtralFolderAddsExpertsUpThroughAFlatSoftmax) {
  SplitOptions o = options();
  o.shared = 0;
  o.experts = 4;
  o.top_k = 2;
  o.weights = SplitWeights::flat;
  o.refit = SplitRefit::down;
  o.format = ModelFormat::mixtral;
  const ModelFolder dense(input_);
  const SplitPlan flat = plan(o);
  (void)write_split(dense, o, flat);
  const ModelFolder written(o.output);
  const double loss = loss_of(written.config(),
                              [&](const std::string& name, std::int64_t first, std::int64_t count) {
                                return written.read(name, first, count, DType::f32);
                              });
  EXPECT_NEAR(loss, loss_of(flat.config, split_rows(dense, flat, DType::f32)), 1e-5);
  for (const auto& [l, layer] : flat.layers) {
    EXPECT_EQ(layer.scale.at(2), 2);  // times weights of a half: experts are added up
    const TokenRouting routing = route(
        gate_logits(layer.gate, random_tensor({50, config_.hidden_size}, DType::f32, 3)), 2, {});
    for (std::int64_t i = 0; i < routing.weights.size(); ++i)
      EXPECT_NEAR(routing.weights.data<float>()[i], 0.5, 0.05) << l;
  }
}

TEST_F(Retention, RanksComeToOnePlan) {
  run_ranks(2, [&](Communicator& world) {
    const SplitPlan p = plan_split(ModelFolder(input_), options(), world);
    Tensor mine = Tensor::zeros({1}, DType::f64), all = mine.clone();
    for (const auto& [l, layer] : p.layers) {
      EXPECT_LT(layer.refit->error_after, layer.refit->error_before);
      for (const Tensor& t : {layer.refit->down, layer.gate.weight})
        for (std::int64_t i = 0; i < t.size(); ++i)
          mine.data<double>()[0] += double(i + 1) * double(t.data<float>()[i]);
      for (const auto& set : layer.partition.experts) mine.data<double>()[0] += double(set.front());
    }
    all.copy_from(mine);
    world.broadcast(all, 0).wait();
    EXPECT_EQ(all.data<double>()[0], mine.data<double>()[0]);
  });
}

TEST_F(Retention, WhatCannotBeIsRefusedOrSaid) {
  const auto refused = [&](const std::string& why, auto change) {
    SplitOptions o = options();
    change(o);
    EXPECT_THAT([&] { plan(o); }, ThrowsMessage<InputError>(HasSubstr(why)));
  };
  refused("calibration text and validation text share",
          [&](SplitOptions& o) { o.validation = {fit_}; });
  refused(str("calibration text and ", fit_.string(), " share"), [&](SplitOptions& o) {
    o.unseen = {test_, fit_};
  });
  refused(str("calibration text and ", fit_.string(), " share"), [&](SplitOptions& o) {
    o.validation = {held_};
    o.calibration.tokens = 30;  // few, and not the shard's first ones
    o.unseen = {fit_};
  });
  refused(str("validation text and ", test_.string(), " share"), [&](SplitOptions& o) {
    o.validation = {test_};
    o.unseen = {test_};
  });
  refused("needs calibration text", [](SplitOptions& o) { o.calibration.shards.clear(); });
  refused("a ridge must be a positive number", [](SplitOptions& o) { o.refit_ridges = {-1}; });
  refused("write native", [](SplitOptions& o) { o.format = ModelFormat::mixtral; });
  refused("unit weights have a scale of their own", [](SplitOptions& o) { o.scale = 2.0; });
  refused("belongs to the method cmoe", [](SplitOptions& o) { o.gate = GateInit::representative; });
  refused("no format holds it", [](SplitOptions& o) {
    o.method = "cmoe";
    o.gate = GateInit::representative;
  });
  EXPECT_THAT([] { arms_named({"ours"}); }, ThrowsMessage<InputError>(HasSubstr("use all or")));
  SplitOptions same = options();
  same.calibration.shards = {test_};
  EXPECT_THAT(
      [&] { arms(same, {"v1"}); },
      ThrowsMessage<InputError>(HasSubstr(str("calibration text and ", test_.string(), " share"))));

  SplitOptions few = options();
  few.calibration.length = 8;
  few.calibration.tokens = 15;
  few.unseen = {fit_};  // so short that two documents may be equal by chance
  for (const auto& [l, layer] : plan(few).layers) {
    EXPECT_FALSE(layer.refit->down.defined()) << l;
    EXPECT_THAT(layer.refit->note, HasSubstr("calibration tokens for 20 neurons (80 are advised)"));
  }
}

}  // namespace
}  // namespace moe
