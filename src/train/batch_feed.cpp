// SPDX-License-Identifier: Apache-2.0
#include "train/batch_feed.h"

#include <utility>

namespace moe {

BatchFeed::BatchFeed(const Loader& loader, std::int64_t global_batch, std::int64_t first,
                     std::int64_t count)
    : loader_(loader), global_batch_(global_batch), first_(first), count_(count) {}

BatchFeed::~BatchFeed() = default;  // waits for the thread

BatchFeed::Step BatchFeed::read(std::int64_t step, const MixtureState& state) const {
  Step result{loader_.plan(step, global_batch_, state), {}};
  result.batch = loader_.load(result.plan, first_, count_);
  return result;
}

BatchFeed::Step BatchFeed::next(std::int64_t step, const MixtureState& state) {
  std::optional<Ahead> ahead = std::exchange(ahead_, std::nullopt);
  const bool as_expected = ahead && ahead->step == step && ahead->state == state;
  Step result = as_expected ? ahead->read.get() : read(step, state);
  loader_.mixture().announce(step, state, result.plan.next);
  ahead_ = Ahead{step + 1, result.plan.next,
                 std::async(std::launch::async, [this, step, after = result.plan.next] {
                   return read(step + 1, after);
                 })};
  return result;
}

}  // namespace moe
