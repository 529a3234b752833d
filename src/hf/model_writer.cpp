// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "core/durable_files.h"
#include "hf/convert.h"
#include "hf/hf_config.h"
#include "hf/model_folder.h"
#include "hf/name_table.h"
#include "hf/safetensors.h"
#include "hf/side_files.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kChunkBytes = 64 << 20;

/// A folder under a temporary name that is removed unless it is given its final one.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& target)
      : target_(target), path_(str(target.string(), ".partial-", ::getpid())) {
    fs::create_directories(target.parent_path());
    MOE_CHECK(fs::create_directory(path_), path_.string(), " exists already");
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }

  /// Takes the target's place; what stood there is removed afterwards.
  void publish() {
    sync_path(path_);
    if (fs::exists(target_))
      exchange_paths(path_, target_);
    else
      rename_path(path_, target_);
    sync_path(target_.parent_path());
  }

 private:
  fs::path target_, path_;
};

/// --force may replace a model folder, never something else that a mistyped path names.
void require_writable(const fs::path& folder, bool force) {
  if (!fs::exists(folder)) return;
  MOE_REQUIRE(force, folder.string(), ": exists already (--force replaces it)");
  MOE_REQUIRE(fs::is_directory(folder), folder.string(), ": is no folder");
  MOE_REQUIRE(fs::is_empty(folder) || fs::exists(folder / "config.json"), folder.string(),
              ": is no model folder (it has no config.json), so it is not replaced");
  for (const auto& item : fs::directory_iterator(folder))
    MOE_REQUIRE(!item.is_directory() || item.is_symlink(), folder.string(), ": holds a folder (",
                item.path().filename().string(), "), so it is not replaced");
}

struct Part {
  const StoredParameter* parameter;
  const StoredPiece* piece;
};

struct Shard {
  std::vector<Part> parts;
  std::int64_t bytes = 0;
};

std::int64_t piece_bytes(const StoredPiece& piece, DType dtype) {
  std::int64_t bytes = std::int64_t(size_of(piece.stored_as(dtype)));
  for (const std::int64_t n : piece.shape) bytes *= n;
  return bytes;
}

std::vector<Shard> plan_shards(const std::vector<StoredParameter>& parameters, DType dtype,
                               std::int64_t max_bytes) {
  std::vector<Shard> shards(1);
  for (const StoredParameter& p : parameters)
    for (const StoredPiece& piece : p.pieces) {
      const std::int64_t bytes = piece_bytes(piece, dtype);
      if (!shards.back().parts.empty() && shards.back().bytes + bytes > max_bytes)
        shards.emplace_back();
      shards.back().parts.push_back({&p, &piece});
      shards.back().bytes += bytes;
    }
  return shards;
}

/// Writes one tensor, asking for its rows in chunks.
class PieceWriter {
 public:
  PieceWriter(const ParameterRows& rows, const WriteOptions& options, SafetensorsWriter* out)
      : rows_(rows), transposed_rows_(options.transposed_rows), dtype_(options.dtype), out_(out) {}

  void write(const StoredParameter& p, const StoredPiece& piece) const {
    const std::int64_t row_bytes = p.cols * std::int64_t(size_of(dtype_));
    const std::int64_t chunk = std::max<std::int64_t>(1, kChunkBytes / row_bytes);
    if (!piece.transposed) {
      for (std::int64_t r = 0; r < piece.rows; r += chunk)
        out_->write(fetch(p, piece, r, std::min(chunk, piece.rows - r)));
      return;
    }
    if (transposed_rows_) {
      const Tensor t = transposed_rows_(p.parameter, piece.first_row, piece.rows);
      if (t.defined()) {
        MOE_CHECK((t.shape() == Shape{p.cols, piece.rows}), "asked for ", piece.rows,
                  " transposed rows of ", p.parameter, ", got shape ", join(t.shape()));
        return out_->write(scaled_to(t, piece.scale, dtype_, piece.tensor));
      }
    }
    // Every row of the output needs every row of the parameter.
    Tensor all;
    if (piece.rows <= chunk) {
      all = fetch(p, piece, 0, piece.rows);
    } else {
      all = Tensor::empty({piece.rows, p.cols}, dtype_);
      for (std::int64_t r = 0; r < piece.rows; r += chunk) {
        const std::int64_t n = std::min(chunk, piece.rows - r);
        all.slice(r, n).copy_from(fetch(p, piece, r, n));
      }
    }
    const std::size_t width = size_of(dtype_);
    const std::int64_t step =
        std::clamp<std::int64_t>(kChunkBytes / 8 / (piece.rows * std::int64_t(width)), 32, p.cols);
    for (std::int64_t c = 0; c < p.cols; c += step) {
      const std::int64_t n = std::min(step, p.cols - c);
      const Tensor block = Tensor::empty({n, piece.rows}, dtype_);
      transpose_words(all.bytes() + std::size_t(c) * width, p.cols, block.bytes(), piece.rows,
                      piece.rows, n, width);
      out_->write(block);
    }
  }

 private:
  Tensor fetch(const StoredParameter& p, const StoredPiece& piece, std::int64_t first,
               std::int64_t count) const {
    Tensor t = rows_(p.parameter, piece.first_row + first, count);
    MOE_CHECK(t.defined() && t.rows() == count && t.size() == count * p.cols, "asked for rows ",
              piece.first_row + first, " to ", piece.first_row + first + count, " of ", p.parameter,
              " with ", p.cols, " columns, got shape ", join(t.shape()));
    if (t.device() != Device::cpu) t = t.to(Device::cpu);
    return scaled_to(t, piece.scale, piece.stored_as(dtype_), piece.tensor);
  }

  const ParameterRows& rows_;
  const ParameterRows& transposed_rows_;
  DType dtype_;
  SafetensorsWriter* out_;
};

std::string shard_name(std::size_t i, std::size_t count) {
  if (count == 1) return "model.safetensors";
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "model-%05zu-of-%05zu.safetensors", i + 1, count);
  return text.data();
}

void write_weights(const fs::path& folder, const std::vector<Shard>& shards,
                   const WriteOptions& options, const ParameterRows& rows) {
  nlohmann::ordered_json map;
  std::int64_t tensors = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string file = shard_name(i, shards.size());
    std::vector<SafetensorsWriter::Declaration> declared;
    for (const Part& part : shards[i].parts) {
      declared.push_back(
          {part.piece->tensor, part.piece->stored_as(options.dtype), part.piece->shape});
      map[part.piece->tensor] = file;
    }
    SafetensorsWriter out(folder / file, declared);
    const PieceWriter writer(rows, options, &out);
    for (const Part& part : shards[i].parts) writer.write(*part.parameter, *part.piece);
    out.finish();
    tensors += shards[i].bytes;
  }
  if (shards.size() == 1) return;
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", tensors}}},
                                        {"weight_map", map}};
  write_synced(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

/// The rows of a model in a format's terms: a gate that only the format has is zero, and what is no
/// parameter is computed.
ParameterRows rows_in_terms(const ModelConfig& config, const ParameterRows& rows) {
  return [&](const std::string& name, std::int64_t first, std::int64_t count) {
    if (name.ends_with(".inv_freq")) return rotary_frequencies(config).slice(first, count);
    if (name.ends_with(".shared_router.weight") && !config.moe.shared_gate)
      return Tensor::zeros({count, config.hidden_size}, DType::f32);
    return rows(name, first, count);
  };
}

}  // namespace

WrittenModel write_model(const fs::path& folder, const ModelConfig& config,
                         const WriteOptions& options, const ParameterRows& rows) try {
  config.validate();
  require_representable(config, options.format);
  require_side_files(config, options);
  const fs::path plain = fs::weakly_canonical(fs::absolute(folder));
  const fs::path target = plain.has_filename() ? plain : plain.parent_path();
  require_writable(target, options.force);

  std::vector<StoredParameter> parameters =
      stored_parameters(expressed_in(config, options.format), options.format);
  const std::vector<StoredParameter> computed = computed_tensors(config, options.format);
  parameters.insert(parameters.end(), computed.begin(), computed.end());
  const std::vector<Shard> shards = plan_shards(parameters, options.dtype, options.max_shard_bytes);
  TemporaryFolder temporary(target);
  std::int64_t needed = 0;
  for (const Shard& shard : shards) needed += shard.bytes;
  const auto available = std::int64_t(fs::space(temporary.path()).available);
  MOE_CHECK(needed <= available, "writing ", target.string(), " takes ", needed,
            " bytes, the disk has ", available, " left");

  WrittenModel written;
  write_weights(temporary.path(), shards, options, rows_in_terms(config, rows));
  write_synced(temporary.path() / "config.json",
               hf_config_json(config, options.format, options.dtype));
  written.notes = write_side_files(temporary.path(), config, options);
  if (options.more_files) options.more_files(temporary.path());
  for (const auto& file : fs::directory_iterator(temporary.path()))
    written.bytes += std::int64_t(file.file_size());
  temporary.publish();
  return written;
} catch (const fs::filesystem_error& error) {
  throw Error(error.what());
}

}  // namespace moe
