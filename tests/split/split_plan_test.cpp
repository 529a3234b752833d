// SPDX-License-Identifier: Apache-2.0
#include "split/split_plan.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "data/tokenizer.h"
#include "hf/safetensors.h"
#include "nn/transformer.h"
#include "split/calibration_support.h"
#include "split/importance.h"
#include "split/neuron_indices.h"
#include "split/split_model.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::TestFolder;
using testing::HasSubstr;
using testing::ThrowsMessage;

/// A dense model and text for it, in a folder.
class SplitPlanTest : public testing::Test {
 protected:
  SplitPlanTest() : config_(test::small_dense()), input_(test::write_dense(folder_, config_)) {
    shard_ = test::write_shard(folder_, config_, std::vector<std::int64_t>(40, 24));
  }

  SplitOptions options(const std::string& method = "random") {
    SplitOptions o;
    o.input = input_;
    o.output = folder_ / "moe";
    o.method = method;
    o.experts = 4;
    o.format = ModelFormat::native;
    o.calibration.shards = {shard_};
    o.calibration.length = 24;
    return o;
  }

  SplitPlan plan(const SplitOptions& o) const {
    const auto world = single_rank();
    return plan_split(ModelFolder(o.input), o, *world);
  }

  /// Logits of a model in f64 on some tokens.
  static Tensor logits(const ModelConfig& config, const ParameterRows& rows) {
    const auto world = single_rank();
    const ProcessGrid grid(*world, 1);
    ParameterStore store(config, DType::f64);
    store.load(rows);
    return Transformer(config, store, grid)
        .logits(Tensor::of<std::int32_t>({1, 6}, {1, 4, 2, 8, 5, 7}), {});
  }
  static Tensor dense_logits(const ModelFolder& dense) {
    return logits(dense.config(),
                  [&](const std::string& name, std::int64_t first, std::int64_t count) {
                    return dense.read(name, first, count, DType::f32);
                  });
  }

  TestFolder folder_;
  ModelConfig config_;
  std::filesystem::path input_, shard_;
};

class EveryMethodOfSplitting : public SplitPlanTest,
                               public testing::WithParamInterface<std::string> {};

// Gates of zeros, k = E and scale E.
TEST_P(EveryMethodOfSplitting, KeepsTheDenseModelWhenAllExpertsAreChosen) {
  SplitOptions o = options(GetParam());
  const bool shares = o.method == "residual";
  for (const std::int64_t experts : {4, 3}) {  // 20 neurons: even and uneven
    o.experts = o.top_k = shares ? experts - 1 : experts;
    o.shared = shares ? 1 : 0;
    o.gate = GateInit::zeros;
    o.scale = double(o.experts);
    const ModelFolder dense(input_);
    const SplitPlan p = plan(o);
    EXPECT_LT(test::relative_error(logits(p.config, split_rows(dense, p, DType::f32)),
                                   test::to_doubles(dense_logits(dense))),
              1e-12);
  }
}

TEST_P(EveryMethodOfSplitting, ComesBackAsTheDenseModelBitForBit) {
  SplitOptions o = options(GetParam());
  o.shared = o.method == "residual" ? 1 : 0;
  o.experts = 3;
  const ModelFolder dense(input_);
  (void)write_split(dense, o, plan(o));
  const ModelFolder moe(o.output);
  const auto order = neuron_order(read_indices(o.output / kNeuronIndices, 2, 20), 2);
  const ParameterRows back = dense_rows(
      moe.config(),
      [&](const std::string& name, std::int64_t first, std::int64_t count) {
        return moe.read(name, first, count, DType::f32);
      },
      order);
  for (const ParameterSpec& p : model_parameters(dense.config()))
    EXPECT_TRUE(test::same_bits(back(p.name, 0, p.shape[0]), dense.read(p.name, DType::f32)))
        << p.name;
}

INSTANTIATE_TEST_SUITE_P(ExactMethods, EveryMethodOfSplitting,
                         testing::Values("random", "sequential", "clustering", "coactivation",
                                         "gradient", "residual"),
                         [](const auto& test) { return test.param; });

TEST_F(SplitPlanTest, CopiesAreTheDenseModelAtTheirNaturalScale) {
  const ModelFolder dense(input_);
  for (const std::int64_t granularity : {1, 2}) {
    SplitOptions o = options("copy");
    o.construction.copy_granularity = granularity;
    o.gate = GateInit::zeros;  // ties choose experts 0 to k-1, which hold every slice
    o.top_k = 2;
    const SplitPlan p = plan(o);
    EXPECT_LT(test::relative_error(logits(p.config, split_rows(dense, p, DType::f32)),
                                   test::to_doubles(dense_logits(dense))),
              1e-12);
  }
}

TEST_F(SplitPlanTest, ALeastSquaresScaleIsNeverWorseThanTheFixedOne) {
  SplitOptions fixed = options(), fitted = options();
  fitted.scale = SplitScale::Rule::least_squares;
  const SplitPlan a = plan(fixed), b = plan(fitted);
  for (const auto& [l, layer] : b.layers) {
    const LayerQuality& q = layer.quality.at(2);
    EXPECT_LT(q.error, a.layers.at(l).quality.at(2).error) << "layer " << l;
    EXPECT_EQ(layer.scale.at(2), q.best_scale);
    EXPECT_EQ(b.config.moe.score_scale[std::size_t(l)], q.best_scale);
    EXPECT_EQ(a.config.moe.score_scale[std::size_t(l)], 2);  // E / k
  }
}

TEST_F(SplitPlanTest, VarianceScaleIsTheRootOfExpertsTimesK) {
  SplitOptions o = options();
  o.scale = SplitScale::Rule::variance;
  EXPECT_NEAR(plan(o).config.moe.score_scale[0], std::sqrt(8.0), 1e-12);
}

TEST_F(SplitPlanTest, EveryKHasAScaleAndAMeasure) {
  SplitOptions o = options();
  o.scale = SplitScale::Rule::least_squares;
  o.every_top_k = true;
  const SplitPlan p = plan(o);
  for (const std::int64_t k : {1, 2, 3, 4}) {
    EXPECT_EQ(p.config_with(k).moe.top_k, k);
    EXPECT_EQ(p.config_with(k).moe.score_scale[1], p.layers.at(1).scale.at(k));
  }
  EXPECT_GT(p.layers.at(0).quality.at(4).recall, p.layers.at(0).quality.at(1).recall);
}

// LLaMA-MoE v2's 1 + 7 top-1 model has a router whose weight is always 1: no gradient reaches it.
TEST_F(SplitPlanTest, V2RouterOfOneExpertPerTokenReceivesAGradient) {
  SplitOptions o = options("residual");
  o.construction.importance_from = "inputs";
  o.experts = 3;
  o.shared = 1;
  o.top_k = 1;
  o.gate = GateInit::centers;
  o.scale = SplitScale::Rule::least_squares;
  const ModelFolder dense(input_);
  const SplitPlan p = plan(o);
  EXPECT_TRUE(p.config.moe.softmax_over_all);
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  ParameterStore store(p.config, DType::f64);
  store.load(split_rows(dense, p, DType::f32));
  const Tensor ids = Tensor::of<std::int32_t>({1, 6}, {1, 4, 2, 8, 5, 7});
  Tape tape;
  tape.backward(Transformer(p.config, store, grid).loss(ids, ids, 1.0 / 6, {}).total);
  double norm = 0;
  for (const double g : test::to_doubles(store["layers.0.router.weight"].slot->grad)) norm += g * g;
  EXPECT_GT(norm, 1e-8);
}

// LLaMA-MoE v2 clusters by distance and routes by inner products with the centres.
TEST_F(SplitPlanTest, GatesFromCentresRouteTokensToTheirClusters) {
  for (const TokenMetric metric : {TokenMetric::cosine, TokenMetric::l2}) {
    SplitOptions o = options("gradient");
    o.construction.importance_from = "inputs";
    o.gate = GateInit::centers;
    o.gate_metric = metric;
    o.gate_balanced = metric == TokenMetric::l2;
    const SplitPlan p = plan(o);
    EXPECT_EQ(p.config.moe.gate_bias, metric == TokenMetric::l2);
    for (const auto& [l, layer] : p.layers) EXPECT_GE(layer.gate_agreement.value(), 0.99);
  }
}

TEST_F(SplitPlanTest, TemperatureDividesTheLogitsOfCentresAndNotTheirRouting) {
  SplitOptions o = options("gradient");
  o.construction.importance_from = "inputs";
  o.gate = GateInit::centers;
  const SplitPlan one = plan(o);
  o.gate_temperature = 0.25;
  const SplitPlan quarter = plan(o);
  const Tensor& a = one.layers.at(1).gate.weight;
  const Tensor& b = quarter.layers.at(1).gate.weight;
  for (std::int64_t i = 0; i < a.size(); ++i) EXPECT_EQ(b.data<float>()[i], 4 * a.data<float>()[i]);
  EXPECT_EQ(quarter.layers.at(1).quality.at(2).load, one.layers.at(1).quality.at(2).load);
  EXPECT_EQ(quarter.layers.at(1).gate_agreement, 1);
  o.gate = GateInit::linear;
  EXPECT_THAT([&] { plan(o); }, ThrowsMessage<InputError>(HasSubstr("temperature")));
}

TEST_F(SplitPlanTest, ATrainedGateFindsMoreOfTheActivationsThanARandomOne) {
  SplitOptions random = options("coactivation"), trained = random;
  trained.gate = GateInit::select;
  const SplitPlan a = plan(random), b = plan(trained);
  for (const auto& [l, layer] : b.layers)
    EXPECT_GT(layer.quality.at(2).recall, a.layers.at(l).quality.at(2).recall + 0.02);
}

TEST_F(SplitPlanTest, AlignmentScalesTheRowsOfDownAndNothingElse) {
  SplitOptions o = options();
  o.align = true;
  const ModelFolder dense(input_);
  const SplitPlan p = plan(o);
  SplitPlan plain = p;
  for (auto& [l, layer] : plain.layers) layer.channel_scale.clear();
  const ParameterRows a = split_rows(dense, p, DType::f32),
                      b = split_rows(dense, plain, DType::f32);
  const Tensor up = a("layers.0.experts.up.weight", 0, 20);
  EXPECT_TRUE(test::same_bits(up, b("layers.0.experts.up.weight", 0, 20)));
  const auto scaled = test::to_doubles(a("layers.0.experts.down.weight", 0, 20));
  const auto unscaled = test::to_doubles(b("layers.0.experts.down.weight", 0, 20));
  for (std::size_t i = 0; i < scaled.size(); ++i)
    EXPECT_NEAR(scaled[i], unscaled[i] * p.layers.at(0).channel_scale[i % 16], 1e-6);
}

TEST_F(SplitPlanTest, SomeLayersMayBeLeftDense) {
  SplitOptions o = options();
  o.dense_layers = {0};
  const ModelFolder dense(input_);
  (void)write_split(dense, o, plan(o));
  const ModelFolder moe(o.output);
  EXPECT_FALSE(moe.config().is_moe_layer(0));
  EXPECT_TRUE(moe.config().is_moe_layer(1));
  EXPECT_TRUE(test::same_bits(moe.read("layers.0.ffn.down.weight", DType::f32),
                              dense.read("layers.0.ffn.down.weight", DType::f32)));
}

TEST_F(SplitPlanTest, RanksComeToOnePlan) {
  SplitOptions o = options("gradient");
  o.gate = GateInit::select_linear;
  o.scale = SplitScale::Rule::least_squares;
  const SplitPlan alone = plan(o);
  run_ranks(3, [&](Communicator& world) {
    const SplitPlan p = plan_split(ModelFolder(o.input), o, world);
    Tensor mine = Tensor::of<double>({1}, {p.config.moe.score_scale[0]}), first = mine.clone();
    world.broadcast(first, 0).wait();
    EXPECT_EQ(*mine.data<double>(), *first.data<double>()) << "rank " << world.rank();
    EXPECT_EQ(p.calibration_tokens, alone.calibration_tokens);
    // The text is dealt out in another order, so sums differ in their last bits.
    EXPECT_NEAR(p.config.moe.score_scale[0], alone.config.moe.score_scale[0], 0.2);
  });
}

TEST_F(SplitPlanTest, ImportanceIsTheSameOnAnyNumberOfRanks) {
  const ModelFolder dense(input_);
  const auto scores = [&](Communicator& world) {
    const CalibrationText text = load_calibration(options().calibration, dense, 1, world);
    const std::vector<std::int32_t> cluster(std::size_t(text.tokens), 0);
    return importance_scores(
               dense, text,
               [&](std::int64_t) -> const std::vector<std::int32_t>& { return cluster; }, 1, world)
        .front();
  };
  const auto want = test::to_doubles(scores(*single_rank()));
  run_ranks(
      3, [&](Communicator& world) { EXPECT_LT(test::relative_error(scores(world), want), 1e-5); });
}

TEST_F(SplitPlanTest, IndicesOfAnEarlierSplitMakeTheSamePartition) {
  SplitOptions first = options("residual");
  first.experts = 3;
  first.shared = 1;
  first.dense_layers = {1};
  const ModelFolder dense(input_);
  const SplitPlan p = plan(first);
  (void)write_split(dense, first, p);
  SplitOptions again = options();
  again.output = folder_ / "again";
  again.indices = first.output / kNeuronIndices;
  const SplitPlan q = plan(again);
  EXPECT_EQ(q.method, "indices");
  ASSERT_EQ(q.layers.size(), 1u);
  EXPECT_EQ(q.layers.at(0).partition, p.layers.at(0).partition);
}

TEST_F(SplitPlanTest, IndicesThatAreNoPartitionNameTheNeuron) {
  SplitOptions o = options("sequential");
  const ModelFolder dense(input_);
  SplitPlan p = plan(o);
  const auto file = folder_ / "indices.safetensors";
  const auto refused = [&](const std::string& why) {
    // As if the file said that it were exact.
    SafetensorsWriter out(
        file, {{"layers.0.experts.0", DType::i32, {2}}, {"layers.0.experts.1", DType::i32, {18}}});
    std::vector<std::int32_t> rest(18);
    for (int i = 0; i < 18; ++i) rest[std::size_t(i)] = i + 2;
    out.write(Tensor::of<std::int32_t>({2}, {0, why.find("no expert") == why.npos ? 2 : 0}));
    out.write(Tensor::of<std::int32_t>({18}, rest));
    out.finish();
    EXPECT_THAT([&] { read_indices(file, 2, 20); }, ThrowsMessage<InputError>(HasSubstr(why)));
  };
  refused("layer 0: neuron 2 belongs to expert 0 and to expert 1");
  EXPECT_THAT([&] { read_indices(folder_ / "none", 2, 20); },
              ThrowsMessage<InputError>(HasSubstr("none")));
}

TEST_F(SplitPlanTest, WhatCannotBeIsRefused) {
  const auto refused = [&](const std::string& why, auto change) {
    SplitOptions o = options();
    change(o);
    EXPECT_THAT([&] { plan(o); }, ThrowsMessage<InputError>(HasSubstr(why)));
  };
  const auto without_text = [](SplitOptions& o) { o.calibration.shards.clear(); };
  refused("the method gradient needs calibration text", [&](SplitOptions& o) {
    o.method = "gradient";
    without_text(o);
  });
  refused("the gate centers needs calibration text", [&](SplitOptions& o) {
    o.gate = GateInit::centers;
    without_text(o);
  });
  refused("least-squares scale needs calibration text", [&](SplitOptions& o) {
    o.scale = SplitScale::Rule::least_squares;
    without_text(o);
  });
  refused("the method random makes no shared experts", [&](SplitOptions& o) {
    o.shared = 1;
    without_text(o);
  });
  refused("4 experts of 6 neurons are 24, the FFN has 20",
          [](SplitOptions& o) { o.expert_size = 6; });
  refused("layer 2 cannot be left dense", [](SplitOptions& o) { o.dense_layers = {2}; });
  refused("no layer has experts", [](SplitOptions& o) { o.dense_layers = {0, 1}; });
  refused("mixtral", [](SplitOptions& o) {
    o.format = ModelFormat::mixtral;
    o.gate = GateInit::centers;
    o.gate_metric = TokenMetric::l2;
  });
  refused("no document has two tokens", [&](SplitOptions& o) {
    o.calibration.shards = {test::write_shard(folder_, config_, {1}, "one.h5")};
  });
}

TEST_F(SplitPlanTest, ExpertSizeMayBeUnevenOnRequest) {
  SplitOptions o = options("sequential");
  o.expert_size = 6;
  o.uneven = true;
  EXPECT_EQ(plan(o).config.moe.expert_sizes[0], (std::vector<std::int64_t>{6, 6, 6, 2}));
}

/// A sentencepiece model of a few pieces (sentencepiece_model.proto: pieces = 1; piece = 1,
/// score = 2, type = 3).
std::string sentencepiece_model(char last_piece) {
  std::string model;
  const auto add = [&](const std::string& piece, char type) {
    const std::string fields = "\x0A" + std::string(1, char(piece.size())) + piece +
                               std::string("\x15\0\0\0\0\x18", 6) + type;
    model += "\x0A" + std::string(1, char(fields.size())) + fields;
  };
  add("<unk>", 2);
  add("<s>", 3);
  add("</s>", 3);
  add(std::string(1, last_piece), 1);
  return model;
}

TEST_F(SplitPlanTest, CalibrationTextOfAnotherTokenizerIsRefused) {
  std::ofstream(input_ / "tokenizer.model", std::ios::binary) << sentencepiece_model('a');
  const std::string hash = Tokenizer::open(input_).hash();
  SplitOptions o = options();
  o.calibration.shards = {test::write_shard(folder_, config_, {8, 8}, "same.h5", hash)};
  EXPECT_NO_THROW(plan(o));
  o.calibration.shards.push_back(
      test::write_shard(folder_, config_, {8, 8}, "other.h5", "0123456789abcdef"));
  EXPECT_THAT([&] { plan(o); },
              ThrowsMessage<InputError>(testing::AllOf(
                  HasSubstr("other.h5"), HasSubstr("another tokenizer"), HasSubstr(hash))));
}

TEST_F(SplitPlanTest, WeightsThatAreNotFiniteAreRefusedByName) {
  ModelConfig config = config_;
  WriteOptions write;
  write.format = ModelFormat::llama;
  write.dtype = DType::f32;
  const ParameterRows good = initial_weights(config, 11);
  (void)write_model(folder_ / "bad", config, write,
                    [&](const std::string& name, std::int64_t first, std::int64_t count) {
                      Tensor t = good(name, first, count);
                      if (name == "layers.1.attention.q.weight" && first <= 3 && 3 < first + count)
                        t.data<float>()[(3 - first) * 16 + 5] =
                            std::numeric_limits<float>::quiet_NaN();
                      return t;
                    });
  SplitOptions o = options();
  o.input = folder_ / "bad";
  const auto names_the_row =
      ThrowsMessage<InputError>(testing::AllOf(HasSubstr("q_proj"), HasSubstr("row 3")));
  EXPECT_THAT([&] { plan(o); }, names_the_row);
  o.calibration.shards.clear();
  EXPECT_THAT([&] { split_model(o); }, names_the_row);
  EXPECT_FALSE(std::filesystem::exists(o.output));
}

}  // namespace
}  // namespace moe
