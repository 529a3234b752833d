// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "app/app.h"
#include "app/export_command.h"
#include "core/error.h"
#include "core/readable.h"
#include "train/checkpoint.h"
#include "train/checkpoint_diff.h"
#include "train/checkpoint_folders.h"
#include "train/checkpoint_reshard.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

const ProgramText kText = {
    "moe-checkpoint",
    "Checks, compares, rewrites and exports training checkpoints. A FOLDER is a checkpoint "
    "(step-00001000), "
    "or a run's folder or its checkpoints folder, of which the latest is taken.",
    R"(Examples:
  Is every byte as it was written?
    moe-checkpoint verify runs/small/checkpoints/step-00001000

  Have two runs reached the same weights, moments and state, bit for bit (exit code 0)?
    moe-checkpoint diff runs/a runs/b

  The same checkpoint in four files, whatever number of ranks wrote it:
    moe-checkpoint reshard runs/a/checkpoints/step-00001000 --output step-00001000 --files 4

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

struct ReshardArguments {
  std::string folder, output;
  std::int64_t files = 1;
  bool force = false, json = false;
};

int reshard(const ReshardArguments& a) {
  const CheckpointReader reader(find_checkpoint(a.folder));
  const std::int64_t files = reshard_checkpoint(reader, a.output, a.files, a.force);
  if (a.json)
    print({{"folder", a.output}, {"step", reader.step()}, {"files", files}});
  else
    fmt::print("{}: step {} of {} in {} files, verified\n", a.output, reader.step(),
               reader.folder().string(), files);
  return kExitOk;
}

Action define_reshard(CLI::App& app) {
  auto a = std::make_shared<ReshardArguments>();
  app.add_option("folder", a->folder, "Checkpoint")->required();
  app.add_option("--output", a->output, "Folder to write: the new checkpoint itself")->required();
  app.add_option("--files", a->files, "Files to spread the tensors' rows over")->required();
  app.add_flag("--force", a->force, "Replace an existing checkpoint");
  app.add_flag("--json", a->json, "Print one JSON object");
  return [a] { return reshard(*a); };
}

Action define(CLI::App& app) {
  app.require_subcommand(1);
  Subcommands commands(app);
  commands.add("verify", "Check every byte of a checkpoint", define_verify);
  commands.add("diff", "Compare two checkpoints bit for bit: exit code 0 equal, 1 different",
               define_diff);
  commands.add("reshard", "Write a checkpoint again, spread over another number of files",
               define_reshard);
  commands.add("export", "Write weights as a model folder of any format", define_export);
  return [commands] { return commands.parsed()(); };
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) { return moe::run_program(argc, argv, moe::kText, moe::define); }
