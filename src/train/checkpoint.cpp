// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "comm/texts.h"
#include "config/model_json.h"
#include "core/error.h"
#include "data/checksum.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_folders.h"
#include "train/checkpoint_hdf5.h"
#include "train/checkpoint_manifest.h"

namespace moe {

namespace fs = std::filesystem;

namespace {

void require_checksum(const std::string& where, const ManifestTensor& t, const ManifestPart& part,
                      std::uint64_t sum) {
  MOE_REQUIRE(sum == part.checksum, where, ": rows ", part.first_row, " to ",
              part.first_row + part.rows, " of ", t.name, " differ from their checksum");
}

}  // namespace

struct CheckpointReader::State {
  fs::path folder;
  Manifest manifest;
  std::vector<CheckpointTensor> tensors;
  std::map<std::string, std::size_t> index;

  std::recursive_mutex mutex;  // guards what follows
  std::vector<bool> verified;
  std::map<std::size_t, RankFile> open;

  std::string where() const { return folder.string(); }

  const ManifestTensor& find(const std::string& name) const {
    const auto found = index.find(name);
    MOE_REQUIRE(found != index.end(), where(), ": has no tensor ", name);
    return manifest.tensors[found->second];
  }

  /// Checks the file once; the caller holds the mutex.
  void verify_file(std::size_t i) {
    if (verified[i]) return;
    const ManifestFile& file = manifest.files[i];
    const fs::path path = folder / file.name;
    std::error_code missing;
    const auto bytes = fs::file_size(path, missing);
    MOE_REQUIRE(!missing, path.string(), ": cannot be read: ", missing.message());
    MOE_REQUIRE(std::int64_t(bytes) == file.bytes, path.string(), ": is ", bytes,
                " bytes, the manifest says ", file.bytes, ": the file is truncated or replaced");
    MOE_REQUIRE(digest_of(path).checksum == file.checksum, path.string(),
                ": its checksum differs from the manifest's: the file is damaged");
    verified[i] = true;
  }

  const RankFile& rank_file(std::size_t i) {
    const std::lock_guard lock(mutex);
    verify_file(i);
    const auto found = open.find(i);
    if (found != open.end()) return found->second;
    return open.emplace(i, RankFile(folder / manifest.files[i].name)).first->second;
  }

  std::string text(const char* name) {
    const std::lock_guard lock(mutex);
    for (std::size_t i = 0; i < manifest.files.size(); ++i) {
      if (manifest.files[i].name != name) continue;
      verify_file(i);
      return read_text(folder / name);
    }
    throw InputError(str(where(), ": the manifest does not list ", name));
  }

  ModelConfig model() {
    return model_config_from_json(text("model.json"), (folder / "model.json").string());
  }

  /// That every row is there once, and that state and model can be read.
  void check_contents() {
    for (const ManifestTensor& t : manifest.tensors) require_rows(t, 0, t.shape[0], where());
    MOE_REQUIRE(nlohmann::json::accept(text("state.json")), where(), ": state.json is no JSON");
    (void)model();
  }
};

CheckpointReader::CheckpointReader(const fs::path& folder) : state_(std::make_shared<State>()) {
  State& s = *state_;
  s.folder = folder;
  MOE_REQUIRE(fs::is_directory(folder), s.where(), ": no such folder");
  MOE_REQUIRE(is_checkpoint(folder), s.where(), ": is no complete checkpoint (no ", kManifestName,
              ")");
  const fs::path manifest = folder / kManifestName;
  s.manifest = parse_manifest(read_text(manifest), manifest.string());
  for (const ManifestTensor& t : s.manifest.tensors) {
    s.index[t.name] = s.tensors.size();
    s.tensors.push_back({t.name, t.shape, t.dtype});
  }
  s.verified.assign(s.manifest.files.size(), false);
}

const fs::path& CheckpointReader::folder() const { return state_->folder; }
std::int64_t CheckpointReader::step() const { return state_->manifest.step; }
std::string CheckpointReader::state_json() const { return state_->text("state.json"); }
CheckpointTexts CheckpointReader::texts() const {
  return {state_->text("state.json"), state_->text("model.json"), state_->text("config.yaml")};
}
ModelConfig CheckpointReader::model_config() const { return state_->model(); }
const std::vector<CheckpointTensor>& CheckpointReader::tensors() const { return state_->tensors; }

bool CheckpointReader::has(const std::string& name) const { return state_->index.contains(name); }

const CheckpointTensor& CheckpointReader::tensor(const std::string& name) const {
  (void)state_->find(name);
  return state_->tensors[state_->index.at(name)];
}

Tensor CheckpointReader::read(const std::string& name, std::int64_t first_row,
                              std::int64_t rows) const {
  const ManifestTensor& tensor = state_->find(name);
  require_rows(tensor, first_row, rows, state_->where());
  Shape shape = tensor.shape;
  shape[0] = rows;
  const Tensor out = Tensor::empty(shape, tensor.dtype);
  for (const ManifestPart& part : tensor.parts) {
    const std::int64_t lo = std::max(part.first_row, first_row);
    const std::int64_t hi = std::min(part.first_row + part.rows, first_row + rows);
    if (lo >= hi) continue;
    const Tensor piece = out.slice(lo - first_row, hi - lo);
    state_->rank_file(part.file).read(tensor, part, lo, piece);
    if (hi - lo == part.rows)
      require_checksum(state_->where(), tensor, part, checksum(piece.bytes(), piece.nbytes()));
  }
  return out;
}

void CheckpointReader::read_into(const TensorRows& rows) const {
  const ManifestTensor& tensor = state_->find(rows.name);
  MOE_REQUIRE(tensor.shape == rows.global_shape, state_->where(), ": ", rows.name,
              " has the shape ", join(tensor.shape), ", this model needs ",
              join(rows.global_shape));
  MOE_REQUIRE(tensor.dtype == rows.value.dtype(), state_->where(), ": ", rows.name, " is ",
              name(tensor.dtype), ", this model needs ", name(rows.value.dtype()));
  rows.value.copy_from(read(rows.name, rows.first_row, rows.value.rows()));
}

void CheckpointReader::verify() const {
  State& s = *state_;
  {
    const std::lock_guard lock(s.mutex);
    for (std::size_t i = 0; i < s.manifest.files.size(); ++i) s.verify_file(i);
  }
  s.check_contents();
  for (const ManifestTensor& t : s.manifest.tensors) {
    const std::int64_t step = rows_at_once(t.shape, t.dtype);
    for (const ManifestPart& part : t.parts) {
      Checksum sum;
      for (std::int64_t row = 0; row < part.rows; row += step) {
        const Tensor rows = read(t.name, part.first_row + row, std::min(step, part.rows - row));
        sum.update(rows.bytes(), rows.nbytes());
      }
      require_checksum(s.where(), t, part, sum.value());
    }
  }
}

std::string CheckpointReader::verify_together(Communicator& world) const {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  std::string failure;
  try {
    for (auto i = std::size_t(world.rank()); i < s.manifest.files.size();
         i += std::size_t(world.size()))
      s.verify_file(i);
    s.check_contents();
  } catch (const std::exception& e) {
    failure = e.what();
  }
  const std::string all = distinct_failures(gather_texts(failure, world));
  if (all.empty()) s.verified.assign(s.verified.size(), true);
  return all;
}

}  // namespace moe
