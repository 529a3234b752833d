// SPDX-License-Identifier: Apache-2.0
#include "train/model_source.h"

#include <set>

#include "hf/model_folder.h"
#include "train/checkpoint.h"
#include "train/checkpoint_folders.h"

namespace moe {
namespace fs = std::filesystem;

ModelSource open_model(const fs::path& path) {
  MOE_REQUIRE(fs::is_directory(path), path.string(),
              ": no such folder: give a Hugging Face model folder or a training checkpoint");
  if (fs::exists(path / "config.json")) {
    auto folder = std::make_shared<const ModelFolder>(path);
    return {folder->config(),
            [folder](const std::string& name, std::int64_t first, std::int64_t count) {
              // f32 holds what f16 does, on which no kernel computes.
              const DType stored = folder->stored_dtype(name);
              return folder->read(name, first, count, stored == DType::f16 ? DType::f32 : stored);
            },
            path};
  }
  auto reader = std::make_shared<const CheckpointReader>(find_checkpoint(path));
  return {reader->model_config(),
          [reader](const std::string& name, std::int64_t first, std::int64_t count) {
            return reader->read("weights/" + name, first, count);
          },
          reader->folder()};
}

ParameterRows with_new_parameters(ParameterRows rows, const ModelConfig& was,
                                  const ModelConfig& model, std::uint64_t seed) {
  std::set<std::string> known;
  for (const ParameterSpec& p : model_parameters(was)) known.insert(p.name);
  return [rows = std::move(rows), known = std::move(known), fresh = initial_weights(model, seed)](
             const std::string& name, std::int64_t first, std::int64_t count) {
    return (known.contains(name) ? rows : fresh)(name, first, count);
  };
}

std::pair<ModelConfig, ParameterRows> starting_point(const TrainConfig& config) {
  const auto seed = std::uint64_t(config.run.seed);
  if (config.model.init_from.empty()) {
    const ModelConfig model = model_from(config);
    return {model, initial_weights(model, seed)};
  }
  const ModelSource source = open_model(config.model.init_from);
  ModelConfig model = source.config;
  apply_model_settings(config, model);
  return {model, with_new_parameters(source.rows, source.config, model, seed)};
}

LoadedModel::LoadedModel(const ModelSource& source, DType dtype, Device device)
    : config_(source.config),
      world_(single_rank()),
      grid_(*world_, 1),
      parameters_(config_, dtype, 0, 1, device),
      transformer_(config_, parameters_, grid_) {
  parameters_.load(source.rows);
}

}  // namespace moe
