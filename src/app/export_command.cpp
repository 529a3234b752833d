// SPDX-License-Identifier: Apache-2.0
#include "app/export_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "config/train_config.h"
#include "core/error.h"
#include "core/log.h"
#include "core/readable.h"
#include "hf/dense.h"
#include "hf/model_folder.h"
#include "split/neuron_indices.h"
#include "train/checkpoint.h"
#include "train/checkpoint_folders.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

struct ExportArguments {
  std::string folder, format, output, dtype, tokenizer, indices, modeling_from;
  bool force = false, json = false;
};

/// What is exported.
struct Exported {
  ModelConfig config;
  ParameterRows rows;
  DType dtype = DType::f32;                // unless another is asked for
  std::optional<fs::path> tokenizer_from;  // unless another is asked for
  std::optional<fs::path> indices;         // of the split that made it
  std::optional<std::int64_t> step;        // of a checkpoint
};

Exported open_folder(const fs::path& path) {
  auto folder = std::make_shared<const ModelFolder>(path);
  Exported e;
  e.config = folder->config();
  e.dtype = folder->stored_dtype();
  e.rows = [folder](const std::string& name, std::int64_t first, std::int64_t count) {
    return folder->read(name, first, count, folder->stored_dtype(name));
  };
  e.tokenizer_from = fs::absolute(path);
  if (fs::exists(path / kNeuronIndices)) e.indices = path / kNeuronIndices;
  return e;
}

Exported open_checkpoint(const fs::path& path) {
  auto reader = std::make_shared<const CheckpointReader>(find_checkpoint(path));
  Exported e;
  e.config = reader->model_config();
  e.rows = [reader](const std::string& name, std::int64_t first, std::int64_t count) {
    return reader->read("weights/" + name, first, count);
  };
  e.step = reader->step();
  try {
    const TrainConfig config = parse_train_config(reader->texts().config, "config.yaml");
    e.dtype = config.model.dtype;
    for (const std::string& place : {config.model.tokenizer, config.model.init_from}) {
      if (e.tokenizer_from || place.empty() || !fs::exists(place)) continue;
      const fs::path where = fs::absolute(place);
      e.tokenizer_from = fs::is_directory(where) ? where : where.parent_path();
    }
    if (fs::exists(fs::path(config.model.init_from) / kNeuronIndices))
      e.indices = fs::path(config.model.init_from) / kNeuronIndices;
  } catch (const InputError&) {
    // Written under a configuration that this program does not read any more.
  }
  return e;
}

/// The dense model of a mixture; the order of its neurons is known where indices are.
void make_dense(Exported* e) {
  NeuronOrder order;
  if (e->indices)
    order = neuron_order(read_indices(*e->indices, e->config.layers, e->config.intermediate_size),
                         e->config.layers);
  e->rows = dense_rows(e->config, e->rows, order);
  e->config = dense_config_of(e->config);
}

int export_model(const ExportArguments& a) {
  WriteOptions options;
  options.format = model_format_named(a.format);
  options.force = a.force;
  Exported e = fs::exists(fs::path(a.folder) / "config.json") ? open_folder(a.folder)
                                                              : open_checkpoint(a.folder);
  if (!a.indices.empty()) e.indices = a.indices;
  if (!a.tokenizer.empty()) {
    MOE_REQUIRE(fs::exists(a.tokenizer), a.tokenizer,
                ": no such file or folder to take a tokenizer from");
    const fs::path path = fs::absolute(a.tokenizer);
    e.tokenizer_from = fs::is_directory(path) ? path : path.parent_path();
  }
  options.dtype = a.dtype.empty() ? e.dtype : stored_type_named(a.dtype);
  options.tokenizer_from = e.tokenizer_from;
  if (!a.modeling_from.empty()) options.modeling_from = a.modeling_from;

  if (options.format == ModelFormat::llama && (e.config.is_moe() || e.config.is_attention_moe()))
    make_dense(&e);
  if ((options.format == ModelFormat::mixtral || options.format == ModelFormat::llama_moe_v2) &&
      e.config.moe.gate_noise) {
    log_warning("{} has no place for the gate's noise weights, which only training uses",
                name(options.format));
    e.config.moe.gate_noise = false;
  }
  if (e.indices && e.config.is_moe())
    options.more_files = [&](const fs::path& folder) {
      fs::copy_file(*e.indices, folder / kNeuronIndices);
    };
  std::int64_t total = 0, done = 0;
  for (const ParameterSpec& p : model_parameters(e.config)) total += p.shape[0];
  Progress progress("exporting", total, "rows");
  const WrittenModel written =
      write_model(a.output, e.config, options,
                  [&](const std::string& name, std::int64_t first, std::int64_t count) {
                    done += count;
                    progress.update(done, done);
                    return e.rows(name, first, count);
                  });
  progress.finish();
  for (const std::string& note : written.notes) log_info("{}", note);
  if (a.json) {
    nlohmann::ordered_json j = {{"output", a.output},
                                {"format", name(options.format)},
                                {"dtype", name(options.dtype)},
                                {"bytes", written.bytes},
                                {"notes", written.notes}};
    if (e.step) j["step"] = *e.step;
    fmt::print("{}\n", j.dump());
    return kExitOk;
  }
  fmt::print("{}: {}, {}, {}B{}\n", a.output, name(options.format), name(options.dtype),
             readable_count(double(written.bytes)), e.step ? str(", from step ", *e.step) : "");
  return kExitOk;
}

}  // namespace

Action define_export(CLI::App& app) {
  auto a = std::make_shared<ExportArguments>();
  app.add_option("folder", a->folder, "Checkpoint, run or model folder to export")->required();
  app.add_option("--format", a->format,
                 "llama (of a mixture: the dense model that it was split from), llama-moe, "
                 "llama-moe-v2, mixtral or native")
      ->required();
  app.add_option("--output", a->output, "Model folder to make")->required();
  app.add_option("--dtype", a->dtype,
                 "f32, bf16, f16 or f64 (default: what the folder stores or the run computed in)");
  app.add_option("--tokenizer", a->tokenizer,
                 "Folder to copy the tokenizer from (default: the folder itself; of a checkpoint, "
                 "the run's model.tokenizer, else model.init_from)");
  app.add_option("--indices", a->indices,
                 "llama: neuron_indices.safetensors of the split, which restores the order of "
                 "neurons (default: the folder's own or that of model.init_from)");
  app.add_option("--modeling-from", a->modeling_from,
                 "Folder of LLaMA-MoE's own Python files, to be copied beside the model");
  app.add_flag("--force", a->force, "Replace an existing model folder");
  app.add_flag("--json", a->json, "Print one JSON object");
  return [a] { return export_model(*a); };
}

}  // namespace moe
