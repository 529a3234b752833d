// SPDX-License-Identifier: Apache-2.0
#include "hf/side_files.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/durable_files.h"
#include "core/error.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::array kTokenizerFiles = {"tokenizer.model", "tokenizer.json",
                                        "tokenizer_config.json", "special_tokens_map.json"};
constexpr const char* kGenerationConfig = "generation_config.json";

bool has_shared_experts(const ModelConfig& config) {
  return std::any_of(config.moe.shared_sizes.begin(), config.moe.shared_sizes.end(),
                     [](const auto& layer) { return !layer.empty(); });
}

/// The Python files that config.json's auto_map names.
std::vector<std::string> code_files(const ModelConfig& config, ModelFormat format) {
  if (format == ModelFormat::llama_moe && !has_shared_experts(config))
    return {"configuration_llama_moe.py", "modeling_llama_moe_hf.py"};
  if (format == ModelFormat::llama_moe_v2)
    return {"configuration_mixtral.py", "modeling_mixtral.py"};
  return {};
}

void copy_synced(const fs::path& from, const fs::path& to) {
  fs::copy_file(from, to);
  fs::permissions(to, fs::perms::owner_write, fs::perm_options::add);
  sync_path(to);
}

std::string generation_config(const ModelConfig& config) {
  nlohmann::ordered_json j = {{"_from_model_config", true}};
  for (const auto& [key, token] : {std::pair{"bos_token_id", config.bos_token},
                                   {"eos_token_id", config.eos_token},
                                   {"pad_token_id", config.pad_token}})
    if (token >= 0) j[key] = token;
  return j.dump(2) + "\n";
}

}  // namespace

void require_side_files(const ModelConfig& config, const WriteOptions& options) {
  MOE_REQUIRE(!options.tokenizer_from || fs::is_directory(*options.tokenizer_from),
              options.tokenizer_from->string(), ": is no folder to copy a tokenizer from");
  if (!options.modeling_from) return;
  for (const std::string& file : code_files(config, options.format))
    MOE_REQUIRE(fs::is_regular_file(*options.modeling_from / file),
                (*options.modeling_from / file).string(), ": is missing: a ", name(options.format),
                " folder needs LLaMA-MoE's ", join(code_files(config, options.format), " and "));
}

std::vector<std::string> write_side_files(const fs::path& folder, const ModelConfig& config,
                                          const WriteOptions& options) {
  const auto copy = [&](const std::optional<fs::path>& from, const std::string& file) {
    if (!from || !fs::exists(*from / file)) return false;
    copy_synced(*from / file, folder / file);
    return true;
  };
  for (const char* file : kTokenizerFiles) copy(options.tokenizer_from, file);
  if (options.format != ModelFormat::native && !copy(options.tokenizer_from, kGenerationConfig))
    write_synced(folder / kGenerationConfig, generation_config(config));

  std::vector<std::string> missing, notes;
  for (const std::string& file : code_files(config, options.format))
    if (!copy(options.modeling_from, file) && !copy(options.tokenizer_from, file))
      missing.push_back(file);
  if (!missing.empty())
    notes.push_back(str("transformers loads this folder (with trust_remote_code=True) once ",
                        join(missing, " and "), " of LLaMA-MoE",
                        options.format == ModelFormat::llama_moe_v2 ? " v2" : "",
                        " lie beside config.json"));
  if (options.format == ModelFormat::llama_moe && has_shared_experts(config))
    notes.push_back(
        "llama_moe_residual models are loaded by LLaMA-MoE's own package (smoe): there are no "
        "Python files to put beside config.json");
  return notes;
}

}  // namespace moe
