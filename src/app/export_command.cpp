// SPDX-License-Identifier: Apache-2.0
#include "app/export_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "core/readable.h"
#include "train/export_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

struct ExportArguments {
  std::string folder, format, output, dtype, tokenizer, indices, modeling_from;
  bool force = false, json = false;
};

int run_export(const ExportArguments& a) {
  WriteOptions options;
  options.format = model_format_named(a.format);
  options.force = a.force;
  ExportSource source = open_for_export(a.folder);
  const std::optional<std::int64_t> step = source.step;
  if (!a.indices.empty()) source.indices = a.indices;
  if (!a.tokenizer.empty()) {
    MOE_REQUIRE(fs::exists(a.tokenizer), a.tokenizer,
                ": no such file or folder to take a tokenizer from");
    const fs::path path = fs::absolute(a.tokenizer);
    source.tokenizer_from = fs::is_directory(path) ? path : path.parent_path();
  }
  options.dtype = a.dtype.empty() ? source.dtype : stored_type_named(a.dtype);
  options.tokenizer_from = source.tokenizer_from;
  if (!a.modeling_from.empty()) options.modeling_from = a.modeling_from;
  // The rows of what is read: those of a dense model that is made of a mixture are fewer.
  std::int64_t total = 0, done = 0;
  for (const ParameterSpec& p : model_parameters(source.config)) total += p.shape[0];
  Progress progress("exporting", total, "rows");
  source.rows = [&, rows = source.rows](const std::string& name, std::int64_t first,
                                        std::int64_t count) {
    done += count;
    progress.update(done, done);
    return rows(name, first, count);
  };
  const WrittenModel written = export_model(std::move(source), options, a.output);
  progress.finish();
  for (const std::string& note : written.notes) log_info("{}", note);
  if (a.json) {
    nlohmann::ordered_json j = {{"output", a.output},
                                {"format", name(options.format)},
                                {"dtype", name(options.dtype)},
                                {"bytes", written.bytes},
                                {"notes", written.notes}};
    if (step) j["step"] = *step;
    fmt::print("{}\n", j.dump());
    return kExitOk;
  }
  fmt::print("{}: {}, {}, {}B{}\n", a.output, name(options.format), name(options.dtype),
             readable_count(double(written.bytes)), step ? str(", from step ", *step) : "");
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
  return [a] { return run_export(*a); };
}

}  // namespace moe
