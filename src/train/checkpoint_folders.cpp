// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_folders.h"

#include <fmt/format.h>

#include "core/durable_files.h"
#include "core/error.h"
#include "train/checkpoint_manifest.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTemporary = ".tmp";  // a save under way
constexpr const char* kRetired = ".old";    // a checkpoint being removed

/// The step that a checkpoint's folder is named after.
std::optional<std::int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with("step-")) return std::nullopt;
  const std::string digits = name.substr(5);
  if (digits.empty() || digits.size() > 18 ||
      digits.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  return std::stoll(digits);
}

std::map<std::int64_t, fs::path> complete_ones(const fs::path& checkpoints) {
  auto found = checkpoint_folders(checkpoints);
  std::erase_if(found, [](const auto& item) { return !is_checkpoint(item.second); });
  return found;
}

void remove_folder(const fs::path& folder) {
  std::error_code failure;
  fs::remove_all(folder, failure);
  if (failure) throw Error(str(folder.string(), ": cannot be removed: ", failure.message()));
}

}  // namespace

std::string checkpoint_name(std::int64_t step) { return fmt::format("step-{:08}", step); }

fs::path unfinished_checkpoint(const fs::path& checkpoints, std::int64_t step) {
  return checkpoints / ("." + checkpoint_name(step) + kTemporary);
}

void remove_leftovers(const fs::path& checkpoints) {
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(checkpoints, missing)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".step-") && (name.ends_with(kTemporary) || name.ends_with(kRetired)))
      remove_folder(entry.path());
  }
}

bool is_checkpoint(const fs::path& folder) {
  std::error_code unreadable;
  return fs::is_regular_file(folder / kManifestName, unreadable);
}

std::map<std::int64_t, fs::path> checkpoint_folders(const fs::path& checkpoints) {
  std::map<std::int64_t, fs::path> found;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(checkpoints, missing))
    if (const auto step = step_of(entry.path())) found[*step] = entry.path();
  return found;
}

std::optional<fs::path> latest_checkpoint(const fs::path& checkpoints) {
  const auto found = complete_ones(checkpoints);
  if (found.empty()) return std::nullopt;
  return found.rbegin()->second;
}

fs::path find_checkpoint(const fs::path& folder) {
  if (is_checkpoint(folder)) return folder;
  if (const auto latest = latest_checkpoint(folder)) return *latest;
  if (const auto latest = latest_checkpoint(folder / "checkpoints")) return *latest;
  MOE_REQUIRE(fs::exists(folder), folder.string(), ": no such folder");
  throw InputError(str(folder.string(), ": holds no complete checkpoint (no ", kManifestName, ")"));
}

std::int64_t abandon_checkpoints_after(const fs::path& checkpoints, std::int64_t step) {
  std::int64_t count = 0;
  for (const auto& [later, folder] : checkpoint_folders(checkpoints)) {
    if (later <= step) continue;
    const std::string plain = "abandoned-" + checkpoint_name(later);
    fs::path name = checkpoints / plain;
    for (int n = 2; fs::exists(name); ++n) name = checkpoints / fmt::format("{}.{}", plain, n);
    rename_path(folder, name);
    ++count;
  }
  return count;
}

void prune_checkpoints(const fs::path& checkpoints, const Retention& keep) {
  MOE_CHECK(keep.last >= 0 && keep.every >= 0, "keeping ", keep.last, " checkpoints and each ",
            keep.every);
  if (keep.last == 0) return;
  const auto found = complete_ones(checkpoints);
  std::int64_t surplus = std::int64_t(found.size()) - keep.last;
  for (const auto& [step, folder] : found) {
    if (surplus-- <= 0) return;
    if (keep.every > 0 && step % keep.every == 0) continue;
    // Under another name first: half a checkpoint is never seen.
    const fs::path retired = checkpoints / ("." + checkpoint_name(step) + kRetired);
    std::error_code stays;  // and is in the way of the renaming, which says so
    fs::remove_all(retired, stays);
    rename_path(folder, retired);
    remove_folder(retired);
  }
}

}  // namespace moe
