// SPDX-License-Identifier: Apache-2.0
#include "split/attention_split.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <numeric>

#include "core/error.h"
#include "hf/dense.h"
#include "hf/name_table.h"
#include "nn/transformer.h"
#include "split/calibration.h"
#include "split/calibration_support.h"
#include "split/split_model.h"
#include "split/token_clusters.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::TestFolder;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

/// Eight query heads, two key/value heads.
class AttentionSplit : public testing::Test {
 protected:
  AttentionSplit() : config_(test::small_dense()) {
    config_.heads = 8;
    config_.head_dim = 2;
    input_ = test::write_dense(folder_, config_);
    shard_ = test::write_shard(folder_, config_, std::vector<std::int64_t>(40, 24));
  }

  /// The feed-forward stays dense.
  SplitOptions options(AttentionExpert kind, std::optional<std::int64_t> experts = {}) {
    SplitOptions o;
    o.input = input_;
    o.output = folder_ / "moe";
    o.experts = 0;
    o.format = ModelFormat::native;
    o.attention.kind = kind;
    o.attention.experts = experts;
    return o;
  }
  SplitOptions with_text(SplitOptions o) {
    o.calibration.shards = {shard_};
    o.calibration.length = 24;
    return o;
  }
  static SplitPlan plan(const SplitOptions& o) {
    const auto world = single_rank();
    return plan_split(ModelFolder(o.input), o, *world);
  }

  TestFolder folder_;
  ModelConfig config_;
  std::filesystem::path input_, shard_;
};

struct Places {
  AttentionExpert kind;
  std::int64_t experts;
  std::vector<std::int64_t> queries, keys;  // the dense heads, expert by expert
};

TEST_F(AttentionSplit, EveryHeadGoesWhereItBelongs) {
  using enum AttentionExpert;
  for (const Places& want :
       {Places{queries, 2, {0, 1, 4, 5, 2, 3, 6, 7}, {}},
        Places{queries, 4, {0, 4, 1, 5, 2, 6, 3, 7}, {}},
        Places{heads, 1, {0, 1, 2, 3, 4, 5, 6, 7}, {0, 1}},
        Places{heads, 2, {0, 1, 2, 3, 4, 5, 6, 7}, {0, 1}},
        Places{heads, 4, {0, 1, 2, 3, 4, 5, 6, 7}, {0, 0, 1, 1}},
        Places{heads, 8, {0, 1, 2, 3, 4, 5, 6, 7}, {0, 0, 0, 0, 1, 1, 1, 1}}}) {
    SCOPED_TRACE(str(name(want.kind), " ", want.experts));
    SplitOptions o = options(want.kind, want.experts);
    o.attention.top_k = 1;
    const ModelFolder dense(input_);
    const ParameterRows rows = split_rows(dense, plan(o), DType::f32);
    for (const std::string layer : {"layers.0.attention.", "layers.1.attention."}) {
      for (const std::string part : {"q", "k", "v"}) {
        const Tensor from = dense.read(layer + part + ".weight", DType::f32);
        const std::vector<std::int64_t>& heads = part == "q" ? want.queries : want.keys;
        if (heads.empty()) {
          EXPECT_TRUE(test::same_bits(rows(layer + part + ".weight", 0, from.rows()), from));
          continue;
        }
        const std::string experts = layer + "experts." + part + ".weight";
        for (std::size_t i = 0; i < heads.size(); ++i)
          EXPECT_TRUE(
              test::same_bits(rows(experts, std::int64_t(2 * i), 2), from.slice(2 * heads[i], 2)))
              << experts << " head " << i;
      }
      const Tensor from = dense.read(layer + "o.weight", DType::f32);
      const Tensor to = rows(layer + "experts.o.weight", 0, 16);
      for (std::int64_t n = 0; n < 16; ++n)
        for (std::int64_t h = 0; h < 16; ++h)
          EXPECT_EQ(to.data<float>()[n * 16 + h],
                    from.data<float>()[h * 16 + 2 * want.queries[std::size_t(n / 2)] + n % 2]);
    }
  }
}

/// Logits of a model in f64 on some tokens.
Tensor logits(const ModelConfig& config, const ParameterRows& rows) {
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  ParameterStore store(config, DType::f64);
  store.load(rows);
  return Transformer(config, store, grid)
      .logits(Tensor::of<std::int32_t>({1, 6}, {1, 4, 2, 8, 5, 7}), {});
}

// Gates of zeros, k = E and scale E.
TEST_F(AttentionSplit, KeepsTheDenseModelWhenAllExpertsAreChosen) {
  const ModelFolder dense(input_);
  const auto want = test::to_doubles(
      logits(dense.config(), [&](const std::string& name, std::int64_t first, std::int64_t count) {
        return dense.read(name, first, count, DType::f32);
      }));
  for (const auto& [kind, experts] : {std::pair{AttentionExpert::queries, 2},
                                      {AttentionExpert::queries, 4},
                                      {AttentionExpert::heads, 1},
                                      {AttentionExpert::heads, 2},
                                      {AttentionExpert::heads, 4},
                                      {AttentionExpert::heads, 8}})
    for (const std::int64_t feed_forward : {0, 4}) {
      SplitOptions o = options(kind, experts);
      o.attention.top_k = experts;
      o.attention.gate = GateInit::zeros;
      o.attention.scale = double(experts);
      o.experts = feed_forward;
      if (feed_forward > 0) {
        o.top_k = feed_forward;
        o.gate = GateInit::zeros;
        o.scale = double(feed_forward);
      }
      const SplitPlan p = plan(o);
      const ParameterRows rows = split_rows(dense, p, DType::f32);
      EXPECT_LT(test::relative_error(logits(p.config, rows), want), 1e-12)
          << name(kind) << " " << experts << " " << feed_forward;
      ModelConfig fewer = p.config;  // one expert less makes another model
      fewer.attention_moe.top_k = std::max<std::int64_t>(1, experts - 1);
      if (experts > 1) {
        EXPECT_GT(test::relative_error(logits(fewer, rows), want), 1e-3);
      }
    }
}

TEST_F(AttentionSplit, ComesBackAsTheDenseModelBitForBit) {
  for (const auto& [kind, experts] : {std::pair{AttentionExpert::queries, 2},
                                      {AttentionExpert::queries, 4},
                                      {AttentionExpert::heads, 1},
                                      {AttentionExpert::heads, 2},
                                      {AttentionExpert::heads, 8}}) {
    SplitOptions o = options(kind, experts);
    o.force = true;
    o.attention.dense_layers = {0};
    (void)split_model(o);
    const ModelFolder dense(input_), moe(o.output);
    EXPECT_FALSE(std::filesystem::exists(o.output / "neuron_indices.safetensors"));
    EXPECT_FALSE(moe.config().is_attention_moe_layer(0));
    EXPECT_TRUE(moe.config().is_attention_moe_layer(1));
    const ParameterRows back = dense_rows(
        moe.config(), [&](const std::string& name, std::int64_t first, std::int64_t count) {
          return moe.read(name, first, count, DType::f32);
        });
    for (const ParameterSpec& p : model_parameters(dense.config()))
      EXPECT_TRUE(test::same_bits(back(p.name, 0, p.shape[0]), dense.read(p.name, DType::f32)))
          << name(kind) << " " << experts << ": " << p.name;
  }
}

TEST_F(AttentionSplit, ComesBackFromVersionTwosFormatBesideExpertsOfTheFeedForward) {
  SplitOptions o = options(AttentionExpert::heads, 4);
  o.experts = 4;
  o.format = ModelFormat::llama_moe_v2;
  o.method = "sequential";
  (void)split_model(o);
  const ModelFolder dense(input_), moe(o.output);
  EXPECT_EQ(moe.format(), ModelFormat::llama_moe_v2);
  EXPECT_EQ(moe.config().attention_moe.experts, 4);
  EXPECT_THAT(moe.config().attention_moe.score_scale, Each(2));
  const ParameterRows back = dense_rows(
      moe.config(), [&](const std::string& name, std::int64_t first, std::int64_t count) {
        return moe.read(name, first, count, DType::f32);
      });
  for (const ParameterSpec& p : model_parameters(dense.config()))
    EXPECT_TRUE(test::same_bits(back(p.name, 0, p.shape[0]), dense.read(p.name, DType::f32)))
        << p.name;
}

TEST_F(AttentionSplit, DefaultsAreWhatCopiesNothingAndHalfOfIt) {
  const AttentionMoeConfig q = plan(options(AttentionExpert::queries)).config.attention_moe;
  EXPECT_EQ(q.experts, 4);
  EXPECT_EQ(q.top_k, 2);
  EXPECT_FALSE(q.softmax_over_all);
  EXPECT_THAT(q.score_scale, Each(2));
  const AttentionMoeConfig h = plan(options(AttentionExpert::heads)).config.attention_moe;
  EXPECT_EQ(h.experts, 2);
  EXPECT_EQ(h.top_k, 1);
  EXPECT_TRUE(h.softmax_over_all);      // else its router would learn nothing
  EXPECT_THAT(h.score_scale, Each(4));  // E / k, and again for the softmax over all
}

TEST_F(AttentionSplit, ScaleIsWhatWasAskedFor) {
  SplitOptions o = options(AttentionExpert::heads, 8);
  o.attention.top_k = 2;
  o.attention.scale = SplitScale::Rule::variance;
  EXPECT_THAT(plan(o).config.attention_moe.score_scale, Each(4));
  o.attention.scale = 1.5;
  o.attention.softmax_over_all = true;
  EXPECT_THAT(plan(o).config.attention_moe.score_scale, Each(1.5));
}

TEST_F(AttentionSplit, GatesAreRandomZeroOrCentres) {
  const ModelFolder dense(input_);
  const auto gate = [&](SplitOptions o) {
    return split_rows(dense, plan(o), DType::f32)("layers.1.attention.router.weight", 0, 4);
  };
  SplitOptions o = options(AttentionExpert::queries);
  const Tensor random = gate(o);
  EXPECT_TRUE(test::same_bits(random, gate(o)));
  o.seed = 43;
  EXPECT_FALSE(test::same_bits(random, gate(o)));
  o.attention.gate = GateInit::zeros;
  EXPECT_THAT(test::to_doubles(gate(o)), Each(0));
  o = with_text(options(AttentionExpert::queries));
  o.attention.gate = GateInit::centers;
  const Tensor centres = gate(o);
  for (std::int64_t e = 0; e < 4; ++e) {  // unit vectors
    const auto row = test::to_doubles(centres.slice(e, 1));
    EXPECT_NEAR(std::inner_product(row.begin(), row.end(), row.begin(), 0.0), 1, 1e-5);
  }
  EXPECT_TRUE(test::same_bits(centres, gate(o)));
}

TEST_F(AttentionSplit, CentresAreOfWhatTheAttentionIsGivenAndRouteToTheirClusters) {
  // A norm that turns its inputs, for centres do not see their length.
  const ParameterRows plain = initial_weights(config_, 11);
  WriteOptions write;
  write.format = ModelFormat::llama;
  write.dtype = DType::f32;
  (void)write_model(folder_ / "normed", config_, write,
                    [&](const std::string& name, std::int64_t first, std::int64_t count) {
                      const Tensor t = plain(name, first, count).clone();
                      if (name.ends_with("attention_norm.weight"))
                        for (std::int64_t i = 0; i < count; ++i)
                          t.data<float>()[i] = 0.1F + 0.2F * float((first + i) % 7);
                      return t;
                    });
  SplitOptions o = with_text(options(AttentionExpert::queries));
  o.input = folder_ / "normed";
  o.attention.gate = GateInit::centers;
  o.attention.dense_layers = {1};
  const SplitPlan p = plan(o);
  ASSERT_EQ(p.attention.size(), 1u);
  const AttentionLayerPlan& layer = p.attention.at(0);
  EXPECT_GE(layer.gate_agreement.value(), 0.99);
  EXPECT_EQ(std::accumulate(layer.load.begin(), layer.load.end(), std::int64_t{0}),
            2 * p.calibration_tokens);
  // The first layer's attention is given the normed embeddings.
  const ModelFolder dense(o.input);
  const auto world = single_rank();
  const CalibrationText text = load_calibration(o.calibration, dense, o.seed, *world);
  const Tensor x = without_padding(embed(dense, text), text);
  const Tensor norm = dense.read("layers.0.attention_norm.weight", DType::f32);
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    float* row = x.data<float>() + t * x.cols();
    double squares = 0;
    for (std::int64_t i = 0; i < x.cols(); ++i) squares += double(row[i]) * row[i];
    const double root = std::sqrt(squares / double(x.cols()) + config_.rms_norm_eps);
    for (std::int64_t i = 0; i < x.cols(); ++i)
      row[i] = float(row[i] / root * norm.data<float>()[i]);
  }
  const TokenClustering want = cluster_tokens(x, 4, TokenMetric::cosine, false, o.seed, 3);
  EXPECT_LT(test::relative_error(layer.gate, test::to_doubles(want.weight)), 1e-5);
}

TEST_F(AttentionSplit, RanksComeToOnePlan) {
  SplitOptions o = with_text(options(AttentionExpert::queries));
  o.attention.gate = GateInit::centers;
  const SplitPlan alone = plan(o);
  run_ranks(3, [&](Communicator& world) {
    const SplitPlan p = plan_split(ModelFolder(o.input), o, world);
    const Tensor mine = p.attention.at(1).gate, first = mine.clone();
    world.broadcast(first, 0).wait();
    EXPECT_TRUE(test::same_bits(mine, first)) << "rank " << world.rank();
    EXPECT_EQ(p.calibration_tokens, alone.calibration_tokens);
  });
}

TEST_F(AttentionSplit, BothMixturesAreMadeTogetherAndTheFeedForwardIsTheSame) {
  SplitOptions both = with_text(options(AttentionExpert::heads));
  both.experts = 4;
  both.gate = GateInit::centers;
  both.attention.gate = GateInit::centers;
  SplitOptions alone = both;
  alone.attention = {};
  const SplitPlan a = plan(both), b = plan(alone);
  EXPECT_TRUE(a.config.is_moe());
  EXPECT_TRUE(a.config.is_attention_moe());
  for (const auto& [l, layer] : a.layers) {
    EXPECT_EQ(layer.partition, b.layers.at(l).partition);
    EXPECT_TRUE(test::same_bits(layer.gate.weight, b.layers.at(l).gate.weight));
  }
  const ModelFolder dense(input_);
  const ParameterRows rows = split_rows(dense, a, DType::f32),
                      plain = split_rows(dense, b, DType::f32);
  for (const char* name : {"layers.1.experts.up.weight", "layers.1.experts.down.weight"})
    EXPECT_TRUE(test::same_bits(rows(name, 0, 20), plain(name, 0, 20))) << name;
}

TEST_F(AttentionSplit, WhatCannotBeIsRefused) {
  const auto refused = [&](const std::string& why, auto change) {
    SplitOptions o = options(AttentionExpert::queries);
    change(o);
    EXPECT_THAT([&] { plan(o); }, ThrowsMessage<InputError>(HasSubstr(why))) << why;
    EXPECT_FALSE(std::filesystem::exists(o.output));
  };
  refused("experts in the attention (--attention)", [](SplitOptions& o) { o.attention = {}; });
  refused("without their kind: add --attention", [](SplitOptions& o) {
    o.experts = 4;
    o.attention.kind.reset();
    o.attention.top_k = 1;
  });
  refused("3 experts of queries cannot share the 4 query heads",
          [](SplitOptions& o) { o.attention.experts = 3; });
  refused("3 experts of heads cannot share 2 key/value heads", [](SplitOptions& o) {
    o.attention.kind = AttentionExpert::heads;
    o.attention.experts = 3;
  });
  refused("must be positive, is 0", [](SplitOptions& o) { o.attention.experts = 0; });
  refused("attention_moe.top_k must lie between 1 and experts (4), is 5",
          [](SplitOptions& o) { o.attention.top_k = 5; });
  refused("attention's gate centers needs calibration text",
          [](SplitOptions& o) { o.attention.gate = GateInit::centers; });
  refused("no least-squares one",
          [](SplitOptions& o) { o.attention.scale = SplitScale::Rule::least_squares; });
  refused("must be a positive number, is -1", [](SplitOptions& o) { o.attention.scale = -1; });
  refused("the attention of layer 2 cannot be left dense",
          [](SplitOptions& o) { o.attention.dense_layers = {2}; });
  refused("no layer has experts in its attention", [](SplitOptions& o) {
    o.attention.dense_layers = {0, 1};
  });
  refused("the feed-forward stays dense", [](SplitOptions& o) { o.gate = GateInit::linear; });
  refused("llama-moe has no experts in the attention", [](SplitOptions& o) {
    o.experts = 4;
    o.format = ModelFormat::llama_moe;
  });
  refused("keys and values dense: write native", [](SplitOptions& o) {
    o.experts = 4;
    o.format = ModelFormat::llama_moe_v2;
  });
  refused("every layer, but the attention of layer 1 is dense", [](SplitOptions& o) {
    o.experts = 4;
    o.format = ModelFormat::llama_moe_v2;
    o.attention.kind = AttentionExpert::heads;
    o.attention.dense_layers = {1};
  });
  (void)split_model(options(AttentionExpert::queries));
  SplitOptions again = options(AttentionExpert::queries);
  again.input = again.output;
  again.output = folder_ / "again";
  EXPECT_THAT([&] { plan(again); },
              ThrowsMessage<InputError>(HasSubstr("already holds an attention of 4 experts")));
}

TEST_F(AttentionSplit, TopOneWarnsThatTheRouterLearnsNothingUnlessWeighedOverAll) {
  SplitOptions o = options(AttentionExpert::heads, 2);
  o.attention.top_k = 1;
  EXPECT_TRUE(split_model(o).warnings.empty());
  o.force = true;
  o.attention.softmax_over_all = false;
  EXPECT_THAT(split_model(o).warnings, ElementsAre(HasSubstr("attention-top-k 1")));
}

TEST_F(AttentionSplit, WordsOfTheCommandLine) {
  for (const auto kind : {AttentionExpert::queries, AttentionExpert::heads})
    EXPECT_EQ(attention_expert_named(name(kind)), kind);
  EXPECT_THAT([] { attention_expert_named("keys"); },
              ThrowsMessage<InputError>(HasSubstr("queries or heads")));
  for (const auto gate : {GateInit::linear, GateInit::zeros, GateInit::centers})
    EXPECT_EQ(attention_gate_named(attention_gate_name(gate)), gate);
  EXPECT_THAT([] { attention_gate_named("mlp"); },
              ThrowsMessage<InputError>(HasSubstr("random, zeros or centers")));
}

/// A folder of LLaMA-3-8B's config.json and headers; its weights are a hole in the file.
std::filesystem::path llama_3_8b_headers(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json")
      << R"({"model_type":"llama","vocab_size":128256,"hidden_size":4096,)"
         R"("intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,)"
         R"("num_key_value_heads":8,"rope_theta":500000.0,"max_position_embeddings":8192})";
  ModelConfig c;
  c.vocab_size = 128256;
  c.hidden_size = 4096;
  c.intermediate_size = 14336;
  c.layers = c.heads = 32;
  c.kv_heads = 8;
  c.head_dim = 128;
  std::string header = "{";
  std::int64_t at = 0;
  for (const StoredParameter& p : stored_parameters(c, ModelFormat::llama))
    for (const StoredPiece& piece : p.pieces) {
      std::int64_t bytes = 2;
      for (const std::int64_t n : piece.shape) bytes *= n;
      header += str(at > 0 ? "," : "", "\"", piece.tensor, R"(":{"dtype":"BF16","shape":[)",
                    join(piece.shape, ","), R"(],"data_offsets":[)", at, ",", at + bytes, "]}");
      at += bytes;
    }
  header += "}";
  while (header.size() % 8 != 0) header += " ";
  const std::uint64_t length = header.size();
  std::ofstream file(folder / "model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), 8);
  file << header;
  file.close();
  std::filesystem::resize_file(folder / "model.safetensors", 8 + length + std::uintmax_t(at));
  return folder;
}

struct Variant {
  std::int64_t experts, shared, top_k;
  std::optional<AttentionExpert> kind;
  std::int64_t attention_experts, attention_top_k;
  std::int64_t total;
  double activated;  // billions
};

// LLaMA-MoE v2's variants, counted from the headers of the dense model.
TEST(AttentionSplitOfLlama38B, HasThePublishedNumbersOfParameters) {
  using enum AttentionExpert;
  TestFolder folder;
  const auto input = llama_3_8b_headers(folder / "llama-3-8b");
  const std::int64_t dense = 8'030'261'248, gate = 32 * 8 * 4096, keys = 32 * 2 * 1024 * 4096;
  for (const Variant& v : {Variant{8, 0, 2, {}, 0, 0, dense + gate, 3.80},
                           Variant{7, 1, 1, {}, 0, 0, dense + gate * 7 / 8, 3.80},
                           Variant{0, 0, 0, heads, 8, 7, dense + gate, 7.86},
                           Variant{8, 0, 2, heads, 8, 7, dense + 2 * gate, 3.64},
                           Variant{8, 0, 2, heads, 8, 2, dense + 2 * gate, 2.80},
                           Variant{8, 0, 2, heads, 16, 4, dense + 3 * gate + keys, 2.866},
                           Variant{8, 0, 2, heads, 32, 8, dense + 5 * gate + 3 * keys, 3.002},
                           Variant{8, 0, 2, queries, 4, 2, dense + gate * 3 / 2, 3.27}}) {
    SplitOptions o;
    o.input = input;
    o.output = folder / "out";
    o.dry_run = true;
    o.format = ModelFormat::native;
    o.experts = v.experts;
    o.shared = 0;
    if (v.experts > 0) o.top_k = v.top_k;
    if (v.shared > 0) o.expert_size = 1792, o.method = "sharing-inter", o.shared = v.shared;
    o.attention.kind = v.kind;
    if (v.kind) {
      o.attention.experts = v.attention_experts;
      o.attention.top_k = v.attention_top_k;
    }
    if (v.shared == 0) o.method = "sequential";
    const ModelFolder model(input);
    ParameterCounts counts;
    if (v.shared > 0) {
      // Its construction needs calibration text, which weights that are not there cannot read.
      const auto construction = make_construction(o.method, {});
      counts = count_parameters(mixture_config(
          o, model.config(), GateInit::linear,
          std::vector(32, expert_sizes_for(o, *construction, model.config().intermediate_size))));
    } else {
      counts = count_parameters(plan_split(model, o, *single_rank()).config);
    }
    EXPECT_EQ(counts.total, v.total) << v.experts << " " << v.attention_experts;
    EXPECT_NEAR(double(counts.activated) / 1e9, v.activated, 0.005)
        << v.experts << " " << v.attention_experts << " " << counts.activated;
  }
}

}  // namespace
}  // namespace moe
