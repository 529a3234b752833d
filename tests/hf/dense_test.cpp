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
