// SPDX-License-Identifier: Apache-2.0
#include "train/selfcheck.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "support/faulty_comm.h"
#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;
using ::testing::HasSubstr;

TEST(Selfcheck, AgreesOnEveryLayoutWithZeroRecomputeAndEveryScope) {
  for (const auto& [ranks, ep] : {std::pair{1, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}})
    for (const BalanceScope scope :
         {BalanceScope::sequence, BalanceScope::step, BalanceScope::rank}) {
      EngineOptions o = parity_options(DType::f64);
      o.router.scope = scope;
      o.zero = ep != 2;
      o.recompute = ep == 2 ? Recompute::block : Recompute::cheap;
      run_ranks(ranks, [&, ep = ep](Communicator& world) {
        const ProcessGrid grid(world, ep);
        const bool documents = scope == BalanceScope::sequence;
        const SelfcheckResult r =
            selfcheck(parity_model(), o, grid, parity_weights(parity_model()), 100, documents);
        EXPECT_LE(r.worst, 1e-9);
        EXPECT_GT(r.tensors, 30);
        EXPECT_EQ(r.sequences, 2 * world.size());
      });
    }
}

TEST(Selfcheck, AgreesInF32AndBf16) {
  for (const DType dtype : {DType::f32, DType::bf16})
    run_ranks(4, [&](Communicator& world) {
      const ProcessGrid grid(world, 2);
      EngineOptions o = parity_options(dtype);
      o.zero = true;
      ModelConfig config = parity_model();
      config.initializer_range = 0.1;  // tame: bf16 follows
      EXPECT_NO_THROW(selfcheck(config, o, grid, parity_weights(config), 100));
    });
}

/// What the check says of a grid of 2 x 2 ranks whose collectives do `spoil` to their results.
std::string complaint(bool zero, const test::FaultyComm::Spoil& spoil) {
  std::string said;
  try {
    run_ranks(4, [&](Communicator& inner) {
      test::FaultyComm world(inner, spoil);
      const ProcessGrid grid(world, 2);
      EngineOptions o = parity_options(DType::f32);
      o.zero = zero;
      selfcheck(parity_model(), o, grid, parity_weights(parity_model()), 16);
    });
  } catch (const Error& e) {
    said = e.what();
  }
  return said;
}

TEST(Selfcheck, NamesExpertGradientsThatAreTwiceAsLarge) {
  const auto doubled = [](const char* wanted) {
    return [wanted](const std::string& operation, const Tensor& out, int size) {
      // Groups of two sum the gradients of experts; counts are integers.
      if (operation != wanted || size != 2 || out.dtype() != DType::f32) return;
      Tensor x = out;
      backend(Device::cpu).scale(x, 2);
    };
  };
  for (const bool zero : {false, true}) {
    const std::string said = complaint(zero, doubled(zero ? "reduce_scatter" : "all_reduce"));
    EXPECT_THAT(said, HasSubstr("selfcheck: the grid of 2 x 2 ranks does not compute"));
    EXPECT_THAT(said, HasSubstr("the gradient of layers.0.experts."));
  }
}

TEST(Selfcheck, SeesRowsThatReachTheWrongToken) {
  const std::string said =
      complaint(true, [](const std::string& operation, const Tensor& out, int) {
        if (operation != "all_to_all" || out.dtype() != DType::f32 || out.rows() < 2) return;
        const Tensor first = out.slice(0, 1).clone();
        out.slice(0, 1).copy_from(out.slice(1, 1));
        out.slice(1, 1).copy_from(first);
      });
  EXPECT_THAT(said, HasSubstr("selfcheck: "));
}

}  // namespace
}  // namespace moe
