// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_saver.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "comm/texts.h"
#include "core/clock.h"
#include "core/error.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_hdf5.h"
#include "train/checkpoint_manifest.h"
#include "train/checkpoint_publish.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// Why `work` failed; empty when it did not.
template <class Work>
std::string failure_of(Work&& work) {
  try {
    work();
  } catch (const std::exception& e) {
    return *e.what() != '\0' ? e.what() : "unknown reason";
  }
  return "";
}

void check_rows(const std::vector<TensorRows>& mine) {
  for (const TensorRows& r : mine) {
    MOE_CHECK(!r.name.empty() && !r.global_shape.empty(), "a tensor without name or shape");
    Shape shape = r.global_shape;
    shape[0] = r.value.rows();
    MOE_CHECK(
        r.value.shape() == shape && r.first_row >= 0 && r.first_row + shape[0] <= r.global_shape[0],
        r.name, ": rows of shape ", join(r.value.shape()), " from row ", r.first_row,
        " of a tensor of shape ", join(r.global_shape));
  }
}

}  // namespace

CheckpointSaver::CheckpointSaver(fs::path checkpoints, const Retention& keep, Communicator& world)
    : checkpoints_(std::move(checkpoints)), keep_(keep), world_(world) {
  const std::string failure = failure_of([&] {
    if (world_.rank() == 0) remove_leftovers(checkpoints_);
  });
  const std::string failures = join_failures(gather_texts(failure, world_));
  if (!failures.empty()) throw Error(failures);
}

void CheckpointSaver::begin(std::int64_t step, std::vector<TensorRows> mine,
                            CheckpointTexts texts) {
  start(std::launch::async, step, std::move(mine), std::move(texts));
}

SaveResult CheckpointSaver::save(std::int64_t step, std::vector<TensorRows> mine,
                                 CheckpointTexts texts) {
  start(std::launch::deferred, step, std::move(mine), std::move(texts));
  return *finish();
}

void CheckpointSaver::start(std::launch policy, std::int64_t step, std::vector<TensorRows> mine,
                            CheckpointTexts texts) {
  MOE_CHECK(!busy(), "a checkpoint of step ", step, " while that of step ", result_.step,
            " is being saved");
  MOE_CHECK(step >= 0, "a checkpoint of step ", step);
  begun_ = Clock::now();
  seconds_still_ = 0;
  const Timer timer(seconds_still_);
  policy_ = policy;
  texts_ = std::move(texts);
  result_ = {};
  result_.step = step;
  result_.folder = checkpoints_ / checkpoint_name(step);
  phase_ = Phase::writing;
  // A copy that fails on one rank is a save that fails, which the ranks find out together.
  const std::string failure = failure_of([&] {
    if (policy == std::launch::async) mine = snapshot(std::move(mine));
  });
  work_ = std::async(policy, [this, failure, mine = std::move(mine)] {
    if (!failure.empty()) throw Error(failure);
    return write_part(mine);
  });
}

void CheckpointSaver::reserve(const std::vector<TensorRows>& mine) {
  const MemoryScope scope(MemoryKind::snapshot);
  snapshot_.resize(mine.size());
  for (std::size_t i = 0; i < mine.size(); ++i) {
    Tensor& copy = snapshot_[i];
    const Tensor& value = mine[i].value;
    if (!copy.defined() || copy.shape() != value.shape() || copy.dtype() != value.dtype())
      copy = Tensor::zeros(value.shape(), value.dtype());  // touches every page
  }
}

std::vector<TensorRows> CheckpointSaver::snapshot(std::vector<TensorRows> mine) {
  reserve(mine);
  for (std::size_t i = 0; i < mine.size(); ++i) {
    snapshot_[i].copy_from(mine[i].value);
    mine[i].value = snapshot_[i];
  }
  return mine;
}

std::string CheckpointSaver::write_part(const std::vector<TensorRows>& mine) const {
  check_rows(mine);
  const fs::path folder = unfinished_checkpoint(checkpoints_, result_.step);
  fs::create_directories(folder);  // whichever rank comes first
  Manifest part;
  const auto has_rows = [](const TensorRows& r) { return r.value.rows() > 0; };
  if (std::any_of(mine.begin(), mine.end(), has_rows)) {
    const std::string name = fmt::format("rank-{:05}.h5", world_.rank());
    part.tensors = write_rank_file(folder / name, mine);
    const FileDigest digest = digest_of(folder / name);
    part.files.push_back({name, digest.bytes, digest.checksum});
  } else {
    for (const TensorRows& r : mine)
      part.tensors.push_back({r.name, r.value.dtype(), r.global_shape, {}});
  }
  return to_text(part);
}

std::optional<SaveResult> CheckpointSaver::poll() {
  if (!busy()) return std::nullopt;
  {
    const Timer timer(seconds_still_);
    const bool done =
        !work_.valid() || work_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    const Tensor unfinished = Tensor::of<std::int64_t>({1}, {done ? 0 : 1});
    world_.all_reduce(unfinished, ReduceOp::sum).wait();
    if (*unfinished.data<std::int64_t>() > 0) return std::nullopt;
    if (phase_ == Phase::writing) {
      start_publishing();
      return std::nullopt;
    }
  }
  return conclude();
}

std::optional<SaveResult> CheckpointSaver::finish() {
  while (busy()) {
    if (work_.valid()) {
      const Timer timer(seconds_still_);
      work_.wait();
    }
    if (auto result = poll()) return result;
  }
  return std::nullopt;
}

void CheckpointSaver::start_publishing() {
  std::string report;
  const std::string failure = failure_of([&] { report = work_.get(); });
  const std::string failures = join_failures(gather_texts(failure, world_));
  std::vector<std::string> reports = gather_texts(report, world_);
  phase_ = Phase::publishing;
  if (world_.rank() != 0) return;
  work_ = std::async(policy_, [this, failures, reports = std::move(reports)] {
    try {
      if (!failures.empty()) throw Error(failures);
      return publish(reports);
    } catch (...) {
      std::error_code best_effort;
      fs::remove_all(unfinished_checkpoint(checkpoints_, result_.step), best_effort);
      throw;
    }
  });
}

std::string CheckpointSaver::publish(const std::vector<std::string>& reports) {
  const fs::path unfinished = unfinished_checkpoint(checkpoints_, result_.step);
  result_.bytes = complete_checkpoint(unfinished, merge_manifests(result_.step, reports), texts_);
  put_in_place(unfinished, result_.folder);
  result_.seconds = seconds_since(begun_);
  return failure_of([&] { prune_checkpoints(checkpoints_, keep_); });
}

SaveResult CheckpointSaver::conclude() {
  std::string failure;
  if (work_.valid()) failure = failure_of([&] { result_.warning = work_.get(); });
  result_.failure = broadcast_text(failure, 0, world_);
  const Tensor still = Tensor::of<double>({1}, {seconds_still_});
  world_.all_reduce(still, ReduceOp::max).wait();
  result_.seconds_still = *still.data<double>();
  phase_ = Phase::idle;
  return result_;
}

fs::path save_checkpoint(const fs::path& checkpoints, std::int64_t step,
                         const std::vector<TensorRows>& mine, const CheckpointTexts& texts,
                         Communicator& world) {
  const SaveResult result = CheckpointSaver(checkpoints, {}, world).save(step, mine, texts);
  if (!result.failure.empty())
    throw Error(str("checkpoint ", result.folder.string(), " was not saved: ", result.failure));
  return result.folder;
}

}  // namespace moe
