// SPDX-License-Identifier: Apache-2.0
#include "train/rollback.h"

#include "core/log.h"
#include "train/checkpoint.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kNone = -1;

/// Of those at multiples of `every`.
std::int64_t newest_good_step(const fs::path& checkpoints, std::int64_t highest,
                              std::int64_t every) {
  for (;;) {
    const auto found = latest_checkpoint(checkpoints, highest);
    if (!found) return kNone;
    const std::int64_t step = std::stoll(found->filename().string().substr(5));
    highest = step - 1;
    if (step % every != 0) continue;
    try {
      CheckpointReader(*found).verify();
      return step;
    } catch (const InputError& e) {
      log_warning("passed over: {}", e.what());
    }
  }
}

}  // namespace

std::optional<fs::path> newest_good_checkpoint(const fs::path& checkpoints, std::int64_t highest,
                                               std::int64_t every, Communicator& world) {
  Tensor step = Tensor::of<std::int64_t>({1}, {kNone});
  if (world.rank() == 0) {
    std::int64_t& found = *step.data<std::int64_t>();
    if (every > 0) found = newest_good_step(checkpoints, highest, every);
    if (found == kNone) found = newest_good_step(checkpoints, highest, 1);
  }
  world.broadcast(step, 0).wait();
  const std::int64_t found = *step.data<std::int64_t>();
  return found == kNone ? std::nullopt : latest_checkpoint(checkpoints, found);
}

}  // namespace moe
