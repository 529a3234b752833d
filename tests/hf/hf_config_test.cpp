// SPDX-License-Identifier: Apache-2.0
#include "hf/hf_config.h"

#include <algorithm>

#include "config/model_json.h"
#include "hf_test_support.h"
#include "support/realdata.h"

namespace moe::testing {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string kLlama =
    R"("model_type":"llama","vocab_size":100,"hidden_size":32,"intermediate_size":48,)"
    R"("num_hidden_layers":2,"num_attention_heads":4)";
const std::string kLlamaMoe =
    R"("model_type":"llama_moe","vocab_size":100,"hidden_size":32,"intermediate_size":48,)"
    R"("num_hidden_layers":2,"num_attention_heads":4,"num_experts":4,"num_selects":2)";
const std::string kMixtral =
    R"("model_type":"mixtral","vocab_size":100,"hidden_size":32,"intermediate_size":12,)"
    R"("num_hidden_layers":2,"num_attention_heads":8,"num_local_experts":4)";

const std::string kResidual =
    R"("model_type":"llama_moe_residual","vocab_size":100,"hidden_size":32,)"
    R"("intermediate_size":60,"intermediate_size_moe":48,"intermediate_size_residual":12,)"
    R"("num_hidden_layers":2,"num_attention_heads":4,"num_experts":4,"num_selects":2,)"
    R"("num_experts_residual":2)";

HfConfig parse(const std::string& fields, const std::string& more = "") {
  return parse_hf_config("{" + fields + more + "}", "config.json");
}

TEST(HfConfig, TakesTheDefaultsOfTransformers) {
  const ModelConfig c = parse(kLlama).config;
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.max_positions, 2048);
  EXPECT_FALSE(c.tie_embeddings);
  EXPECT_EQ(c.bos_token, 1);
  EXPECT_EQ(c.eos_token, 2);
  EXPECT_EQ(c.pad_token, -1);
  EXPECT_FALSE(c.is_moe());

  const ModelConfig m = parse(kMixtral).config;
  EXPECT_EQ(m.kv_heads, 8);
  EXPECT_EQ(m.rope_theta, 1e6);
  EXPECT_EQ(m.rms_norm_eps, 1e-5);
  EXPECT_EQ(m.moe.top_k, 2);
  EXPECT_EQ(m.intermediate_size, 48);
  EXPECT_THAT(m.moe.expert_sizes, Each(ElementsAre(12, 12, 12, 12)));
  EXPECT_EQ(m.moe.gate, GateKind::linear);
  EXPECT_FALSE(m.moe.gate_noise);
  EXPECT_THAT(m.moe.score_scale, ElementsAre(1, 1));

  const ModelConfig v1 = parse(kLlamaMoe).config;
  EXPECT_EQ(v1.moe.gate, GateKind::mlp);
  EXPECT_TRUE(v1.moe.gate_noise);
  EXPECT_THAT(v1.moe.expert_sizes, Each(ElementsAre(12, 12, 12, 12)));
  EXPECT_THAT(v1.moe.score_scale, ElementsAre(1, 1));
}

TEST(HfConfig, ReadsLlama3InOldAndNewSpelling) {
  const std::string llama3 =
      R"("rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
      R"("original_max_position_embeddings":8192)";
  const std::string old_style = kLlama +
                                R"(,"num_key_value_heads":2,"head_dim":16,)"
                                R"("bos_token_id":128000,"eos_token_id":[128001,128008],)"
                                R"("rope_theta":500000.0,"rope_scaling":{)" +
                                llama3 + "}";
  const std::string new_style = kLlama +
                                R"(,"num_key_value_heads":2,"head_dim":16,)"
                                R"("bos_token_id":[128000],"eos_token_id":128001,)"
                                R"("rope_parameters":{"rope_theta":500000.0,)" +
                                llama3 + "}";
  for (const std::string& text : {old_style, new_style}) {
    const ModelConfig c = parse(text).config;
    EXPECT_EQ(c.kv_heads, 2);
    EXPECT_EQ(c.head_dim, 16);
    EXPECT_EQ(c.rope_theta, 500000);
    EXPECT_EQ(c.bos_token, 128000);
    EXPECT_EQ(c.eos_token, 128001);
    EXPECT_EQ(c.rope_scaling.kind, RopeScaling::Kind::llama3);
    EXPECT_EQ(c.rope_scaling.factor, 8);
    EXPECT_EQ(c.rope_scaling.low_freq_factor, 1);
    EXPECT_EQ(c.rope_scaling.high_freq_factor, 4);
    EXPECT_EQ(c.rope_scaling.original_max_position, 8192);
  }
}

TEST(HfConfig, ReadsLinearRopeInBothSpellings) {
  for (const char* key : {"type", "rope_type"}) {
    const ModelConfig c =
        parse(kLlama, str(R"(,"rope_scaling":{")", key, R"(":"linear","factor":2.5})")).config;
    EXPECT_EQ(c.rope_scaling.kind, RopeScaling::Kind::linear);
    EXPECT_EQ(c.rope_scaling.factor, 2.5);
  }
}

TEST(HfConfig, AcceptsNullWhereTransformersDoes) {
  const ModelConfig c =
      parse(kLlama, R"(,"rope_scaling":null,"head_dim":null,"num_key_value_heads":null,)"
                    R"("bos_token_id":null,"pad_token_id":null,"quantization_config":null)")
          .config;
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.bos_token, -1);
}

TEST(HfConfig, ReadsThePublishedLlamaMoeConfigs) {
  for (const char* file : {"configs/llamamoe.config.json", "configs/llamamoes.config.json"}) {
    MOE_SKIP_WITHOUT_REALDATA(file);
    const HfConfig c = parse_hf_config(read_file(realdata() / file), file);
    EXPECT_EQ(c.format, ModelFormat::llama_moe);
    EXPECT_EQ(c.config.moe.experts, 16);
    EXPECT_EQ(c.config.moe.top_k, 4);
    EXPECT_EQ(c.config.moe.expert_sizes.size(), 32u);
    EXPECT_THAT(c.config.moe.expert_sizes, Each(Each(688)));
    EXPECT_EQ(c.config.moe.gate, GateKind::mlp);
    EXPECT_THAT(c.config.moe.score_scale, Each(4.0));
    EXPECT_EQ(c.config.pad_token, 0);
    EXPECT_EQ(count_parameters(c.config).total, 6'742'618'112);
  }
}

TEST(HfConfig, ReadsPublishedMixtralsAndRefusesOtherFamiliesByName) {
  MOE_SKIP_WITHOUT_REALDATA("configs");
  const auto read = [](const std::string& name) {
    return parse_hf_config(read_file(realdata() / "configs" / (name + ".config.json")), name);
  };
  const ModelConfig mixtral = read("mixtral").config;
  EXPECT_EQ(mixtral.moe.experts, 8);
  EXPECT_THAT(mixtral.moe.expert_sizes, Each(Each(14336)));
  EXPECT_EQ(mixtral.max_positions, 32768);
  const ModelConfig v2 = read("llamamoe2").config;
  EXPECT_THAT(v2.moe.score_scale, Each(4.0));
  EXPECT_EQ(v2.max_positions, 4096);  // its sliding window
  const ModelConfig v2s = read("llamamoe2s").config;
  EXPECT_EQ(read("llamamoe2").format, ModelFormat::llama_moe_v2);
  EXPECT_EQ(read("llamamoe2s").format, ModelFormat::llama_moe_v2);
  EXPECT_EQ(read("mixtral").format, ModelFormat::mixtral);
  EXPECT_THAT(v2s.moe.expert_sizes, Each(ElementsAre(1792, 1792, 1792, 1792, 1792, 1792, 1792)));
  EXPECT_THAT(v2s.moe.shared_sizes, Each(ElementsAre(1792)));
  EXPECT_FALSE(v2s.moe.shared_gate);
  EXPECT_EQ(v2s.moe.top_k, 1);
  EXPECT_EQ(v2s.intermediate_size, 14336);
  EXPECT_THAT(input_error_of([&] { read("qwen2"); }),
              AllOf(HasSubstr("'qwen2_moe'"), HasSubstr("(Qwen2MoeForCausalLM)"),
                    HasSubstr("llama"), HasSubstr("mixtral"), HasSubstr("moe_native")));
  for (const char* name : {"deepseek", "deepseek2", "olmoe", "qwen2", "qwen3"})
    EXPECT_THAT(input_error_of([&] { read(name); }), HasSubstr("model_type")) << name;
}

TEST(HfConfig, V1Defect4GateNetworkCountsAndTheStrayGatesDoNot) {
  const ModelConfig c =
      parse(kLlamaMoe, R"(,"size_experts":[[12,12,12,12],[1,2,3,42]],"gates":"mlp",)"
                       R"("gate_network":"linear","gate_add_noise":false,)"
                       R"("gate_noise_epsilon":0.5,"score_scale_factor":[1.5,2])")
          .config;
  EXPECT_THAT(c.moe.expert_sizes,
              ElementsAre(ElementsAre(12, 12, 12, 12), ElementsAre(1, 2, 3, 42)));
  EXPECT_EQ(c.moe.gate, GateKind::linear);
  EXPECT_FALSE(c.moe.gate_noise);
  EXPECT_EQ(c.moe.noise_epsilon, 0.5);
  EXPECT_THAT(c.moe.score_scale, ElementsAre(1.5, 2));
}

struct BadConfig {
  const char* what;
  std::string base, more;
  const char* message;
};

class BadHfConfig : public ::testing::TestWithParam<BadConfig> {};

TEST_P(BadHfConfig, IsRefusedNamingFileAndField) {
  EXPECT_THAT(input_error_of([] { parse(GetParam().base, GetParam().more); }),
              AllOf(HasSubstr("config.json: "), HasSubstr(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadHfConfig,
    ::testing::Values(
        BadConfig{"OtherModel", R"("model_type":"gpt2")", "", "'gpt2'"},
        BadConfig{"NoModelType", R"("vocab_size":3)", "", "model_type"},
        BadConfig{"NoHiddenSize", R"("model_type":"llama","vocab_size":3)", "", "hidden_size"},
        BadConfig{"DuplicateKey", kLlama, R"(,"vocab_size":7)", "vocab_size"},
        BadConfig{"TextForNumber", kLlama, R"(,"rms_norm_eps":"small")", "rms_norm_eps"},
        BadConfig{"FractionalSize", kLlama, R"(,"head_dim":8.5)", "head_dim"},
        BadConfig{"HugeSize", kLlama, R"(,"head_dim":99999999999)", "head_dim"},
        BadConfig{"ZeroEps", kLlama, R"(,"rms_norm_eps":0)", "rms_norm_eps"},
        BadConfig{"OddHeadDim", kLlama, R"(,"head_dim":7)", "head_dim"},
        BadConfig{"KvHeads", kLlama, R"(,"num_key_value_heads":3)", "kv_heads"},
        BadConfig{"AttentionBias", kLlama, R"(,"attention_bias":true)", "attention_bias"},
        BadConfig{"MlpBias", kLlama, R"(,"mlp_bias":true)", "mlp_bias"},
        BadConfig{"Activation", kLlama, R"(,"hidden_act":"gelu")", "hidden_act 'gelu'"},
        BadConfig{"Quantised", kLlama, R"(,"quantization_config":{"bits":4})", "quantization"},
        BadConfig{"Yarn", kLlama, R"(,"rope_scaling":{"type":"yarn","factor":4})", "'yarn'"},
        BadConfig{"NewYarn", kLlama, R"(,"rope_parameters":{"rope_type":"yarn"})", "'yarn'"},
        BadConfig{"RopePerLayer", kLlama,
                  R"(,"rope_parameters":{"full_attention":{"rope_theta":1}})", "full_attention"},
        BadConfig{"PartialRotary", kLlama, R"(,"partial_rotary_factor":0.5)", "partial_rotary"},
        BadConfig{"LinearNoFactor", kLlama, R"(,"rope_scaling":{"type":"linear"})", "factor"},
        BadConfig{"Llama3NoLength", kLlama,
                  R"(,"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,)"
                  R"("high_freq_factor":4})",
                  "original_max_position_embeddings"},
        BadConfig{"Llama3Order", kLlama,
                  R"(,"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":4,)"
                  R"("high_freq_factor":4,"original_max_position_embeddings":8192})",
                  "low_freq_factor"},
        BadConfig{"GateType", kLlamaMoe, R"(,"gate_type":"SwitchBalancedGate")",
                  "gate_type 'SwitchBalancedGate'"},
        BadConfig{"GateNetwork", kLlamaMoe, R"(,"gate_network":"conv")", "gate_network 'conv'"},
        BadConfig{"NoSoftmax", kLlamaMoe, R"(,"gate_use_softmax":false)", "gate_use_softmax"},
        BadConfig{"NoScores", kLlamaMoe, R"(,"multiply_gate_scores":false)",
                  "multiply_gate_scores"},
        BadConfig{"WeightNorm", kLlamaMoe, R"(,"add_weight_norm":true)", "add_weight_norm"},
        BadConfig{"Calculator", kLlamaMoe, R"(,"calculator_type":"SwitchDropTokenCalculator")",
                  "calculator_type"},
        BadConfig{"SizesOfOneLayer", kLlamaMoe, R"(,"size_experts":[[12,12,12,12]])",
                  "size_experts"},
        BadConfig{"SizesOfThreeExperts", kLlamaMoe, R"(,"size_experts":[[1,1,1],[1,1,1]])",
                  "size_experts"},
        BadConfig{"EmptyExpert", kLlamaMoe, R"(,"size_experts":[[0,1,1,1],[1,1,1,1]])",
                  "size_experts"},
        BadConfig{"ScalesOfOneLayer", kLlamaMoe, R"(,"score_scale_factor":[1])",
                  "score_scale_factor"},
        BadConfig{"ManyExperts", kMixtral, R"(,"x":0,"num_experts_per_tok":9)", "top_k"},
        BadConfig{"V1Defect24UseWeighting", kResidual, R"(,"use_weighting":true)",
                  "use_weighting true is not supported"},
        BadConfig{"ResidualNoSoftmax", kResidual, R"(,"gate_use_softmax_residual":false)",
                  "gate_use_softmax_residual"},
        BadConfig{"ResidualNoScores", kResidual, R"(,"multiply_gate_scores_residual":false)",
                  "multiply_gate_scores_residual"},
        BadConfig{"ResidualScales", kResidual, R"(,"score_scale_factor_residual":[1,2])",
                  "score_scale_factor_residual differs between layers"},
        BadConfig{"ResidualSizes", kResidual, R"(,"size_experts_residual":[6])",
                  "size_experts_residual"},
        // What the published code fails on: its converter leaves attn_experts out, the default
        // of scale_factor_attn cannot be multiplied with.
        BadConfig{"V2AttentionDefect1NoExperts", kMixtral,
                  R"(,"use_attn_moe":true,"top_k_attn":2,"scale_factor_attn":4.0)",
                  "has use_attn_moe but no attn_experts"},
        BadConfig{"V2AttentionNoTopK", kMixtral,
                  R"(,"use_attn_moe":true,"attn_experts":8,"scale_factor_attn":4.0)",
                  "has use_attn_moe but no top_k_attn"},
        BadConfig{
            "V2AttentionNoScale", kMixtral,
            R"(,"use_attn_moe":true,"attn_experts":8,"top_k_attn":2,"scale_factor_attn":null)",
            "has use_attn_moe but no scale_factor_attn"},
        BadConfig{"V2AttentionUnevenExperts", kMixtral,
                  R"(,"use_attn_moe":true,"attn_experts":12,"top_k_attn":2,"scale_factor_attn":4)",
                  "attn_experts 12 is no multiple of num_key_value_heads 8"},
        BadConfig{"V2AttentionTooFine", kMixtral,
                  R"(,"use_attn_moe":true,"attn_experts":16,"top_k_attn":2,"scale_factor_attn":4)",
                  "config.json: attention_moe: 16 experts of heads"},
        BadConfig{"V2AttentionTopK", kMixtral,
                  R"(,"use_attn_moe":true,"attn_experts":8,"top_k_attn":9,"scale_factor_attn":4)",
                  "attention_moe.top_k must lie between 1 and experts (8), is 9"},
        BadConfig{"V2AttentionNegative", kMixtral,
                  R"(,"use_attn_moe":true,"attn_experts":-8,"top_k_attn":9,"scale_factor_attn":4)",
                  "attn_experts"},
        BadConfig{"V2AttentionManyExperts", kMixtral,
                  R"(,"use_attn_moe":true,"attn_experts":1048576,"top_k_attn":2,)"
                  R"("scale_factor_attn":4)",
                  "attn_experts 1048576 is out of range"},
        BadConfig{"RescaleBias", kMixtral, R"(,"add_rescale_bias":true)", "add_rescale_bias"},
        BadConfig{"MoeType", kMixtral, R"(,"moe_type":"megablocks")", "moe_type"},
        BadConfig{"AllContract", kMixtral, R"(,"num_moe_contract_layers":1)",
                  "no layer has experts"},
        BadConfig{"NegativeContract", kMixtral, R"(,"num_moe_contract_layers":-1)",
                  "num_moe_contract_layers"},
        BadConfig{"Mistral", R"("model_type":"mistral","architectures":["MistralForCausalLM"])", "",
                  "'mistral' (MistralForCausalLM) is not supported: llama"},
        BadConfig{"Gemma", R"("model_type":"gemma","architectures":["GemmaForCausalLM"])", "",
                  "'gemma' (GemmaForCausalLM)"},
        BadConfig{"NativeVersion", R"("model_type":"moe_native","format_version":2)", "",
                  "format_version 2"},
        BadConfig{"NativeNoModel", R"("model_type":"moe_native","format_version":1)", "",
                  "'model'"},
        BadConfig{"NativeEmptyModel", R"("model_type":"moe_native","format_version":1,"model":{})",
                  "", "vocab_size"},
        BadConfig{"ResidualOfNothing", kMixtral, R"(,"intermediate_size_residual":0)",
                  "intermediate_size_residual"}),
    [](const auto& row) { return row.param.what; });

TEST(HfConfig, ReadsLlamaMoeResidual) {
  const HfConfig read = parse(kResidual);
  EXPECT_EQ(read.format, ModelFormat::llama_moe);
  const MoeConfig& m = read.config.moe;
  EXPECT_EQ(read.config.intermediate_size, 60);
  EXPECT_THAT(m.expert_sizes, Each(ElementsAre(12, 12, 12, 12)));
  EXPECT_THAT(m.shared_sizes, Each(ElementsAre(6, 6)));
  EXPECT_EQ(m.shared_sizes.size(), 2u);
  EXPECT_TRUE(m.shared_gate);
  EXPECT_EQ(m.shared_scale, 1);
  // Sizes per layer, or of every layer as older versions of the code have them.
  const MoeConfig sized = parse(kResidual, R"(,"size_experts_residual":[[5,7],[4,8]],)"
                                           R"("score_scale_factor_residual":[2,2])")
                              .config.moe;
  EXPECT_THAT(sized.shared_sizes, ElementsAre(ElementsAre(5, 7), ElementsAre(4, 8)));
  EXPECT_EQ(sized.shared_scale, 2);
  EXPECT_THAT(parse(kResidual, R"(,"size_experts_residual":[5,7])").config.moe.shared_sizes,
              Each(ElementsAre(5, 7)));
}

TEST(HfConfig, LlamaMoeResidualHasEveryFieldOfVersionOne) {
  const std::string text =
      hf_config_json(small_residual_config(GateKind::mlp), ModelFormat::llama_moe, DType::bf16);
  for (const char* field :
       {"\"model_type\": \"llama_moe_residual\"", "\"LlamaMoEResidualForCausalLM\"",
        "\"intermediate_size\": 16", "\"intermediate_size_moe\": 11",
        "\"intermediate_size_residual\": 5", "\"num_experts_residual\": 2",
        "\"size_experts_residual\":", "\"gate_use_softmax_residual\": true",
        "\"multiply_gate_scores_residual\": true", "\"score_scale_factor_residual\": 1.25",
        "\"use_weighting\": false", "\"num_experts\": 3", "\"gate_network\": \"mlp\""})
    EXPECT_THAT(text, HasSubstr(field));
  EXPECT_THAT(text, Not(HasSubstr("auto_map")));  // v1 has no remote code for it
}

TEST(HfConfig, AModelWithoutLayersIsRefusedInEveryFormat) {
  for (const char* type : {"llama", "llama_moe", "llama_moe_residual", "mixtral"})
    EXPECT_THAT(
        [&] {
          parse_hf_config(str(R"({"model_type":")", type,
                              R"(","vocab_size":9,"hidden_size":8,"intermediate_size":12,)",
                              R"("num_hidden_layers":0,"num_attention_heads":2,"num_experts":2,)",
                              R"("num_selects":1,"num_local_experts":2,"intermediate_size_moe":8,)",
                              R"("intermediate_size_residual":4,"num_experts_residual":2,)",
                              R"("score_scale_factor_residual":2.0})"),
                          "config.json");
        },
        ::testing::ThrowsMessage<InputError>(HasSubstr("num_hidden_layers must be positive")));
}

TEST(HfConfig, V2SlidingWindowIsNotInventedWhenAbsent) {
  const std::string v2 = R"(,"max_position_embeddings":8192,"scale_factor":4.0)";
  EXPECT_EQ(parse(kMixtral, v2).config.max_positions, 8192);
  EXPECT_EQ(parse(kMixtral, v2 + R"(,"sliding_window":null)").config.max_positions, 8192);
  EXPECT_EQ(parse(kMixtral, v2 + R"(,"sliding_window":4096)").config.max_positions, 4096);
  EXPECT_EQ(parse(kMixtral, R"(,"max_position_embeddings":8192)").config.max_positions, 8192);
  for (const ModelFormat format : {ModelFormat::mixtral, ModelFormat::llama_moe_v2})
    EXPECT_THAT(hf_config_json(small_mixtral_config(), format, DType::bf16),
                HasSubstr("\"sliding_window\": null"));
}

TEST(HfConfig, ReadsTheFieldsOfLlamaMoeV2) {
  EXPECT_EQ(parse(kMixtral).format, ModelFormat::mixtral);
  const HfConfig read =
      parse_hf_config(R"({"model_type":"mixtral","vocab_size":100,"hidden_size":32,)"
                      R"("intermediate_size":12,"num_hidden_layers":5,"num_attention_heads":8,)"
                      R"("num_local_experts":4,"num_experts_per_tok":1,"scale_factor":2.5,)"
                      R"("num_moe_contract_layers":2,"intermediate_size_residual":7})",
                      "config.json");
  EXPECT_EQ(read.format, ModelFormat::llama_moe_v2);
  const ModelConfig& c = read.config;
  for (std::int64_t l = 0; l < 5; ++l) {
    EXPECT_EQ(c.is_moe_layer(l), l == 2);
    EXPECT_EQ(c.layer_shared_sizes(l).size(), l == 2 ? 1u : 0u);
  }
  EXPECT_THAT(c.layer_expert_sizes(2), ElementsAre(12, 12, 12, 12));
  EXPECT_THAT(c.layer_shared_sizes(2), ElementsAre(7));
  EXPECT_FALSE(c.moe.shared_gate);
  EXPECT_THAT(c.moe.score_scale, Each(2.5));
  EXPECT_EQ(c.intermediate_size, 4 * 12 + 7);
}

TEST(HfConfig, WritesTheFieldsOfLlamaMoeV2) {
  const std::string text =
      hf_config_json(small_v2_config(true, 5), ModelFormat::llama_moe_v2, DType::bf16);
  for (const char* field :
       {"\"model_type\": \"mixtral\"", "\"MixtralForCausalLM\"", "\"intermediate_size\": 4",
        "\"num_local_experts\": 3", "\"num_experts_per_tok\": 1", "\"moe_type\": \"modulelist\"",
        "\"scale_factor\": 1.7", "\"num_moe_contract_layers\": 1",
        "\"intermediate_size_residual\": 5", "\"sliding_window\": null",
        "\"AutoConfig\": \"configuration_mixtral.MixtralConfig\"",
        "\"AutoModelForCausalLM\": \"modeling_mixtral.MixtralForCausalLM\""})
    EXPECT_THAT(text, HasSubstr(field));
  EXPECT_THAT(hf_config_json(small_v2_config(false, 0), ModelFormat::llama_moe_v2, DType::bf16),
              HasSubstr("\"intermediate_size_residual\": null"));
}

TEST(HfConfig, ReadsTheAttentionExpertsOfLlamaMoeV2) {
  const std::string some = kMixtral + R"(,"num_key_value_heads":4)";
  const ModelConfig c = parse(some, R"(,"use_attn_moe":true,"attn_experts":8,"top_k_attn":7,)"
                                    R"("scale_factor_attn":4.0)")
                            .config;
  EXPECT_EQ(c.attention_moe.kind, AttentionExpert::heads);
  EXPECT_EQ(c.attention_moe.experts, 8);
  EXPECT_EQ(c.attention_moe.top_k, 7);
  EXPECT_EQ(c.attention_moe.gate, GateKind::linear);
  EXPECT_FALSE(c.attention_moe.gate_noise);
  EXPECT_THAT(c.attention_moe.layers, Each(true));
  EXPECT_THAT(c.attention_moe.score_scale, Each(4.0));
  EXPECT_EQ(c.expert_kv_heads(), 1);
  // Without use_attn_moe the published code does not look at the others.
  EXPECT_FALSE(parse(some, R"(,"use_attn_moe":false,"attn_experts":8)").config.is_attention_moe());
}

TEST(HfConfig, WritesTheAttentionExpertsOfLlamaMoeV2) {
  const std::string text =
      hf_config_json(with_attention(small_v2_config(false, 0), AttentionExpert::heads, 4, 3, 1.25),
                     ModelFormat::llama_moe_v2, DType::bf16);
  for (const char* field : {"\"use_attn_moe\": true", "\"attn_experts\": 4", "\"top_k_attn\": 3",
                            "\"scale_factor_attn\": 1.25"})
    EXPECT_THAT(text, HasSubstr(field));
  EXPECT_THAT(hf_config_json(small_v2_config(false, 0), ModelFormat::llama_moe_v2, DType::bf16),
              AllOf(HasSubstr("\"use_attn_moe\": false"), Not(HasSubstr("attn_experts"))));
}

TEST(HfConfig, NativeRefusesWhatItDoesNotUnderstand) {
  const std::string good = hf_config_json(everything_config(), ModelFormat::native, DType::bf16);
  const auto message = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    return input_error_of([&] { parse_hf_config(text, "config.json"); });
  };
  EXPECT_THAT(message("\"top_k\"", "\"topk\""), HasSubstr("top_k"));
  EXPECT_THAT(message("\"top_k\"", "\"novelty\": 3, \"top_k\""), HasSubstr("model.novelty 3"));
  EXPECT_THAT(message("\"top_k\": 1", "\"top_k\": 1.5"), HasSubstr("model.top_k 1.5"));
  EXPECT_THAT(message("\"top_k\": 1", "\"top_k\": 9"), HasSubstr("top_k"));
  EXPECT_THAT(message("\"hidden_size\": 8", "\"hidden_size\": 8888888888"),
              HasSubstr("8888888888"));
  EXPECT_THAT(message("\"rope_theta\": 10000.0", "\"rope_theta\": 1e300"), HasSubstr("1e+300"));
  EXPECT_THAT(message("\"rope_scaling\"", "\"attention_moe\": {\"experts\": 2}, \"rope_scaling\""),
              HasSubstr("top_k"));
}

TEST(HfConfig, NativeOfBeforeThereWasASelectionBiasHasNone) {
  ModelConfig config = everything_config();
  config.moe.selection_bias = false;
  std::string text = hf_config_json(config, ModelFormat::native, DType::bf16);
  const std::string line = "\"selection_bias\": false,";
  const std::size_t at = text.find(line);
  ASSERT_NE(at, std::string::npos);
  text.erase(at, line.size());
  EXPECT_EQ(model_config_to_json(parse_hf_config(text, "config.json").config),
            model_config_to_json(config));
}

TEST(HfConfig, WrittenConfigsReadBackEqual) {
  ModelConfig dense = small_dense_config();
  dense.head_dim = 6;
  dense.rope_theta = 12345.678901234567;
  dense.rms_norm_eps = 1e-5;
  dense.rope_scaling = {RopeScaling::Kind::llama3, 8, 1.5, 4.5, 4096};
  dense.tie_embeddings = true;
  dense.initializer_range = 0.013;
  dense.max_positions = 77;
  dense.bos_token = -1;
  dense.eos_token = 5;
  dense.pad_token = 6;
  ModelConfig moe = small_moe_config(GateKind::mlp);
  moe.moe.score_scale = {1.25, 0.1};
  moe.moe.noise_epsilon = 0.003;
  moe.rope_scaling.kind = RopeScaling::Kind::linear;
  moe.rope_scaling.factor = 2.5;
  for (const auto& [config, format] :
       {std::pair{dense, ModelFormat::llama},
        {moe, ModelFormat::llama_moe},
        {small_moe_config(GateKind::linear), ModelFormat::llama_moe},
        {small_mixtral_config(), ModelFormat::mixtral},
        {small_residual_config(GateKind::mlp), ModelFormat::llama_moe},
        {small_v2_config(false, 5), ModelFormat::llama_moe_v2},
        {small_v2_config(true, 0), ModelFormat::llama_moe_v2},
        {with_attention(small_v2_config(true, 0), AttentionExpert::heads, 4, 2, 2),
         ModelFormat::llama_moe_v2},
        {with_attention(everything_config(), AttentionExpert::queries, 2, 1, 2),
         ModelFormat::native},
        {dense, ModelFormat::native},
        {moe, ModelFormat::native},
        {everything_config(), ModelFormat::native}}) {
    const std::string text = hf_config_json(config, format, DType::bf16);
    const HfConfig read = parse_hf_config(text, "written");
    EXPECT_EQ(read.format, format);
    EXPECT_EQ(model_config_to_json(read.config), model_config_to_json(config));
    EXPECT_THAT(text, HasSubstr("\"torch_dtype\": \"bfloat16\""));
  }
}

TEST(HfConfig, LlamaMoeConfigHasEveryFieldOfVersionOne) {
  const std::string text =
      hf_config_json(small_moe_config(GateKind::mlp), ModelFormat::llama_moe, DType::bf16);
  for (const char* field : {"vocab_size",          "hidden_size",
                            "intermediate_size",   "num_hidden_layers",
                            "num_attention_heads", "num_key_value_heads",
                            "hidden_act",          "max_position_embeddings",
                            "initializer_range",   "rms_norm_eps",
                            "use_cache",           "pad_token_id",
                            "bos_token_id",        "eos_token_id",
                            "pretraining_tp",      "tie_word_embeddings",
                            "rope_theta",          "rope_scaling",
                            "attention_bias",      "attention_dropout",
                            "num_experts",         "num_selects",
                            "size_experts",        "gate_type",
                            "gate_network",        "gate_use_softmax",
                            "gate_use_balance",    "gate_balance_loss_weight",
                            "gate_add_noise",      "gate_noise_epsilon",
                            "calculator_type",     "multiply_gate_scores",
                            "score_scale_factor",  "add_weight_norm",
                            "drop_tokens",         "dropped_padding",
                            "capacity_factor",     "architectures",
                            "model_type",          "auto_map"})
    EXPECT_THAT(text, HasSubstr(str("\"", field, "\":"))) << field;
  EXPECT_THAT(text, HasSubstr("\"score_scale_factor\": 1.5"));  // equal layers: a scalar
}

TEST(ModelFormatNames, AreThoseOfTheCommandLine) {
  for (const ModelFormat f : kModelFormats) EXPECT_EQ(model_format_named(name(f)), f);
  EXPECT_THAT(input_error_of([] { model_format_named("gguf"); }), HasSubstr("'gguf'"));
}

}  // namespace
}  // namespace moe::testing
