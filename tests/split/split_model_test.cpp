// SPDX-License-Identifier: Apache-2.0
#include "split/split_model.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <numeric>

#include "config/model_parameters.h"
#include "core/error.h"
#include "hf/model_folder.h"
#include "nn/parameter_store.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr std::int64_t kLayers = 3, kHidden = 12;
constexpr const char* kParts[] = {"gate", "up", "down"};

ModelConfig dense_config(std::int64_t neurons, bool tied = false) {
  ModelConfig c;
  c.vocab_size = 20;
  c.hidden_size = kHidden;
  c.intermediate_size = neurons;
  c.layers = kLayers;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_dim = 6;
  c.tie_embeddings = tied;
  return c;
}

std::string layer_name(std::int64_t layer, const std::string& rest) {
  return str("layers.", layer, ".", rest);
}

std::string bytes_of(const Tensor& t) {
  return {reinterpret_cast<const char*>(t.bytes()), t.nbytes()};
}

std::string row(const Tensor& t, std::int64_t i) { return bytes_of(t.slice(i, 1)); }

std::string file_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class SplitModel : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "split-model-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }

  /// A dense model with random weights.
  fs::path dense(std::int64_t neurons = 172, DType dtype = DType::f32, bool tied = false) {
    const ModelConfig config = dense_config(neurons, tied);
    WriteOptions write;
    write.format = ModelFormat::llama;
    write.dtype = dtype;
    write.force = true;
    write_model(root_ / "dense", config, write, initial_weights(config, 9));
    return root_ / "dense";
  }

  SplitOptions options(const std::string& output = "moe") {
    SplitOptions o;
    o.input = root_ / "dense";
    o.output = root_ / output;
    return o;
  }

  fs::path root_;
};

/// The experts' rows are the dense rows in the order of a permutation, which is returned; the same
/// for gate, up and down.
std::vector<std::int64_t> expect_permuted_rows(const ModelFolder& dense, const ModelFolder& moe,
                                               std::int64_t layer, DType dtype) {
  std::vector<std::int64_t> order;
  for (const std::string part : kParts) {
    const Tensor from = dense.read(layer_name(layer, "ffn." + part + ".weight"), dtype);
    const Tensor to = moe.read(layer_name(layer, "experts." + part + ".weight"), dtype);
    EXPECT_EQ(from.shape(), to.shape());
    if (order.empty()) {
      std::map<std::string, std::int64_t> neuron_of;
      for (std::int64_t n = 0; n < from.rows(); ++n) neuron_of[row(from, n)] = n;
      for (std::int64_t i = 0; i < to.rows(); ++i) {
        const auto found = neuron_of.find(row(to, i));
        order.push_back(found == neuron_of.end() ? -1 : found->second);
      }
      std::vector<std::int64_t> sorted = order, all(order.size());
      std::sort(sorted.begin(), sorted.end());
      std::iota(all.begin(), all.end(), std::int64_t{0});
      EXPECT_EQ(sorted, all) << part << " of layer " << layer << " is no permutation";
      if (sorted != all) return order;
    }
    for (std::int64_t i = 0; i < to.rows(); ++i)
      EXPECT_EQ(row(to, i), row(from, order[std::size_t(i)])) << part << " row " << i;
  }
  return order;
}

void expect_same_parameters(const ModelFolder& dense, const ModelFolder& moe, DType dtype) {
  for (const ParameterSpec& p : model_parameters(dense.config()))
    if (p.name.find(".ffn.") == std::string::npos) {
      EXPECT_EQ(bytes_of(dense.read(p.name, dtype)), bytes_of(moe.read(p.name, dtype))) << p.name;
    }
}

TEST_F(SplitModel, ExpertsHoldTheRowsOfThePartitionAndAllElseIsUntouched) {
  dense();
  const SplitReport report = split_model(options());
  const ModelFolder before(root_ / "dense"), after(root_ / "moe");
  EXPECT_EQ(after.format(), ModelFormat::llama_moe);
  for (std::int64_t l = 0; l < kLayers; ++l) {
    const auto sizes = even_sizes(172, 8);
    EXPECT_EQ(after.config().layer_expert_sizes(l), sizes);
    EXPECT_EQ(sizes_of(report.plan.layers.at(l).partition.experts), sizes);
    const Partition expected =
        make_construction("random", {})->split({l, 42, 172, sizes}, FfnWeights()).partition;
    EXPECT_EQ(expect_permuted_rows(before, after, l, DType::f32), concatenated(expected.experts));
  }
  expect_same_parameters(before, after, DType::f32);
}

TEST_F(SplitModel, EveryMethodFormatAndStoredTypeKeepsEveryBit) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const std::string method : {"random", "sequential", "clustering"})
      for (const ModelFormat format : {ModelFormat::llama_moe, ModelFormat::mixtral}) {
        SCOPED_TRACE(str(name(dtype), " ", method, " ", name(format)));
        dense(176, dtype);
        SplitOptions o = options();
        o.method = method;
        o.format = format;
        o.force = true;
        if (format == ModelFormat::mixtral) o.scale = 1;  // others are folded into down
        EXPECT_EQ(split_model(o).dtype, dtype);
        const ModelFolder before(root_ / "dense"), after(root_ / "moe");
        EXPECT_EQ(after.stored_dtype(), dtype);
        EXPECT_EQ(after.format(), format);
        for (std::int64_t l = 0; l < kLayers; ++l) expect_permuted_rows(before, after, l, dtype);
        expect_same_parameters(before, after, dtype);
      }
}

TEST_F(SplitModel, ConfigSaysWhatWasAskedFor) {
  dense();
  SplitOptions o = options();
  o.experts = 6;
  o.top_k = 4;
  split_model(o);
  const MoeConfig v1 = ModelFolder(o.output).config().moe;
  EXPECT_EQ(v1.experts, 6);
  EXPECT_EQ(v1.top_k, 4);
  EXPECT_EQ(v1.score_scale, std::vector<double>(kLayers, 1.5));
  EXPECT_EQ(v1.gate, GateKind::mlp);
  EXPECT_TRUE(v1.gate_noise);

  o = options("linear");
  o.gate = GateInit::linear;
  o.gate_noise = false;
  o.scale = 3.25;
  split_model(o);
  const MoeConfig linear = ModelFolder(o.output).config().moe;
  EXPECT_EQ(linear.score_scale, std::vector<double>(kLayers, 3.25));
  EXPECT_EQ(linear.gate, GateKind::linear);
  EXPECT_FALSE(linear.gate_noise);
}

TEST_F(SplitModel, GatesAreRandomOrZeroAsAskedFor) {
  dense();
  const SplitReport report = split_model(options());
  const ModelFolder mlp(root_ / "moe");
  const ParameterRows gates = gate_weights(report.plan.config, GateInit::mlp, 42);
  for (const std::string part : {"hidden", "output", "noise"}) {
    const std::string name = layer_name(2, "router." + part + ".weight");
    EXPECT_EQ(bytes_of(mlp.read(name, DType::f32)), bytes_of(gates(name, 0, 8))) << name;
  }

  SplitOptions o = options("zeros");
  o.gate = GateInit::zeros;
  o.top_k = o.experts;
  EXPECT_FALSE(split_model(o).plan.config.moe.gate_noise);
  EXPECT_EQ(bytes_of(ModelFolder(o.output).read("layers.1.router.weight", DType::f32)),
            bytes_of(Tensor::zeros({8, kHidden}, DType::f32)));
}

TEST_F(SplitModel, SameSeedSameBytesOtherSeedOtherBytes) {
  dense();
  SplitOptions other = options("c");
  other.seed = 43;
  split_model(options("a"));
  split_model(options("b"));
  split_model(other);
  const std::string a = file_text(root_ / "a/model.safetensors");
  EXPECT_GT(a.size(), 1000u);
  EXPECT_EQ(a, file_text(root_ / "b/model.safetensors"));
  EXPECT_NE(a, file_text(root_ / "c/model.safetensors"));
}

TEST_F(SplitModel, AnotherTypeMayBeAskedFor) {
  dense();
  SplitOptions o = options();
  o.dtype = DType::bf16;
  EXPECT_EQ(split_model(o).dtype, DType::bf16);
  const ModelFolder before(root_ / "dense"), after(o.output);
  EXPECT_EQ(after.stored_dtype(), DType::bf16);
  for (std::int64_t l = 0; l < kLayers; ++l) expect_permuted_rows(before, after, l, DType::bf16);
  expect_same_parameters(before, after, DType::bf16);
}

TEST_F(SplitModel, MixtralHoldsTheScaleInDown) {
  dense(176);
  SplitOptions one = options("one"), four = options("four");
  one.format = four.format = ModelFormat::mixtral;
  one.scale = 1;
  split_model(one);
  split_model(four);  // 8 experts, 2 chosen
  const std::string down = "layers.1.experts.down.weight";
  const Tensor plain = ModelFolder(one.output).read(down, DType::f32);
  const Tensor scaled = ModelFolder(four.output).read(down, DType::f32);
  for (std::int64_t i = 0; i < plain.size(); ++i)
    ASSERT_EQ(scaled.data<float>()[i], 4 * plain.data<float>()[i]) << i;
}

TEST_F(SplitModel, TiedEmbeddingsStayTied) {
  dense(172, DType::f32, true);
  split_model(options());
  EXPECT_TRUE(ModelFolder(root_ / "moe").config().tie_embeddings);
}

TEST_F(SplitModel, ReportCountsParametersBytesAndProgress) {
  dense();
  std::int64_t last = 0, total = 0;
  const SplitReport report = split_model(options(), [&](std::int64_t done, std::int64_t all) {
    EXPECT_GT(done, last);
    last = done;
    total = all;
  });
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, report.parameters.total);
  EXPECT_LT(report.parameters.activated, report.parameters.total);
  std::int64_t bytes = 0;
  for (const auto& file : fs::directory_iterator(root_ / "moe"))
    bytes += std::int64_t(file.file_size());
  EXPECT_EQ(report.bytes, bytes);
  EXPECT_GT(report.write_seconds, 0);
}

TEST_F(SplitModel, TopOneWarnsThatTheRouterLearnsNothing) {
  dense();
  EXPECT_TRUE(split_model(options("two")).warnings.empty());
  SplitOptions one = options("one");
  one.top_k = 1;
  EXPECT_THAT(split_model(one).warnings,
              testing::ElementsAre(HasSubstr("model.softmax_over_all: true")));
}

TEST_F(SplitModel, ClusteringReportsItsObjective) {
  dense();
  SplitOptions o = options();
  o.method = "clustering";
  const SplitReport report = split_model(o);
  for (const auto& [l, layer] : report.plan.layers) {
    const std::map<std::string, double> m(layer.measures.begin(), layer.measures.end());
    EXPECT_LT(m.at("objective"), m.at("objective_random"));
  }
}

TEST_F(SplitModel, BadRequestsAreRefusedBeforeAnythingIsWritten) {
  dense(172);
  const auto expect_refused = [&](const std::string& why, auto change) {
    SplitOptions o = options("refused");
    change(o);
    EXPECT_THAT([&] { split_model(o); }, ThrowsMessage<InputError>(HasSubstr(why)));
    EXPECT_FALSE(fs::exists(root_ / "refused")) << why;
  };
  expect_refused("top-k must lie between 1 and the number of experts (8), is 9",
                 [](SplitOptions& o) { o.top_k = 9; });
  expect_refused("is 0", [](SplitOptions& o) { o.top_k = 0; });
  expect_refused("cannot make 173 experts of the 172 FFN neurons",
                 [](SplitOptions& o) { o.experts = 173; });
  expect_refused("must be positive, is 0", [](SplitOptions& o) { o.experts = 0; });
  expect_refused("the scale must be", [](SplitOptions& o) { o.scale = 0; });
  expect_refused("unknown method", [](SplitOptions& o) { o.method = "magic"; });
  expect_refused("cannot cluster on 'down'", [](SplitOptions& o) {
    o.method = "clustering";
    o.construction.cluster_on = "down";
  });
  expect_refused("mixtral has a linear gate", [](SplitOptions& o) {
    o.format = ModelFormat::mixtral;
    o.experts = 4;
    o.gate = GateInit::mlp;
  });
  expect_refused("no place for the weights of the gate noise", [](SplitOptions& o) {
    o.format = ModelFormat::mixtral;
    o.experts = 4;
    o.gate_noise = true;
  });
  expect_refused("experts of one size, the model has 22 and 21",
                 [](SplitOptions& o) { o.format = ModelFormat::mixtral; });
  expect_refused("holds no experts", [](SplitOptions& o) { o.format = ModelFormat::llama; });
  expect_refused("is no folder", [&](SplitOptions& o) { o.input = root_ / "missing"; });
  expect_refused("the same folder", [&](SplitOptions& o) {
    o.output = o.input;
    o.force = true;
  });

  split_model(options("moe"));
  expect_refused("already holds a mixture of 8 experts",
                 [&](SplitOptions& o) { o.input = root_ / "moe"; });
}

TEST_F(SplitModel, AnExistingOutputIsReplacedOnlyByForce) {
  dense();
  split_model(options());
  const std::string before = file_text(root_ / "moe/model.safetensors");
  SplitOptions again = options();
  again.seed = 1;
  EXPECT_THAT([&] { split_model(again); }, ThrowsMessage<InputError>(HasSubstr("--force")));
  EXPECT_EQ(file_text(root_ / "moe/model.safetensors"), before);
  again.force = true;
  split_model(again);
  EXPECT_NE(file_text(root_ / "moe/model.safetensors"), before);
}

TEST_F(SplitModel, TinyStoriesSplitsInto4And8And16Experts) {
  const char* given = std::getenv("MOE_REALDATA");
  const fs::path data =
      given != nullptr ? fs::path(given) : fs::path(MOE_SOURCE_DIR) / "../shared/realdata";
  const fs::path model = data / "models/tinystories-656k";
  if (!fs::exists(model)) GTEST_SKIP() << "no " << model << ": set MOE_REALDATA";
  const ModelFolder before(model);
  for (const std::int64_t experts : {4, 8, 16}) {
    SplitOptions o = options(str("moe-", experts));
    o.input = model;
    o.experts = experts;
    o.method = experts == 8 ? "clustering" : "random";
    split_model(o);
    const ModelFolder after(o.output);
    EXPECT_EQ(after.config().layer_expert_sizes(0),
              std::vector<std::int64_t>(std::size_t(experts), 384 / experts));
    for (std::int64_t l = 0; l < 2; ++l) expect_permuted_rows(before, after, l, DType::f32);
    expect_same_parameters(before, after, DType::f32);
  }
}

}  // namespace
}  // namespace moe
