// SPDX-License-Identifier: Apache-2.0
// Training on a device; on the emulated one, memory is closed to all but kernels and copies.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "comm/staged_comm.h"
#include "core/cuda_device.h"
#include "support/tensor_tools.h"
#include "train/checkpoint_saver.h"
#include "train/parity_checks.h"
#include "train/training_state.h"

namespace moe {
namespace {

using namespace testing;
namespace fs = std::filesystem;

EngineOptions on_device(DType dtype) {
  EngineOptions o = parity_options(dtype);
  o.device = Device::cuda;
  o.zero = true;
  return o;
}

class DeviceTraining : public ::testing::TestWithParam<DType> {};

TEST_P(DeviceTraining, EqualsTheCpu) {
  EngineOptions options = on_device(GetParam());
  EngineOptions reference = options;
  reference.device = Device::cpu;
  const Outcome want = reference_outcome(parity_model(), reference);
  EXPECT_EQ(differences(run_job(*single_rank(), 1, parity_model(), options), want,
                        tolerance_of(GetParam())),
            "");
  if (GetParam() == DType::f32) return;  // each job takes seconds
  options.distill.temperature = reference.distill.temperature = 2;
  EXPECT_EQ(differences(run_job(*single_rank(), 1, parity_model(), taught(options), {}, true),
                        reference_outcome(parity_model(), taught(reference), true),
                        tolerance_of(GetParam())),
            "");
}

TEST_P(DeviceTraining, OfRanksThatShareADeviceEqualsOneProcess) {
  EngineOptions options = on_device(GetParam());
  EngineOptions reference = options;
  reference.device = Device::cpu;
  options.recompute = reference.recompute = Recompute::cheap;
  const Outcome want = reference_outcome(parity_model(), reference);
  std::vector<std::pair<int, int>> layouts = {{2, 1}, {2, 2}, {4, 2}};
  // In f32, the gradient of one expert with few tokens alone is 8e-6 off.
  if (GetParam() == DType::f64) layouts.emplace_back(4, 4);
  for (const auto& [size, ep] : layouts)
    run_ranks(size, [&, ep = ep](Communicator& ranks) {
      const auto world = by_way_of_host_memory(ranks);
      EXPECT_EQ(differences(run_job(*world, ep, parity_model(), options, {.chunks = 2}), want,
                            tolerance_of(GetParam())),
                "")
          << "EP " << ep << " x DP " << world->size() / ep << ", rank " << world->rank();
    });
}

TEST_P(DeviceTraining, GoesOnFromACheckpointToTheBit) {
  const ModelConfig config = parity_model();
  const EngineOptions options = on_device(GetParam());
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  const auto train = [](Engine& engine, std::int64_t first, std::int64_t last) {
    for (std::int64_t step = first; step <= last; ++step) {
      const GlobalBatch batch = parity_batch(step);
      engine.train_step(batch.all, batch.counts, step, kRate);
    }
  };
  Engine straight(config, options, grid, parity_weights(config));
  train(straight, 1, 2);
  const fs::path folder =
      save_checkpoint(fs::path(::testing::TempDir()) / str("device_resume.", ::getpid()), 2,
                      state_to_save(straight), {"{}", "{}", ""}, *world);
  train(straight, 3, 4);

  const auto reader = std::make_shared<const CheckpointReader>(folder);
  Engine resumed(config, options, grid, weights_in(reader));
  load_moments_and_counts(resumed, *reader);
  resumed.optimizer().set_steps(2);
  fs::remove_all(folder.parent_path());
  train(resumed, 3, 4);
  const std::vector<TensorRows> want = state_to_save(straight), got = state_to_save(resumed);
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_TRUE(test::same_bits(got[i].value.to(Device::cpu), want[i].value.to(Device::cpu)))
        << want[i].name;
}

TEST_P(DeviceTraining, TakesNothingFromTheDeviceAfterWarmUp) {
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  Engine engine(parity_model(), on_device(GetParam()), grid, parity_weights(parity_model()));
  const GlobalBatch batch = parity_batch(1);
  const auto reserved_after_step = [&](std::int64_t step) {
    engine.train_step(batch.all, batch.counts, step, 0);  // the same routing again
    return cuda::reserved_bytes();
  };
  reserved_after_step(1);
  const std::int64_t warm = reserved_after_step(2);
  for (const int step : {3, 4, 5}) EXPECT_EQ(reserved_after_step(step), warm) << step;
}

INSTANTIATE_TEST_SUITE_P(Types, DeviceTraining, ::testing::Values(DType::f64, DType::f32),
                         [](const auto& test) { return std::string(name(test.param)); });

}  // namespace
}  // namespace moe
