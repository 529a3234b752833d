// SPDX-License-Identifier: Apache-2.0
#include "config/model_config.h"

#include <gtest/gtest.h>

#include "config/model_parameters.h"
#include "core/error.h"

namespace moe {
namespace {

ModelConfig llama_moe_7b(std::int64_t experts, std::int64_t k) {
  ModelConfig c;
  c.vocab_size = 32000;
  c.hidden_size = 4096;
  c.intermediate_size = 11008;
  c.layers = 32;
  c.heads = c.kv_heads = 32;
  c.head_dim = 128;
  c.moe.experts = experts;
  c.moe.top_k = k;
  c.moe.expert_sizes.assign(32, std::vector<std::int64_t>(std::size_t(experts), 11008 / experts));
  c.moe.score_scale.assign(32, double(experts) / double(k));
  return c;
}

TEST(ModelConfig, CountsThePublishedLlamaMoeModels) {
  EXPECT_EQ(count_parameters(llama_moe_7b(8, 2)).total, 6'740'514'816);
  EXPECT_EQ(count_parameters(llama_moe_7b(16, 4)).total, 6'742'618'112);
  EXPECT_NEAR(double(count_parameters(llama_moe_7b(8, 2)).activated), 3.493e9, 5e5);
  EXPECT_NEAR(double(count_parameters(llama_moe_7b(16, 4)).activated), 3.494e9, 5e5);
  EXPECT_NEAR(double(count_parameters(llama_moe_7b(16, 2)).activated), 2.953e9, 5e5);
}

TEST(ModelConfig, RejectsATopKAboveTheNumberOfExperts) {
  ModelConfig c = llama_moe_7b(8, 2);
  c.validate();
  c.moe.top_k = 9;
  EXPECT_THROW(c.validate(), InputError);
}

TEST(ModelParameters, OffsetsOfUnevenExpertsAddUp) {
  ModelConfig c = llama_moe_7b(2, 1);
  c.moe.expert_sizes.assign(32, {11000, 8});
  for (const ParameterSpec& p : model_parameters(c)) {
    if (p.placement != Placement::expert) continue;
    EXPECT_EQ(p.expert_offsets, (std::vector<std::int64_t>{0, 11000, 11008}));
  }
}

}  // namespace
}  // namespace moe
