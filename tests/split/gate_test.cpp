// SPDX-License-Identifier: Apache-2.0
#include "split/gate.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/error.h"

namespace moe {
namespace {

std::vector<float> values(const Tensor& t) { return {t.data<float>(), t.data<float>() + t.size()}; }

ModelConfig config(GateKind kind) {
  ModelConfig c;
  c.vocab_size = 10;
  c.hidden_size = 512;
  c.intermediate_size = 64;
  c.layers = 2;
  c.heads = c.kv_heads = 2;
  c.head_dim = 256;
  c.moe.experts = 64;
  c.moe.expert_sizes.assign(2, std::vector<std::int64_t>(64, 1));
  c.moe.score_scale.assign(2, 32.0);
  c.moe.gate = kind;
  return c;
}

const std::string kHidden = "layers.1.router.hidden.weight";

TEST(Gate, WeightsAreNormalWithTheModelsDeviation) {
  const auto w = values(gate_weights(config(GateKind::mlp), GateInit::mlp, 42)(kHidden, 0, 64));
  double sum = 0, squares = 0;
  for (const float x : w) sum += x, squares += double(x) * x;
  const double n = double(w.size());
  EXPECT_NEAR(sum / n, 0, 5 * 0.02 / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(squares / n), 0.02, 5 * 0.02 / std::sqrt(2 * n));
}

TEST(Gate, WeightsDependOnSeedNameAndIndexAlone) {
  const ParameterRows gate = gate_weights(config(GateKind::mlp), GateInit::mlp, 42);
  const auto w = values(gate(kHidden, 0, 64));
  EXPECT_EQ(values(gate(kHidden, 3, 2)),
            std::vector<float>(w.begin() + 3 * 512, w.begin() + 5 * 512));
  EXPECT_NE(values(gate_weights(config(GateKind::mlp), GateInit::mlp, 43)(kHidden, 0, 64)), w);
  EXPECT_NE(values(gate("layers.0.router.hidden.weight", 0, 64)), w);
}

TEST(Gate, ZerosGateAndNoiseAreZero) {
  const std::vector<float> zeros(64 * 512, 0.f);
  EXPECT_EQ(values(gate_weights(config(GateKind::linear), GateInit::zeros, 42)(
                "layers.0.router.weight", 0, 64)),
            zeros);
  for (const GateInit init : {GateInit::mlp, GateInit::linear})
    EXPECT_EQ(values(gate_weights(config(gate_kind(init)), init, 42)("layers.0.router.noise.weight",
                                                                     0, 64)),
              zeros);
}

TEST(Gate, NamesAreReadBack) {
  for (const GateInit init : {GateInit::mlp, GateInit::linear, GateInit::zeros})
    EXPECT_EQ(gate_init_named(name(init)), init);
  EXPECT_THROW(gate_init_named("tanh"), InputError);
  EXPECT_TRUE(is_router_parameter("layers.0.router.noise.weight"));
  EXPECT_FALSE(is_router_parameter("layers.0.experts.gate.weight"));
}

}  // namespace
}  // namespace moe
