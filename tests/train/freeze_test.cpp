// SPDX-License-Identifier: Apache-2.0
// Frozen families: no gradient, no state, not a bit changed; the rest as if nothing were frozen.
#include <gmock/gmock.h>

#include <cstring>

#include "train/checkpoint_diff.h"
#include "train/parity_checks.h"
#include "train/run_fixture.h"
#include "train/selfcheck.h"

namespace moe {
namespace {

using namespace testing;
using Families = std::vector<std::string>;

bool in_family(const std::string& parameter, const Families& families) {
  return std::ranges::find(families, kParameterFamilyNames[std::size_t(family_of(parameter))]) !=
         families.end();
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.bytes(), b.bytes(), a.nbytes()) == 0;
}

/// Attention without experts, of routed queries, of routed heads.
const std::vector<ModelConfig> kModels = {
    parity_model(), with_attention_experts(parity_model(), AttentionExpert::queries, 2, 1),
    with_attention_experts(parity_model(), AttentionExpert::heads, 4, 2)};

class Freezing : public ::testing::TestWithParam<int> {};

TEST_P(Freezing, GradientsOfTheOthersAreThoseOfTheWholeModel) {
  const ModelConfig& model = kModels[std::size_t(GetParam())];
  EngineOptions options = parity_options(DType::f64);
  const Outcome whole = reference_outcome(model, options);
  for (const Families& freeze :
       {Families{"embeddings"}, Families{"experts", "attention"}, Families{"router", "shared"},
        Families{"embeddings", "norms", "attention", "router"},
        Families{"embeddings", "norms", "attention", "experts", "shared", "ffn"}})
    for (const Recompute recompute : {Recompute::none, Recompute::cheap, Recompute::block}) {
      options.freeze = freeze;
      options.recompute = recompute;
      const Outcome got = reference_outcome(model, options);
      double squares = 0;
      for (const auto& [name, rows] : whole.gradients) {
        EXPECT_EQ(got.gradients.contains(name), !in_family(name, freeze)) << name;
        if (in_family(name, freeze)) continue;
        EXPECT_LE(relative_difference(got.gradients.at(name), rows), 1e-12)
            << name << " without " << freeze.front();
        for (std::int64_t i = 0; i < rows.values.size(); ++i)
          squares += std::pow(rows.values.data<double>()[i], 2);
      }
      EXPECT_NEAR(got.first.grad_norm, std::sqrt(squares), 1e-10);
    }
}
INSTANTIATE_TEST_SUITE_P(Models, Freezing, ::testing::Values(0, 1, 2));

class FrozenLayouts : public ::testing::TestWithParam<std::tuple<int, bool, Families, int>> {};

TEST_P(FrozenLayouts, GiveWhatOneProcessGives) {
  const auto& [ep, zero, freeze, which] = GetParam();
  const ModelConfig& model = kModels[std::size_t(which)];
  EngineOptions options = parity_options(DType::f64);
  options.freeze = freeze;
  const Outcome want = reference_outcome(model, options);
  options.zero = zero;
  run_ranks(4, [&, ep = ep](Communicator& world) {
    EXPECT_EQ(differences(run_job(world, ep, model, options), want, tolerance_of(DType::f64)), "");
    const ProcessGrid grid(world, ep);
    EXPECT_NO_THROW((void)selfcheck(model, options, grid, parity_weights(model), 8));
  });
}
INSTANTIATE_TEST_SUITE_P(Grid, FrozenLayouts,
                         ::testing::Combine(::testing::Values(1, 2, 4), ::testing::Bool(),
                                            ::testing::Values(Families{"experts", "embeddings"},
                                                              Families{"attention", "norms", "ffn",
                                                                       "router"}),
                                            ::testing::Values(0, 1, 2)));

class FrozenRuns : public testing::RunFixture {
 protected:
  TrainConfig frozen(const std::string& run, std::int64_t steps, std::int64_t ep,
                     const Families& families) const {
    TrainConfig c = config(run, steps, ep);
    c.train.freeze = families;
    return c;
  }

  std::string folder(const std::string& run, int step) const {
    return checkpoint(run, step).folder().string();
  }

  /// That frozen weights are the source's to the bit and have no moments, and that others moved.
  static void expect_frozen(const CheckpointReader& end, const CheckpointReader& source,
                            const Families& families) {
    for (const ParameterSpec& p : model_parameters(source.model_config())) {
      const std::string name = "weights/" + p.name;
      EXPECT_EQ(same_bits(end.read(name, 0, p.shape[0]), source.read(name, 0, p.shape[0])),
                in_family(p.name, families))
          << p.name;
      EXPECT_EQ(end.has("adam_m/" + p.name), !in_family(p.name, families)) << p.name;
    }
  }
};

TEST_F(FrozenRuns, KeepEveryBitOnEveryLayoutInF32AndBf16) {
  train(2, config("source", 20, 2));
  const CheckpointReader source = checkpoint("source", 20);
  for (const Families& families : {Families{"experts", "norms"}, Families{"router", "embeddings"}})
    for (const int ep : {1, 2})
      for (const bool zero : {false, true})
        for (const DType dtype : {DType::f32, DType::bf16}) {
          TrainConfig c = frozen("run", 3, ep, families);
          c.model.init_from = folder("source", 20);
          c.model.dtype = dtype;
          c.parallel.zero = zero;
          c.run.overwrite = true;
          train(4, c);
          SCOPED_TRACE(str(families.front(), ", EP ", ep, ", zero ", zero, ", ", name(dtype)));
          expect_frozen(checkpoint("run", 3), source, families);
          EXPECT_NO_THROW(checkpoint("run", 3).verify());
        }
}

TEST_F(FrozenRuns, StoppedAndResumedEqualStraightOnesToTheLastBit) {
  for (const char* recompute : {"none", "block"}) {
    const auto job = [&](const std::string& run, std::int64_t steps) {
      TrainConfig c = frozen(run + recompute, steps, 2, {"attention", "embeddings"});
      if (recompute == std::string("block")) c.parallel.recompute = Recompute::block;
      return c;
    };
    train(2, job("straight", 30));
    train(2, job("stopped", 20));
    train(2, job("stopped", 30), "auto");
    EXPECT_TRUE(diff_checkpoints(checkpoint(str("stopped", recompute), 30),
                                 checkpoint(str("straight", recompute), 30))
                    .empty());
  }
}

TEST_F(FrozenRuns, ACheckpointGoesOnWhereOtherFamiliesAreFrozen) {
  train(2, frozen("run", 20, 1, {"experts"}));
  const Tensor experts = checkpoint("run", 20).read("weights/layers.0.experts.up.weight", 0, 20);
  const Tensor router = checkpoint("run", 20).read("weights/layers.0.router.hidden.weight", 0, 4);
  train(4, frozen("run", 40, 2, {"router"}), "auto");  // the experts' moments start at zero
  const CheckpointReader end = checkpoint("run", 40);
  EXPECT_FALSE(same_bits(end.read("weights/layers.0.experts.up.weight", 0, 20), experts));
  EXPECT_TRUE(same_bits(end.read("weights/layers.0.router.hidden.weight", 0, 4), router));
  EXPECT_TRUE(end.has("adam_v/layers.0.experts.up.weight"));
  EXPECT_FALSE(end.has("adam_v/layers.0.router.hidden.weight"));
}

TEST_F(FrozenRuns, AreRefusedWhereTheModelHasNoSuchFamily) {
  const auto error = [&](const Families& families) -> std::string {
    try {
      train(1, frozen("run", 2, 1, families));
    } catch (const InputError& e) {
      return e.what();
    }
    return "none";
  };
  EXPECT_THAT(error({"shared"}),
              ::testing::HasSubstr("the model has no parameters of the family shared"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "run"));
}

}  // namespace
}  // namespace moe
