// SPDX-License-Identifier: Apache-2.0
#include "hf/model_folder.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>
#include <vector>

#include "core/parallel.h"
#include "hf/convert.h"
#include "hf/finite.h"
#include "hf/hf_config.h"
#include "hf/json_check.h"
#include "hf/name_table.h"
#include "hf/safetensors.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMaxJsonBytes = 64 << 20;

/// A piece of a parameter and where its bytes are.
struct Source {
  StoredPiece piece;
  const std::byte* bytes = nullptr;
  DType dtype = DType::f32;
  const SafetensorsFile* file = nullptr;

  bool usable_as(DType as) const {
    return dtype == as && reinterpret_cast<std::uintptr_t>(bytes) % size_of(as) == 0;
  }
};

struct Parameter {
  Shape shape;
  std::int64_t cols = 0;
  std::vector<Source> sources;
};

/// File and tensor of every name.
using Tensors = std::map<std::string, const SafetensorsFile*>;

std::vector<std::unique_ptr<SafetensorsFile>> open_shards(const fs::path& folder) {
  std::vector<std::unique_ptr<SafetensorsFile>> shards;
  const fs::path single = folder / "model.safetensors";
  const fs::path index = folder / "model.safetensors.index.json";
  if (!fs::exists(index)) {
    MOE_REQUIRE(fs::exists(single), folder.string(),
                ": has neither model.safetensors nor model.safetensors.index.json",
                fs::exists(folder / "pytorch_model.bin") ||
                        fs::exists(folder / "pytorch_model.bin.index.json")
                    ? "; pytorch_model.bin (a pickle, which can run code) is not read: convert it "
                      "to safetensors once, with the command under 'Model folders' in "
                      "docs/file_formats.md"
                    : "");
    shards.push_back(std::make_unique<SafetensorsFile>(single));
    return shards;
  }

  const std::string where = index.string();
  const std::string text = read_text_file(where, kMaxJsonBytes);
  require_strict_json(text, where);
  const nlohmann::json root = nlohmann::json::parse(text);
  MOE_REQUIRE(root.contains("weight_map") && root["weight_map"].is_object(), where,
              ": has no weight_map");
  std::map<std::string, std::vector<std::string>> tensors_of;
  for (const auto& [tensor, file] : root["weight_map"].items()) {
    MOE_REQUIRE(file.is_string(), where, ": tensor '", tensor, "' names no file");
    tensors_of[file.get<std::string>()].push_back(tensor);
  }
  for (const auto& [file, tensors] : tensors_of) {
    MOE_REQUIRE(!file.empty() && fs::path(file).filename() == file && file != "." && file != "..",
                where, ": tensor '", tensors.front(), "' lies in '", file,
                "', which is no plain file name");
    MOE_REQUIRE(fs::exists(folder / file), where, ": tensor '", tensors.front(), "' lies in ", file,
                ", which is missing");
    shards.push_back(std::make_unique<SafetensorsFile>(folder / file));
    for (const std::string& tensor : tensors)
      MOE_REQUIRE(shards.back()->contains(tensor), where, ": tensor '", tensor, "' is not in ",
                  file);
  }
  return shards;
}

/// Tensors that a folder may hold though the model has no parameter for them.
bool ignorable(const std::string& tensor, const ModelConfig& config) {
  return tensor.ends_with(".rotary_emb.inv_freq") ||
         (!config.moe.gate_noise && tensor.ends_with(".gate.weight_noise.weight"));
}

/// A tied model may store its head beside the embedding, as long as they are equal.
void require_same(const SafetensorsFile& file, const std::string& name,
                  const SafetensorsFile& other_file, const std::string& other) {
  const auto a = file.bytes(name), b = other_file.bytes(other);
  bool same = file.entry(name).shape == other_file.entry(other).shape &&
              file.entry(name).dtype == other_file.entry(other).dtype;
  if (same)
    same = parallel_sum(std::int64_t(a.size()), 1 << 22, [&](std::int64_t begin, std::int64_t end) {
             return std::memcmp(a.data() + begin, b.data() + begin, std::size_t(end - begin)) != 0;
           }) == 0;
  MOE_REQUIRE(same, file.path().string(), ": tensor '", name, "' differs from '", other,
              "', though tie_word_embeddings is true: remove one of them, or set it to false to "
              "use both");
}

/// LLaMA-MoE v2's converter leaves dense layers as wide as they were, its model makes them as wide
/// as all routed experts: the file decides which of the two it is.
void take_dense_width(const Tensors& tensors, ModelConfig* config) {
  if (config->is_moe_layer(0)) return;
  for (const char* name :
       {"model.layers.0.mlp.gate_proj.weight", "model.layers.0.block_sparse_moe.w1.weight"}) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) continue;
    std::int64_t shared = 0;
    for (const auto& layer : config->moe.shared_sizes)
      if (!layer.empty()) shared = layer.front();
    const Shape& shape = found->second->entry(name).shape;
    if (!shape.empty() && shape[0] == config->intermediate_size - shared)
      config->intermediate_size = shape[0];
    return;
  }
}

/// Columns [first, first + count) of a stored matrix as rows of `to`.
bool read_columns(const Source& s, std::int64_t first, std::int64_t count, std::byte* to, DType as,
                  std::int64_t cols) {
  constexpr std::int64_t kRows = 512;  // at 4096 columns of bf16 a block of 4 MiB
  const std::size_t from_bytes = size_of(s.dtype), to_bytes = size_of(as);
  const std::byte* from = s.bytes + std::size_t(first) * from_bytes;
  if (s.dtype == as) {
    transpose_words(from, s.piece.rows, to, cols, cols, count, from_bytes);
    return true;
  }
  bool good = true;
  const Tensor block = Tensor::empty({std::min(kRows, count), cols}, s.dtype);
  for (std::int64_t r = 0; r < count; r += kRows) {
    const std::int64_t n = std::min(kRows, count - r);
    transpose_words(from + std::size_t(r) * from_bytes, s.piece.rows, block.bytes(), cols, cols, n,
                    from_bytes);
    good &=
        convert_floats(block.bytes(), s.dtype, to + std::size_t(r * cols) * to_bytes, as, n * cols);
  }
  return good;
}

}  // namespace

struct ModelFolder::State {
  fs::path path;
  HfConfig config;
  DType stored_dtype = DType::f32;
  std::vector<std::unique_ptr<SafetensorsFile>> shards;
  std::unordered_map<std::string, Parameter> parameters;

  explicit State(const fs::path& folder) : path(folder) {
    MOE_REQUIRE(fs::is_directory(folder), folder.string(), ": is no folder");
    const std::string file = (folder / "config.json").string();
    config = parse_hf_config(read_text_file(file, kMaxJsonBytes), file);
    shards = open_shards(folder);
    Tensors tensors;
    for (const auto& shard : shards)
      for (const SafetensorsEntry& e : shard->entries())
        MOE_REQUIRE(tensors.emplace(e.name, shard.get()).second, shard->path().string(),
                    ": tensor '", e.name, "' is also in ", tensors[e.name]->path().string());
    if (config.format == ModelFormat::llama_moe_v2) take_dense_width(tensors, &config.config);
    std::set<std::string> known;
    for (const StoredParameter& p : stored_parameters(config.config, config.format))
      for (const StoredPiece& piece : p.pieces) {
        const std::string tensor = add(p, piece, tensors);
        known.insert(tensor);
        const auto other = tensors.find(piece.alternative);
        if (p.parameter != "embed.weight" || other == tensors.end() || other->first == tensor)
          continue;
        require_same(*other->second, other->first, *tensors.at(tensor), tensor);
        known.insert(other->first);
      }
    for (const auto& [name, shard] : tensors)
      MOE_REQUIRE(known.contains(name) || ignorable(name, config.config), shard->path().string(),
                  ": tensor '", name, "' has no place in a ", moe::name(config.format),
                  " model as config.json describes it");
    stored_dtype = parameters.at("embed.weight").sources.front().dtype;
  }

  const Parameter& parameter(const std::string& name) const {
    const auto found = parameters.find(name);
    MOE_CHECK(found != parameters.end(), path.string(), " has no parameter ", name);
    return found->second;
  }

  /// The bytes of a source as a tensor that keeps the files mapped.
  static Tensor wrap(const std::shared_ptr<const State>& self, const Source& s, Shape shape) {
    return Tensor::wrap({self, const_cast<std::byte*>(s.bytes)}, std::move(shape), s.dtype);
  }

  /// Finds one tensor and checks it; returns its name.
  std::string add(const StoredParameter& p, StoredPiece piece, const Tensors& tensors) {
    auto found = tensors.find(piece.tensor);
    if (found == tensors.end()) found = tensors.find(piece.alternative);
    MOE_REQUIRE(found != tensors.end(), path.string(), ": tensor '", piece.tensor, "' is missing",
                p.parameter == "head.weight"
                    ? " (if the model shares it with the embedding, config.json must say "
                      "tie_word_embeddings true)"
                    : "");
    const SafetensorsFile& file = *found->second;
    const SafetensorsEntry& entry = file.entry(found->first);
    MOE_REQUIRE(entry.shape == piece.shape, file.path().string(), ": tensor '", entry.name,
                "' has shape [", join(entry.shape, ", "), "], config.json wants [",
                join(piece.shape, ", "), "]");
    piece.tensor = entry.name;
    Parameter& parameter = parameters[p.parameter];
    parameter.cols = p.cols;
    parameter.shape = piece.shape.size() == 1 ? Shape{p.rows} : Shape{p.rows, p.cols};
    parameter.sources.push_back({std::move(piece), file.bytes(entry.name).data(),
                                 float_dtype_of(entry, file.path().string()), &file});
    return entry.name;
  }

  void require_finite(const Parameter& parameter) const {
    for (const Source& s : parameter.sources) {
      const std::int64_t cols = s.piece.shape.size() == 1 ? 1 : s.piece.shape[1];
      const std::int64_t at = first_not_finite(s.bytes, s.dtype, s.piece.shape[0] * cols);
      MOE_REQUIRE(at < 0, s.file->path().string(), ": tensor '", s.piece.tensor,
                  "' holds a NaN or an infinity in row ", at / cols, ", column ", at % cols);
    }
  }
};

ModelFolder::ModelFolder(const fs::path& folder) : state_(std::make_shared<const State>(folder)) {}

const fs::path& ModelFolder::path() const { return state_->path; }
const ModelConfig& ModelFolder::config() const { return state_->config.config; }
ModelFormat ModelFolder::format() const { return state_->config.format; }
DType ModelFolder::stored_dtype() const { return state_->stored_dtype; }
DType ModelFolder::stored_dtype(const std::string& parameter) const {
  return state_->parameter(parameter).sources.front().dtype;
}

Tensor ModelFolder::read(const std::string& name, std::int64_t first, std::int64_t rows,
                         DType as) const {
  const Parameter& p = state_->parameter(name);
  MOE_CHECK(first >= 0 && rows >= 0 && first <= p.shape[0] - rows, "rows ", first, " to ",
            first + rows, " of ", name, " [", join(p.shape), "]");
  Shape shape = p.shape;
  shape[0] = rows;
  const Tensor result = Tensor::empty(std::move(shape), as);
  for (const Source& s : p.sources) {
    const std::int64_t begin = std::max(first, s.piece.first_row);
    const std::int64_t end = std::min(first + rows, s.piece.first_row + s.piece.rows);
    if (begin >= end) continue;
    std::byte* to = result.bytes() + std::size_t((begin - first) * p.cols) * size_of(as);
    const std::int64_t from_row = begin - s.piece.first_row;
    const bool good =
        s.piece.transposed
            ? read_columns(s, from_row, end - begin, to, as, p.cols)
            : convert_floats(s.bytes + std::size_t(from_row * p.cols) * size_of(s.dtype), s.dtype,
                             to, as, (end - begin) * p.cols);
    MOE_REQUIRE(good, state_->path.string(), ": tensor '", s.piece.tensor,
                "' has values too large for ", moe::name(as));
  }
  return result;
}

Tensor ModelFolder::read(const std::string& name, DType as) const {
  return read(name, 0, state_->parameter(name).shape[0], as);
}

Tensor ModelFolder::view(const std::string& name, std::int64_t first, std::int64_t rows,
                         DType as) const {
  const Parameter& p = state_->parameter(name);
  if (p.sources.size() != 1 || p.sources[0].piece.transposed || !p.sources[0].usable_as(as))
    return {};
  MOE_CHECK(first >= 0 && rows >= 0 && first <= p.shape[0] - rows, "rows ", first, " to ",
            first + rows, " of ", name, " [", join(p.shape), "]");
  return State::wrap(state_, p.sources[0], p.shape).slice(first, rows);
}

Tensor ModelFolder::view_transposed(const std::string& name, DType as) const {
  const Parameter& p = state_->parameter(name);
  if (p.sources.size() != 1 || !p.sources[0].piece.transposed || !p.sources[0].usable_as(as))
    return {};
  return State::wrap(state_, p.sources[0], {p.cols, p.shape[0]});
}

void ModelFolder::require_finite(const std::string& name) const {
  state_->require_finite(state_->parameter(name));
}

void ModelFolder::require_finite() const {
  for (const ParameterSpec& p : model_parameters(config())) require_finite(p.name);
}

}  // namespace moe
