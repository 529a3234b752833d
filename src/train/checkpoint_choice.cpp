// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_choice.h"

#include <utility>

#include "comm/texts.h"
#include "core/error.h"
#include "core/log.h"
#include "train/checkpoint_folders.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// The reader, or on every rank the same words on what is wrong.
std::pair<std::shared_ptr<const CheckpointReader>, std::string> try_open(const fs::path& folder,
                                                                         Communicator& world) {
  std::shared_ptr<const CheckpointReader> reader;
  std::string failure;
  try {
    reader = std::make_shared<const CheckpointReader>(folder);
  } catch (const std::exception& e) {
    failure = e.what();
  }
  failure = distinct_failures(gather_texts(failure, world));
  if (failure.empty()) failure = reader->verify_together(world);
  if (!failure.empty()) reader.reset();
  return {reader, failure};
}

/// The first that is whole of the folders whose names rank 0 lists, one a line, or what is wrong
/// with them all.
std::pair<std::shared_ptr<const CheckpointReader>, std::string> first_whole(
    const fs::path& checkpoints, const std::string& names_on_rank_0, Communicator& world) {
  const std::string names = broadcast_text(names_on_rank_0, 0, world);
  std::string failures;
  for (std::size_t begin = 0; begin < names.size();) {
    const std::size_t end = names.find('\n', begin);
    const fs::path folder = checkpoints / names.substr(begin, end - begin);
    begin = end + 1;
    const auto [reader, failure] = try_open(folder, world);
    if (reader) return {reader, ""};
    warn_once("checkpoint {} is damaged and is not used: {}", folder.string(), failure);
    failures += (failures.empty() ? "" : "\n  ") + failure;
  }
  return {nullptr, failures};
}

}  // namespace

std::shared_ptr<const CheckpointReader> open_verified(const fs::path& folder, Communicator& world) {
  const auto [reader, failure] = try_open(broadcast_text(folder.string(), 0, world), world);
  if (!failure.empty()) throw InputError(failure);
  return reader;
}

// Rank 0 lists what there is: file systems of a cluster may not show all ranks the same.

std::shared_ptr<const CheckpointReader> newest_good_checkpoint(const fs::path& checkpoints,
                                                               Communicator& world) {
  std::string names;
  if (world.rank() == 0)
    for (const auto& [step, folder] : checkpoint_folders(checkpoints))
      names = folder.filename().string() + "\n" + names;
  const auto [reader, failures] = first_whole(checkpoints, names, world);
  MOE_REQUIRE(failures.empty(), checkpoints.string(), ": no checkpoint here is whole:\n  ",
              failures,
              "\nRestore one of them, resume another run's (--resume FOLDER), or start anew with "
              "--set run.overwrite=true");
  return reader;
}

std::shared_ptr<const CheckpointReader> rollback_checkpoint(const fs::path& checkpoints,
                                                            std::int64_t highest,
                                                            std::int64_t every,
                                                            Communicator& world) {
  std::string usual, others;
  if (world.rank() == 0)
    for (const auto& [step, folder] : checkpoint_folders(checkpoints)) {
      if (step > highest) continue;
      std::string& names = every > 0 && step % every == 0 ? usual : others;
      names = folder.filename().string() + "\n" + names;
    }
  return first_whole(checkpoints, usual + others, world).first;
}

}  // namespace moe
