// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "config/model_json.h"
#include "hf/hf_config.h"
#include "hf_test_support.h"

namespace moe::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Refusal {
  const char* what;
  ModelConfig config;
  ModelFormat format;
  std::vector<const char*> words;
};

class RequireRepresentable : public ::testing::TestWithParam<Refusal> {};

TEST_P(RequireRepresentable, SaysWhyNotAndWhatToUseInstead) {
  const auto& [what, config, format, words] = GetParam();
  const std::string message = input_error_of([&] { require_representable(config, format); });
  for (const char* word : words) EXPECT_THAT(message, HasSubstr(word));
  EXPECT_NO_THROW(require_representable(config, ModelFormat::native));
}

template <class F>
ModelConfig with(ModelConfig c, F&& change) {
  change(c);
  c.validate();
  return c;
}

const auto kAll = [](ModelConfig& c) { c.moe.softmax_over_all = true; };
const auto kBias = [](ModelConfig& c) { c.moe.gate_bias = true; };
const auto kUnits = [](ModelConfig& c) { c.moe.unit_weights = true; };
const auto kExpertBias = [](ModelConfig& c) { c.moe.expert_bias = true; };
const auto kSelectionBias = [](ModelConfig& c) { c.moe.selection_bias = true; };
const auto kShared = [](ModelConfig& c) { c.moe.shared_sizes.assign(std::size_t(c.layers), {2}); };
const auto kFirstDense = [](ModelConfig& c) { c.moe.expert_sizes[0].clear(); };

INSTANTIATE_TEST_SUITE_P(
    All, RequireRepresentable,
    ::testing::Values(
        Refusal{"MixtureInLlama",
                small_mixtral_config(),
                ModelFormat::llama,
                {"experts", "llama-moe", "native"}},
        Refusal{"DenseInLlamaMoe",
                small_dense_config(),
                ModelFormat::llama_moe,
                {"dense", "use llama"}},
        Refusal{
            "DenseInV2", small_dense_config(), ModelFormat::llama_moe_v2, {"dense", "use llama"}},
        Refusal{"MlpGateInMixtral",
                small_moe_config(GateKind::mlp),
                ModelFormat::mixtral,
                {"linear gate", "--gate linear", "llama-moe or native"}},
        Refusal{"MlpGateInV2",
                small_moe_config(GateKind::mlp),
                ModelFormat::llama_moe_v2,
                {"linear gate", "--gate linear", "llama-moe or native"}},
        Refusal{"NoiseInMixtral",
                small_moe_config(GateKind::linear),
                ModelFormat::mixtral,
                {"noise", "llama-moe or native"}},
        Refusal{"UnevenInMixtral",
                with(small_moe_config(GateKind::linear), [](auto& c) { c.moe.gate_noise = false; }),
                ModelFormat::mixtral,
                {"one size", "4 and 3", "llama-moe or native"}},
        Refusal{"UnevenInV2",
                with(small_moe_config(GateKind::linear), [](auto& c) { c.moe.gate_noise = false; }),
                ModelFormat::llama_moe_v2,
                {"one size", "llama-moe or native"}},
        Refusal{"SharedInMixtral",
                with(small_mixtral_config(), kShared),
                ModelFormat::mixtral,
                {"no shared experts", "llama-moe, llama-moe-v2 or native"}},
        Refusal{"DenseLayerInMixtral",
                with(small_mixtral_config(), kFirstDense),
                ModelFormat::mixtral,
                {"layer 0", "dense", "native"}},
        Refusal{"DenseLayerInLlamaMoe",
                with(small_mixtral_config(), kFirstDense),
                ModelFormat::llama_moe,
                {"layer 0", "dense", "native"}},
        Refusal{"BiasInMixtral",
                with(small_mixtral_config(), kBias),
                ModelFormat::mixtral,
                {"bias", "native"}},
        Refusal{"SelectionBiasInMixtral",
                with(small_mixtral_config(), kSelectionBias),
                ModelFormat::mixtral,
                {"selection bias", "other experts would be chosen", "native"}},
        Refusal{"SelectionBiasInLlamaMoe",
                with(small_moe_config(GateKind::mlp), kSelectionBias),
                ModelFormat::llama_moe,
                {"selection bias", "native"}},
        Refusal{"SelectionBiasInV2",
                with(small_v2_config(false, 0), kSelectionBias),
                ModelFormat::llama_moe_v2,
                {"selection bias", "native"}},
        Refusal{"BiasInLlamaMoe",
                with(small_mixtral_config(), kBias),
                ModelFormat::llama_moe,
                {"bias", "native"}},
        Refusal{"BiasInV2",
                with(small_mixtral_config(), kBias),
                ModelFormat::llama_moe_v2,
                {"bias", "native"}},
        Refusal{"UnitWeightsInMixtral",
                with(small_mixtral_config(), kUnits),
                ModelFormat::mixtral,
                {"unit_weights", "native"}},
        Refusal{"ExpertBiasInLlamaMoe",
                with(small_mixtral_config(), kExpertBias),
                ModelFormat::llama_moe,
                {"biases", "native"}},
        Refusal{"SoftmaxInMixtral",
                with(small_mixtral_config(), kAll),
                ModelFormat::mixtral,
                {"softmax", "native"}},
        Refusal{"SoftmaxInLlamaMoe",
                with(small_mixtral_config(), kAll),
                ModelFormat::llama_moe,
                {"softmax", "native"}},
        Refusal{
            "SumsInLlamaMoe",
            with(small_moe_config(GateKind::mlp), [](auto& c) { c.moe.expert_sizes[1][0] += 1; }),
            ModelFormat::llama_moe,
            {"layer 1", "native"}},
        Refusal{"SharedCountInLlamaMoe",
                with(small_residual_config(GateKind::mlp),
                     [](auto& c) { c.moe.shared_sizes[1] = {5}; }),
                ModelFormat::llama_moe,
                {"layer 1 has 1 and layer 0 2", "native"}},
        Refusal{"SharedSumInLlamaMoe",
                with(small_residual_config(GateKind::mlp),
                     [](auto& c) {
                       c.moe.shared_sizes[1] = {5, 5};
                     }),
                ModelFormat::llama_moe,
                {"shared neurons", "layer 1", "native"}},
        Refusal{"SharedGateInV2",
                with(small_v2_config(false, 5), [](auto& c) { c.moe.shared_gate = true; }),
                ModelFormat::llama_moe_v2,
                {"without a gate", "llama-moe or native"}},
        Refusal{"SharedSumInV2",
                with(small_v2_config(false, 5), [](auto& c) { c.moe.shared_sizes[2] = {4}; }),
                ModelFormat::llama_moe_v2,
                {"shared neurons", "layer 2", "native"}},
        Refusal{"ScalePerLayerInV2",
                with(small_v2_config(false, 0), [](auto& c) { c.moe.score_scale[2] = 3; }),
                ModelFormat::llama_moe_v2,
                {"one score scale", "layer 2", "native", "llama-moe"}},
        Refusal{"OneEndDenseInV2",
                with(small_v2_config(false, 0), kFirstDense),
                ModelFormat::llama_moe_v2,
                {"both ends", "layer 3 is not dense", "native"}},
        Refusal{"MiddleDenseInV2",
                with(small_v2_config(false, 0), [](auto& c) { c.moe.expert_sizes[1].clear(); }),
                ModelFormat::llama_moe_v2,
                {"both ends", "layer 1 is dense", "native"}},
        Refusal{"DenseWidthInV2",
                with(small_v2_config(true, 5), [](auto& c) { c.intermediate_size = 17; }),
                ModelFormat::llama_moe_v2,
                {"12", "17", "native"}},
        Refusal{"AttentionInLlama",
                with_attention(small_dense_config(), AttentionExpert::heads, 2, 1),
                ModelFormat::llama,
                {"llama has no experts in the attention", "native", "llama-moe-v2"}},
        Refusal{"AttentionInLlamaMoe",
                with_attention(small_moe_config(GateKind::mlp), AttentionExpert::queries, 2, 1),
                ModelFormat::llama_moe,
                {"llama-moe has no experts in the attention", "native"}},
        Refusal{"AttentionInMixtral",
                with_attention(small_mixtral_config(), AttentionExpert::heads, 2, 1),
                ModelFormat::mixtral,
                {"mixtral has no experts in the attention", "native, or llama-moe-v2"}},
        Refusal{"AttentionAloneInV2",
                with_attention(small_dense_config(), AttentionExpert::heads, 2, 1),
                ModelFormat::llama_moe_v2,
                {"only beside those of the feed-forward", "native"}},
        Refusal{"RoutedQueriesInV2",
                with_attention(small_v2_config(false, 0), AttentionExpert::queries, 2, 1),
                ModelFormat::llama_moe_v2,
                {"kind heads", "keys and values dense", "native"}},
        Refusal{"WideAttentionExpertsInV2",
                with_attention(small_v2_config(false, 0), AttentionExpert::heads, 1, 1),
                ModelFormat::llama_moe_v2,
                {"one key/value head each", "2 key/value heads in 1 experts", "native"}},
        Refusal{"HeadDimOfAttentionInV2",
                with(with_attention(small_v2_config(false, 0), AttentionExpert::heads, 2, 1),
                     [](auto& c) { c.head_dim = 4; }),
                ModelFormat::llama_moe_v2,
                {"hidden size", "4 times 4 and 8", "native"}},
        Refusal{"SomeAttentionLayersInV2",
                with(with_attention(small_v2_config(false, 0), AttentionExpert::heads, 2, 1),
                     [](auto& c) { c.attention_moe.layers[3] = false; }),
                ModelFormat::llama_moe_v2,
                {"every layer", "layer 3 is dense", "native"}},
        Refusal{"AttentionScalesInV2",
                with(with_attention(small_v2_config(false, 0), AttentionExpert::heads, 2, 1),
                     [](auto& c) { c.attention_moe.score_scale[2] = 3; }),
                ModelFormat::llama_moe_v2,
                {"one scale", "layer 2", "native"}},
        Refusal{"AttentionSoftmaxInV2",
                with(with_attention(small_v2_config(false, 0), AttentionExpert::heads, 2, 1),
                     [](auto& c) { c.attention_moe.softmax_over_all = true; }),
                ModelFormat::llama_moe_v2,
                {"softmax over the chosen", "native"}},
        Refusal{"AttentionGateBiasInV2",
                with(with_attention(small_v2_config(false, 0), AttentionExpert::heads, 2, 1),
                     [](auto& c) { c.attention_moe.gate_bias = true; }),
                ModelFormat::llama_moe_v2,
                {"bias of their router", "native"}},
        Refusal{"AttentionSelectionBiasInV2",
                with(with_attention(small_v2_config(false, 0), AttentionExpert::heads, 2, 1),
                     [](auto& c) { c.attention_moe.selection_bias = true; }),
                ModelFormat::llama_moe_v2,
                {"bias of their router", "native"}},
        Refusal{"AttentionGateInV2",
                with(with_attention(small_v2_config(false, 0), AttentionExpert::heads, 2, 1),
                     [](auto& c) { c.attention_moe.gate = GateKind::mlp; }),
                ModelFormat::llama_moe_v2,
                {"linear gate without noise", "native"}}),
    [](const auto& row) { return row.param.what; });

TEST(RequireRepresentableAll, AcceptsWhatTheFormatsHold) {
  EXPECT_NO_THROW(require_representable(small_mixtral_config(), ModelFormat::mixtral));
  EXPECT_NO_THROW(require_representable(small_moe_config(GateKind::mlp), ModelFormat::llama_moe));
  EXPECT_NO_THROW(require_representable(small_v2_config(true, 5), ModelFormat::llama_moe_v2));
  EXPECT_NO_THROW(require_representable(small_dense_config(), ModelFormat::native));
}

TEST(ExpressedIn, SaysWhatTheFolderWillBeReadAs) {
  ModelConfig c = small_v2_config(true, 5);
  for (auto& layer : c.moe.shared_sizes)
    if (!layer.empty()) layer = {2, 3};
  EXPECT_THAT(expressed_in(c, ModelFormat::llama_moe_v2).moe.shared_sizes,
              ElementsAre(ElementsAre(), ElementsAre(5), ElementsAre(5), ElementsAre()));
  const MoeConfig v1 = expressed_in(c, ModelFormat::llama_moe).moe;
  EXPECT_TRUE(v1.shared_gate);
  EXPECT_EQ(v1.shared_scale, 2);
  EXPECT_EQ(v1.shared_sizes, c.moe.shared_sizes);
  EXPECT_EQ(model_config_to_json(expressed_in(c, ModelFormat::native)), model_config_to_json(c));
  const ModelConfig gated = small_residual_config(GateKind::mlp);
  EXPECT_EQ(model_config_to_json(expressed_in(gated, ModelFormat::llama_moe)),
            model_config_to_json(gated));
}

}  // namespace
}  // namespace moe::testing
