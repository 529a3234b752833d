// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "app/app.h"
#include "config/train_config.h"
#include "core/error.h"
#include "core/log.h"
#include "core/readable.h"
#include "hf/model_folder.h"
#include "train/checkpoint.h"
#include "train/checkpoint_diff.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

const ProgramText kText = {
    "moe-checkpoint",
    "Checks, compares and exports training checkpoints. A FOLDER is a checkpoint (step-00001000), "
    "or a run's folder or its checkpoints folder, of which the latest is taken.",
    R"(Examples:
  Is every byte as it was written?
    moe-checkpoint verify runs/small/checkpoints/step-00001000

  Have two runs reached the same weights, moments and state, bit for bit (exit code 0)?
    moe-checkpoint diff runs/a runs/b

  A folder that the ecosystem's tools load:
    moe-checkpoint export runs/small --format mixtral --output models/small --tokenizer llama-2-7b
)"};

constexpr std::size_t kShownDifferences = 20;

void print(const ordered_json& object) { fmt::print("{}\n", object.dump()); }

std::int64_t tensor_bytes(const CheckpointReader& reader) {
  std::int64_t bytes = 0;
  for (const CheckpointTensor& t : reader.tensors()) {
    auto n = std::int64_t(size_of(t.dtype));
    for (const std::int64_t d : t.shape) n *= d;
    bytes += n;
  }
  return bytes;
}

struct VerifyArguments {
  std::string folder;
  bool json = false;
};

int verify(const VerifyArguments& a) {
  const CheckpointReader reader(find_checkpoint(a.folder));
  reader.verify();
  const std::string folder = reader.folder().string();
  const std::size_t tensors = reader.tensors().size();
  const std::int64_t bytes = tensor_bytes(reader);
  if (a.json)
    print({{"good", true},
           {"folder", folder},
           {"step", reader.step()},
           {"tensors", tensors},
           {"tensor_bytes", bytes}});
  else
    fmt::print("{}: good (step {}, {} tensors, {}B)\n", folder, reader.step(), tensors,
               readable_count(double(bytes)));
  return kExitOk;
}

Action define_verify(CLI::App& app) {
  auto a = std::make_shared<VerifyArguments>();
  app.add_option("folder", a->folder, "Checkpoint to check")->required();
  app.add_flag("--json", a->json, "Print one JSON object");
  return [a] { return verify(*a); };
}

struct DiffArguments {
  std::string first, second;
  bool json = false;
};

int diff(const DiffArguments& a) {
  const CheckpointReader first(find_checkpoint(a.first)), second(find_checkpoint(a.second));
  const auto differences = diff_checkpoints(first, second);
  if (a.json) {
    ordered_json list = ordered_json::array();
    for (const auto& d : differences) list.push_back({{"where", d.where}, {"what", d.what}});
    print({{"equal", differences.empty()}, {"differences", list}});
  } else if (differences.empty()) {
    fmt::print("equal: {} and {} (step {}, {} tensors)\n", first.folder().string(),
               second.folder().string(), first.step(), first.tensors().size());
  } else {
    for (std::size_t i = 0; i < std::min(differences.size(), kShownDifferences); ++i)
      fmt::print("{}: {}\n", differences[i].where, differences[i].what);
    fmt::print("different: {} differences{}\n", differences.size(),
               differences.size() > kShownDifferences ? " (--json lists all)" : "");
  }
  return differences.empty() ? kExitOk : kExitFailed;
}

Action define_diff(CLI::App& app) {
  auto a = std::make_shared<DiffArguments>();
  app.add_option("first", a->first, "Checkpoint")->required();
  app.add_option("second", a->second, "Checkpoint")->required();
  app.add_flag("--json", a->json, "Print one JSON object");
  return [a] { return diff(*a); };
}

struct ExportArguments {
  std::string folder, format, output, dtype, tokenizer;
  bool force = false, json = false;
};

/// The configuration that the checkpoint was written under, if this program still reads it.
std::optional<TrainConfig> saved_config(const CheckpointReader& reader) {
  try {
    return parse_train_config(reader.config_yaml(), "config.yaml");
  } catch (const InputError&) {
    return std::nullopt;
  }
}

/// Where the tokenizer lies: what was asked for, else what the run's configuration says, if that
/// is still there. A file stands for its folder.
std::optional<fs::path> tokenizer_folder(const std::string& asked,
                                         const std::optional<TrainConfig>& config) {
  if (!asked.empty()) {
    MOE_REQUIRE(fs::exists(asked), asked, ": no such file or folder to take a tokenizer from");
    const fs::path path = fs::absolute(asked);
    return fs::is_directory(path) ? path : path.parent_path();
  }
  if (!config) return std::nullopt;
  for (const std::string& place : {config->model.tokenizer, config->model.init_from}) {
    if (place.empty() || !fs::exists(place)) continue;
    const fs::path path = fs::absolute(place);
    return fs::is_directory(path) ? path : path.parent_path();
  }
  return std::nullopt;
}

DType stored_type_named(const std::string& text) {
  return text == "f16" ? DType::f16 : float_dtype_named(text);
}

int export_model(const ExportArguments& a) {
  WriteOptions options;
  options.format = model_format_named(a.format);
  options.force = a.force;
  const CheckpointReader reader(find_checkpoint(a.folder));
  const std::optional<TrainConfig> config = saved_config(reader);
  options.dtype = !a.dtype.empty() ? stored_type_named(a.dtype)
                  : config         ? config->model.dtype
                                   : DType::f32;
  options.tokenizer_from = tokenizer_folder(a.tokenizer, config);

  ModelConfig model = reader.model_config();
  if ((options.format == ModelFormat::mixtral || options.format == ModelFormat::llama_moe_v2) &&
      model.moe.gate_noise) {
    log_warning("{} has no place for the gate's noise weights, which only training uses",
                name(options.format));
    model.moe.gate_noise = false;
  }
  std::int64_t total = 0, done = 0;
  for (const ParameterSpec& p : model_parameters(model)) total += p.shape[0];
  Progress progress("exporting", total, "rows");
  const WrittenModel written =
      write_model(a.output, model, options,
                  [&](const std::string& name, std::int64_t first, std::int64_t count) {
                    done += count;
                    progress.update(done, done);
                    return reader.read("weights/" + name, first, count);
                  });
  progress.finish();
  for (const std::string& note : written.notes) log_info("{}", note);
  if (a.json)
    print({{"output", a.output},
           {"format", name(options.format)},
           {"dtype", name(options.dtype)},
           {"step", reader.step()},
           {"bytes", written.bytes},
           {"notes", written.notes}});
  else
    fmt::print("{}: {}, {}, {}B, from step {}\n", a.output, name(options.format),
               name(options.dtype), readable_count(double(written.bytes)), reader.step());
  return kExitOk;
}

Action define_export(CLI::App& app) {
  auto a = std::make_shared<ExportArguments>();
  app.add_option("folder", a->folder, "Checkpoint to export")->required();
  app.add_option("--format", a->format, "llama, llama-moe, llama-moe-v2, mixtral or native")
      ->required();
  app.add_option("--output", a->output, "Hugging Face folder to make")->required();
  app.add_option("--dtype", a->dtype, "f32, bf16, f16 or f64 (default: what the run computed in)");
  app.add_option("--tokenizer", a->tokenizer,
                 "Folder to copy the tokenizer from (default: the run's model.tokenizer, else "
                 "model.init_from)");
  app.add_flag("--force", a->force, "Replace an existing model folder");
  app.add_flag("--json", a->json, "Print one JSON object");
  return [a] { return export_model(*a); };
}

Action define(CLI::App& app) {
  app.require_subcommand(1);
  std::vector<std::pair<CLI::App*, Action>> commands;
  const auto add = [&](const char* name, const char* text, Action (*definition)(CLI::App&)) {
    CLI::App* command = app.add_subcommand(name, text);
    commands.emplace_back(command, definition(*command));
  };
  add("verify", "Check every byte of a checkpoint", define_verify);
  add("diff", "Compare two checkpoints bit for bit: exit code 0 equal, 1 different", define_diff);
  add("export", "Write the weights as a Hugging Face folder", define_export);
  return [commands] {
    for (const auto& [command, action] : commands)
      if (command->parsed()) return action();
    return kExitBadInput;
  };
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) { return moe::run_program(argc, argv, moe::kText, moe::define); }
