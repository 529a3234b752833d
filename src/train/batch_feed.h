// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <future>
#include <optional>

#include "data/loader.h"

namespace moe {

/// The batches of this rank, step after step: while a step trains, a thread reads the next one's,
/// so that training does not wait for a disk.
class BatchFeed {
 public:
  /// Of every global batch, sequences [first, first + count) are this rank's. Keeps a reference.
  BatchFeed(const Loader& loader, std::int64_t global_batch, std::int64_t first,
            std::int64_t count);
  ~BatchFeed();
  BatchFeed(const BatchFeed&) = delete;
  BatchFeed& operator=(const BatchFeed&) = delete;

  struct Step {
    StepPlan plan;
    Batch batch;
  };
  /// The step's plan and share. Starts to read step + 1 as it comes if nothing changes the state;
  /// when something did, what was read ahead is dropped. Throws what reading threw.
  Step next(std::int64_t step, const MixtureState& state);

 private:
  struct Ahead {
    std::int64_t step;
    MixtureState state;
    std::future<Step> read;
  };
  Step read(std::int64_t step, const MixtureState& state) const;

  const Loader& loader_;
  std::int64_t global_batch_, first_, count_;
  std::optional<Ahead> ahead_;
};

}  // namespace moe
