// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "core/durable_files.h"
#include "core/error.h"
#include "core/log.h"
#include "train/checkpoint.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_hdf5.h"
#include "train/checkpoint_manifest.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTemporary = ".tmp";  // a save under way
constexpr const char* kRetired = ".old";    // a checkpoint being removed

std::string folder_name(std::int64_t step) { return fmt::format("step-{:08}", step); }

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

/// Complete checkpoints by step.
std::map<std::int64_t, fs::path> checkpoints_in(const fs::path& folder) {
  std::map<std::int64_t, fs::path> found;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(folder, missing))
    if (const auto step = step_of(entry.path()); step && is_checkpoint(entry.path()))
      found[*step] = entry.path();
  return found;
}

void remove_leftovers(const fs::path& checkpoints) {
  for (const auto& entry : fs::directory_iterator(checkpoints)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".step-") && (name.ends_with(kTemporary) || name.ends_with(kRetired)))
      fs::remove_all(entry.path());
  }
}

/// Every rank's text, by rank.
std::vector<std::string> gather_texts(const std::string& text, Communicator& world) {
  const auto size = std::size_t(world.size());
  const Tensor lengths = Tensor::empty({world.size()}, DType::i64);
  world.all_gather(lengths, Tensor::of<std::int64_t>({1}, {std::int64_t(text.size())})).wait();
  const auto* length = lengths.data<std::int64_t>();
  const std::int64_t longest = *std::max_element(length, length + size);
  std::vector<std::string> texts(size);
  if (longest == 0) return texts;
  const Tensor padded = Tensor::zeros({longest}, DType::u8);
  std::memcpy(padded.bytes(), text.data(), text.size());
  const Tensor all = Tensor::empty({world.size() * longest}, DType::u8);
  world.all_gather(all, padded).wait();
  for (std::size_t r = 0; r < size; ++r)
    texts[r].assign(reinterpret_cast<const char*>(all.bytes()) + r * std::size_t(longest),
                    std::size_t(length[r]));
  return texts;
}

/// The ranks' reports as one manifest. Each lists its one file, or none.
Manifest merge(std::int64_t step, const std::vector<std::string>& reports) {
  Manifest whole;
  whole.step = step;
  std::map<std::string, std::size_t> index;
  for (std::size_t rank = 0; rank < reports.size(); ++rank) {
    Manifest part = parse_manifest(reports[rank], str("report of rank ", rank));
    const std::size_t file = whole.files.size();
    whole.files.insert(whole.files.end(), part.files.begin(), part.files.end());
    for (ManifestTensor& t : part.tensors) {
      for (ManifestPart& p : t.parts) p.file = file;
      const auto [known, is_new] = index.try_emplace(t.name, whole.tensors.size());
      if (is_new) {
        whole.tensors.push_back(std::move(t));
        continue;
      }
      ManifestTensor& tensor = whole.tensors[known->second];
      MOE_CHECK(tensor.shape == t.shape && tensor.dtype == t.dtype, t.name, " is ",
                name(tensor.dtype), " ", join(tensor.shape), " on one rank and ", name(t.dtype),
                " ", join(t.shape), " on rank ", rank);
      tensor.parts.insert(tensor.parts.end(), t.parts.begin(), t.parts.end());
    }
  }
  for (ManifestTensor& t : whole.tensors) {
    std::stable_sort(t.parts.begin(), t.parts.end(),
                     [](const auto& a, const auto& b) { return a.first_row < b.first_row; });
    require_rows(t, 0, t.shape[0], "the ranks' rows");
  }
  return whole;
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

/// Runs `work` on every rank; when it fails on one, all throw and the folder is removed.
template <class Work>
void together(const std::string& what, const fs::path& temporary, Communicator& world,
              Work&& work) {
  std::string failure;
  try {
    work();
  } catch (const std::exception& e) {
    failure = e.what();
    if (failure.empty()) failure = "unknown reason";
  }
  const std::vector<std::string> failures = gather_texts(failure, world);
  std::string message;
  for (std::size_t rank = 0; rank < failures.size(); ++rank)
    if (!failures[rank].empty())
      message += str(message.empty() ? "" : "; ", "rank ", rank, ": ", failures[rank]);
  if (message.empty()) return;
  if (world.rank() == 0) {
    std::error_code best_effort;
    fs::remove_all(temporary, best_effort);
  }
  throw Error(str(what, " was not saved: ", message));
}

}  // namespace

fs::path save_checkpoint(const fs::path& checkpoints, std::int64_t step,
                         const std::vector<TensorRows>& mine, const std::string& state_json,
                         const std::string& model_json, const std::string& config_yaml,
                         Communicator& world) {
  MOE_CHECK(step >= 0, "a checkpoint of step ", step);
  const bool leads = world.rank() == 0;
  const fs::path folder = checkpoints / folder_name(step);
  const fs::path temporary = checkpoints / ("." + folder_name(step) + kTemporary);
  const std::string what = "checkpoint " + folder.string();

  together(what, temporary, world, [&] {
    check_rows(mine);
    if (!leads) return;
    fs::create_directories(checkpoints);
    remove_leftovers(checkpoints);
    fs::create_directory(temporary);
  });

  std::string report;
  together(what, temporary, world, [&] {
    Manifest part;
    const auto has_rows = [](const TensorRows& r) { return r.value.rows() > 0; };
    if (std::any_of(mine.begin(), mine.end(), has_rows)) {
      const std::string name = fmt::format("rank-{:05}.h5", world.rank());
      part.tensors = write_rank_file(temporary / name, mine);
      const FileDigest digest = digest_of(temporary / name);
      part.files.push_back({name, digest.bytes, digest.checksum});
    } else {
      for (const TensorRows& r : mine)
        part.tensors.push_back({r.name, r.value.dtype(), r.global_shape, {}});
    }
    report = to_text(part);
  });

  const std::vector<std::string> reports = gather_texts(report, world);
  together(what, temporary, world, [&] {
    if (!leads) return;
    Manifest manifest = merge(step, reports);
    const std::pair<const char*, const std::string*> texts[] = {
        {"state.json", &state_json}, {"model.json", &model_json}, {"config.yaml", &config_yaml}};
    for (const auto& [name, text] : texts) {
      write_synced(temporary / name, *text);
      const FileDigest digest = digest_of(temporary / name);
      manifest.files.push_back({name, digest.bytes, digest.checksum});
    }
    const fs::path unfinished = temporary / (std::string(kManifestName) + kTemporary);
    write_synced(unfinished, to_text(manifest));
    rename_path(unfinished, temporary / kManifestName);
    sync_path(temporary);
    if (fs::exists(folder))
      exchange_paths(temporary, folder);
    else
      rename_path(temporary, folder);
    sync_path(checkpoints);
    std::error_code later;  // what stays is removed by the next save
    fs::remove_all(temporary, later);
  });
  return folder;
}

bool is_checkpoint(const fs::path& folder) {
  std::error_code unreadable;
  return fs::is_regular_file(folder / kManifestName, unreadable);
}

std::optional<fs::path> latest_checkpoint(const fs::path& checkpoints, std::int64_t highest) {
  const auto found = checkpoints_in(checkpoints);
  const auto later = found.upper_bound(highest);
  if (later == found.begin()) return std::nullopt;
  return std::prev(later)->second;
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
  for (const auto& [later, folder] : checkpoints_in(checkpoints)) {
    if (later <= step) continue;
    fs::path name = checkpoints / ("abandoned-" + folder_name(later));
    for (int n = 2; fs::exists(name); ++n)
      name = checkpoints / fmt::format("abandoned-{}.{}", folder_name(later), n);
    rename_path(folder, name);
    ++count;
  }
  return count;
}

void prune_checkpoints(const fs::path& checkpoints, std::int64_t keep) {
  MOE_CHECK(keep >= 1, "keeping ", keep, " checkpoints");
  const auto found = checkpoints_in(checkpoints);
  std::int64_t surplus = std::int64_t(found.size()) - keep;
  for (const auto& [step, folder] : found) {
    if (surplus-- <= 0) return;
    // Under another name first: half a checkpoint is never seen.
    const fs::path retired = checkpoints / ("." + folder_name(step) + kRetired);
    std::error_code failure;
    fs::remove_all(retired, failure);
    rename_path(folder, retired);
    fs::remove_all(retired, failure);
    if (failure) throw Error(str(retired.string(), ": cannot be removed: ", failure.message()));
  }
}

}  // namespace moe
