// SPDX-License-Identifier: Apache-2.0
// The parity grid again, between processes.
#include <gtest/gtest.h>

#include "support/mpi_world.h"
#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;

TEST(ParityMpi, EveryLayoutOfTheseRanksEqualsOneProcess) {
  Communicator& world = mpi_world().world();
  for (const DType dtype : {DType::f64, DType::f32}) {
    EngineOptions options = parity_options(dtype);
    const Outcome want = reference_outcome(parity_model(), options);
    const Outcome in_documents = reference_outcome(parity_model(), options, true);
    for (int ep = 1; ep <= world.size(); ep *= 2) {
      if (world.size() % ep != 0) continue;
      for (const bool zero : {false, true}) {
        options.zero = zero;
        EXPECT_EQ(
            differences(run_job(world, ep, parity_model(), options), want, tolerance_of(dtype)), "")
            << "EP " << ep << " x DP " << world.size() / ep << " " << name(dtype) << ", zero "
            << zero << ", rank " << world.rank();
        EXPECT_EQ(differences(run_job(world, ep, parity_model(), options, {}, true), in_documents,
                              tolerance_of(dtype)),
                  "")
            << "documents, EP " << ep << " " << name(dtype) << ", rank " << world.rank();
      }
    }
  }
}

TEST(ParityMpi, ATeacherFewerExpertsEachStepAndRatesByFamilyEqualOneProcess) {
  Communicator& world = mpi_world().world();
  EngineOptions options = parity_options(DType::f64);
  options.distill.temperature = 2;
  options.router.top_k_from = 0;
  options.router.top_k_steps = 3;
  options.optimizer.rates[std::size_t(ParameterFamily::router)] = 3;
  options.zero = true;
  const Outcome want = reference_outcome(parity_model(), taught(options), true);
  for (int ep = 1; ep <= world.size(); ep *= 2) {
    if (world.size() % ep != 0) continue;
    EXPECT_EQ(differences(run_job(world, ep, parity_model(), taught(options), {}, true), want,
                          tolerance_of(DType::f64)),
              "")
        << "EP " << ep << ", rank " << world.rank();
  }
}

TEST(ParityMpi, AWrongScaleOfExpertGradientsIsSeen) {
  Communicator& world = mpi_world().world();
  const EngineOptions options = parity_options(DType::f32);
  const Outcome want = reference_outcome(parity_model(), options);
  Outcome got = run_job(world, world.size(), parity_model(), options);
  for (auto& [name, rows] : got.gradients)
    if (name.find("experts") != std::string::npos)
      backend(Device::cpu).scale(rows.values, world.size());
  EXPECT_NE(differences(got, want, tolerance_of(DType::f32)).find("gradient of"),
            std::string::npos);
}

TEST(ParityMpi, TheSameJobRepeatsToTheBit) {
  Communicator& world = mpi_world().world();
  const EngineOptions options = parity_options(DType::f32);
  const Outcome a = run_job(world, world.size() > 2 ? 2 : 1, parity_model(), options);
  const Outcome b = run_job(world, world.size() > 2 ? 2 : 1, parity_model(), options);
  EXPECT_EQ(differences(a, b, {0, 0, 0}), "");
}

}  // namespace
}  // namespace moe
