// SPDX-License-Identifier: Apache-2.0
#include "hf/dense.h"

#include <algorithm>

#include "config/model_json.h"
#include "hf_test_support.h"

namespace moe::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// A mixture of the neurons of a dense model: layer 1 stays dense.
class DenseOut : public ::testing::Test {
 protected:
  void SetUp() override {
    config_ = small_dense_config();
    config_.layers = 3;
    config_.intermediate_size = 17;
    dense_ = std::make_unique<RandomModel>(config_, DType::bf16);
    moe_ = config_;
    moe_.moe.experts = 3;
    moe_.moe.expert_sizes = {{4, 6, 3}, {}, {2, 5, 7}};
    moe_.moe.shared_sizes = {{3, 1}, {}, {3}};
    moe_.moe.shared_gate = true;
    moe_.moe.score_scale = {1.5, 1, 2};
    for (const std::uint64_t l : {0, 1, 2})
      order_.push_back(l == 1 ? std::vector<std::int64_t>{}
                              : permutation(17, Philox(3, RandomPurpose::split, {l})));
  }

  /// The mixture's parameters: row r of the experts is neuron order[r].
  ParameterRows split() const {
    return [this](const std::string& name, std::int64_t first, std::int64_t count) -> Tensor {
      const bool shared = name.find(".shared.") != std::string::npos;
      if (!shared && name.find(".experts.") == std::string::npos) {
        if (dense_->tensors().contains(name)) return dense_->at(name).slice(first, count);
        return Tensor::zeros({count, name.ends_with("output.weight") ? 3 : 8}, DType::bf16);
      }
      const std::size_t layer = std::size_t(name[7] - '0');
      const Tensor from =
          dense_->at(str("layers.", layer, ".ffn", name.substr(name.rfind('.', name.size() - 8))));
      const std::int64_t start = first + (shared ? routed(layer) : 0);
      const Tensor t = Tensor::empty({count, 8}, DType::bf16);
      for (std::int64_t r = 0; r < count; ++r)
        t.slice(r, 1).copy_from(from.slice(order_[layer][std::size_t(start + r)], 1));
      return t;
    };
  }
  static std::int64_t routed(std::size_t layer) { return layer == 0 ? 13 : 14; }

  ModelConfig config_, moe_;
  std::unique_ptr<RandomModel> dense_;
  NeuronOrder order_;
};

TEST_F(DenseOut, DenseToMixtureToDenseIsBitEqualThroughFolders) {
  TestFolder folder;
  WriteOptions llama;
  llama.format = ModelFormat::llama;
  write_model(folder / "dense", config_, llama, dense_->rows());
  WriteOptions native;
  native.format = ModelFormat::native;
  write_model(folder / "moe", moe_, native, split());
  const ModelFolder moe(folder / "moe");
  const ModelConfig out = dense_config_of(moe.config());
  EXPECT_EQ(model_config_to_json(out), model_config_to_json(config_));
  write_model(folder / "again", out, llama,
              dense_rows(moe.config(), rows_of(moe, DType::bf16), order_));
  EXPECT_TRUE(read_file(folder / "dense" / "model.safetensors") ==
              read_file(folder / "again" / "model.safetensors"));
  EXPECT_EQ(read_file(folder / "dense" / "config.json"),
            read_file(folder / "again" / "config.json"));
}

TEST_F(DenseOut, WithoutIdsSharedExpertsComeFirst) {
  const ParameterRows rows = split();
  const ParameterRows out = dense_rows(moe_, rows);
  const Tensor up = out("layers.0.ffn.up.weight", 0, 17);
  EXPECT_TRUE(same_bits(up.slice(0, 4), rows("layers.0.shared.up.weight", 0, 4)));
  EXPECT_TRUE(same_bits(up.slice(4, 13), rows("layers.0.experts.up.weight", 0, 13)));
  EXPECT_TRUE(same_bits(out("layers.0.ffn.up.weight", 3, 6), up.slice(3, 6)));
  EXPECT_TRUE(same_bits(out("layers.1.ffn.up.weight", 2, 6),
                        dense_->at("layers.1.ffn.up.weight").slice(2, 6)));
  EXPECT_TRUE(
      same_bits(out("layers.2.ffn.down.weight", 0, 3), rows("layers.2.shared.down.weight", 0, 3)));
}

/// A model of eight query heads and four key/value heads whose every weight says where it is from:
/// in q, k and v head h holds h + 1 in its first row, in o the columns of head h hold it.
ParameterRows heads_as_numbers(const ModelConfig& c, const std::string& prefix) {
  return [c, prefix](const std::string& name, std::int64_t first, std::int64_t count) {
    for (const ParameterSpec& p : model_parameters(c)) {
      if (p.name != name) continue;
      const Tensor all = Tensor::zeros(p.shape, DType::f32);
      const bool o = name.ends_with("o.weight");
      for (std::int64_t i = 0; i < all.size() && name.find(prefix) != std::string::npos; ++i)
        all.data<float>()[i] = float((o ? i % all.cols() : i / all.cols()) / c.head_dim + 1);
      return all.slice(first, count);
    }
    throw Error(name);
  };
}

ModelConfig eight_heads() {
  ModelConfig c = small_dense_config();
  c.heads = 8;
  c.kv_heads = 4;
  return c;
}

TEST(DenseOfAttention, RoutedQueriesGoBackToTheirHeads) {
  // Two experts: of the key/value heads 0 to 3 the queries 0, 2, 4, 6 and 1, 3, 5, 7.
  const ModelConfig c = with_attention(eight_heads(), AttentionExpert::queries, 2, 1);
  const std::vector<int> head_at = {0, 2, 4, 6, 1, 3, 5, 7};
  const ParameterRows dense = heads_as_numbers(eight_heads(), ".attention.");
  const ParameterRows experts = [&](const std::string& name, std::int64_t first,
                                    std::int64_t count) {
    if (name.find(".attention.experts.") == std::string::npos) return dense(name, first, count);
    const Tensor all = Tensor::empty({16, 8}, DType::f32);
    for (std::int64_t i = 0; i < all.size(); ++i)
      all.data<float>()[i] = float(head_at[std::size_t(i / 16)] + 1);
    return all.slice(first, count);
  };
  const ParameterRows back = dense_rows(c, experts);
  EXPECT_FALSE(dense_config_of(c).is_attention_moe());
  for (const char* part : {"q", "k", "v", "o"}) {
    const std::string name = str("layers.1.attention.", part, ".weight");
    const std::int64_t rows = *part == 'o' || *part == 'k' || *part == 'v' ? 8 : 16;
    EXPECT_TRUE(same_bits(back(name, 0, rows), dense(name, 0, rows))) << name;
    EXPECT_TRUE(same_bits(back(name, 3, 2), dense(name, 3, 2))) << name;
  }
}

TEST(DenseOfAttention, CopiesOfAHeadGoBackWhileTheyAreEqual) {
  const ModelConfig c = with_attention(eight_heads(), AttentionExpert::heads, 8, 2);
  float trained = 0;
  const ParameterRows experts = [&](const std::string& name, std::int64_t first,
                                    std::int64_t count) {
    const Tensor all = Tensor::empty({16, 8}, DType::f32);
    const bool key = name.ends_with("k.weight") || name.ends_with("v.weight");
    for (std::int64_t i = 0; i < all.size(); ++i)
      all.data<float>()[i] = float(i / 16 / (key ? 2 : 1) + 1);
    if (name == "layers.1.attention.experts.v.weight") all.data<float>()[5 * 16] += trained;
    return all.slice(first, count);
  };
  const ParameterRows dense = heads_as_numbers(eight_heads(), ".attention.");
  const ParameterRows back = dense_rows(c, experts);
  for (const char* part : {"q", "k", "v", "o"}) {
    const std::string name = str("layers.1.attention.", part, ".weight");
    const std::int64_t rows = *part == 'q' ? 16 : 8;
    EXPECT_TRUE(same_bits(back(name, 0, rows), dense(name, 0, rows))) << name;
  }
  trained = 1e-3F;
  const ParameterRows after = dense_rows(c, experts);
  EXPECT_NO_THROW((void)after("layers.0.attention.v.weight", 0, 8));
  EXPECT_THAT(input_error_of([&] { (void)after("layers.1.attention.v.weight", 0, 8); }),
              AllOf(HasSubstr("layers.1.attention.experts.v.weight"), HasSubstr("experts 4 and 5"),
                    HasSubstr("key/value head 2"), HasSubstr("native")));
}

TEST_F(DenseOut, RefusesNeuronsThatAreCopiedOrMissing) {
  const auto message = [&] { return input_error_of([&] { dense_rows(moe_, split(), order_); }); };
  const NeuronOrder good = order_;
  order_[2][4] = order_[2][9];
  EXPECT_THAT(message(),
              AllOf(HasSubstr(str("neuron ", order_[2][4], " of layer 2")), HasSubstr("twice")));
  order_ = good;
  order_[0][16] = 17;
  EXPECT_THAT(message(), AllOf(HasSubstr("17"), HasSubstr("layer 0")));
  order_[0][16] = -1;
  EXPECT_THAT(message(), HasSubstr("-1"));
  order_[0] = good[0];
  order_[0].pop_back();
  EXPECT_THAT(message(), HasSubstr("layer 0 has 16 neuron ids"));
  order_ = good;
  order_[1] = good[0];
  EXPECT_THAT(message(), HasSubstr("layer 1 is dense"));
  order_.pop_back();
  EXPECT_THAT(message(), HasSubstr("2 layers"));

  order_ = good;
  moe_.moe.expert_sizes[2] = {2, 5, 6};  // one neuron is nowhere
  const std::int64_t dropped = order_[2].back();
  order_[2].pop_back();
  EXPECT_THAT(message(),
              AllOf(HasSubstr(str("neuron ", dropped, " of layer 2")), HasSubstr("no expert")));
  order_.clear();
  EXPECT_THAT(message(), AllOf(HasSubstr("layer 2"), HasSubstr("16"), HasSubstr("17")));
  EXPECT_THAT(input_error_of([&] { dense_config_of(config_); }), HasSubstr("dense already"));
}

}  // namespace
}  // namespace moe::testing
