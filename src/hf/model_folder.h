// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "config/model_parameters.h"
#include "core/tensor.h"
#include "hf/model_format.h"

namespace moe {

/// A Hugging Face model folder seen through our parameter names (config/model_parameters.h),
/// whatever its format (hf/model_format.h): config.json, and model.safetensors or
/// model.safetensors.index.json with its shards.
///
/// Opening checks everything but the values: that each parameter is stored, in the right shape and
/// a floating-point type, and that nothing is stored that the model has no place for (except
/// rotary_emb.inv_freq, which is computed, noise weights of a gate without noise, and a head equal
/// to the embedding that it is tied to). Throws InputError naming file and tensor. A Mixtral folder
/// has score scale 1 (LLaMA-MoE v2: its scale_factor); a sliding window becomes the number of
/// positions, within which it makes no difference.
class ModelFolder {
 public:
  explicit ModelFolder(const std::filesystem::path& folder);

  const std::filesystem::path& path() const;
  const ModelConfig& config() const;
  ModelFormat format() const;
  /// Type of the stored weights (of the embedding, where they differ): f32, bf16, f16 or f64.
  DType stored_dtype() const;
  /// Type that one parameter is stored in (its first tensor, where they differ).
  DType stored_dtype(const std::string& parameter) const;

  /// Rows [first, first + rows) of a parameter, as f32, bf16, f64 or f16. Touches no more of the
  /// files than those rows, so reading some experts leaves the others on disk. Safe from many
  /// threads.
  Tensor read(const std::string& name, std::int64_t first, std::int64_t rows, DType as) const;
  Tensor read(const std::string& name, DType as) const;

  /// The same rows where the file holds them, without a copy: not to be written to. Undefined when
  /// they are stored in another type, transposed, in several tensors or unaligned.
  Tensor view(const std::string& name, std::int64_t first, std::int64_t rows, DType as) const;
  /// A whole matrix as [cols, rows], on the same terms, when it is stored so (down_proj).
  Tensor view_transposed(const std::string& name, DType as) const;

  /// Throws InputError naming file, tensor and row when a parameter, or any of all, holds a NaN or
  /// an infinity. Reads what is stored as it lies, on all compute threads.
  void require_finite(const std::string& name) const;
  void require_finite() const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

struct WriteOptions {
  ModelFormat format = ModelFormat::llama_moe;
  DType dtype = DType::bf16;  // f32, bf16, f16 or f64
  std::int64_t max_shard_bytes = 5'000'000'000;
  /// Replace an existing model folder, after the new one is complete.
  bool force = false;
  /// Folder to copy the tokenizer and generation_config.json from, as far as it has them, and the
  /// Python files of modeling_from where that is not given.
  std::optional<std::filesystem::path> tokenizer_from;
  /// Folder of LLaMA-MoE's configuration_llama_moe.py and modeling_llama_moe_hf.py (v2:
  /// configuration_mixtral.py and modeling_mixtral.py), for the formats that name them.
  std::optional<std::filesystem::path> modeling_from = {};
  /// For matrices that the format stores transposed: the rows asked for as [cols, count], or an
  /// undefined tensor to have them asked for in the usual way and transposed here.
  ParameterRows transposed_rows = {};
  /// Puts files of its own into the folder before it gets its name.
  std::function<void(const std::filesystem::path& folder)> more_files = {};
};

struct WrittenModel {
  std::int64_t bytes = 0;          // of all files
  std::vector<std::string> notes;  // what is still to be done before others can load the folder
};

/// Writes a model folder, whole or not at all: under a temporary name beside it, synced, renamed
/// last. Rows are asked for in the order of the folder, one expert's matrix (or a part of a large
/// matrix) at a time, so memory stays at about one matrix. generation_config.json is made from the
/// config where there is none to copy.
///
/// Mixtral has no score scale, so it is multiplied into w2 (in f32 at least, then rounded). Throws
/// InputError, before anything is asked for, when the folder exists and `force` is off, when it is
/// no model folder, when modeling_from lacks a file, and when the format cannot hold the model
/// (require_representable; set config.moe.gate_noise to false to leave the noise out); Error when
/// the system cannot write.
///
/// Loading llama_moe in transformers: versions that rename every key containing "weight_g" (4.47
/// does, LLaMA-MoE issue 74) silently lose weight_gate.*; the Mixtral layouts have no such trap.
WrittenModel write_model(const std::filesystem::path& folder, const ModelConfig& config,
                         const WriteOptions& options, const ParameterRows& rows);

}  // namespace moe
