// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/model_config.h"
#include "core/dtype.h"
#include "hf/model_format.h"
#include "split/construction.h"
#include "split/gate.h"

namespace moe {

/// A dense model folder in, a mixture of experts out.
struct SplitOptions {
  std::filesystem::path input, output;
  std::int64_t experts = 8;
  std::int64_t top_k = 2;
  std::string method = "random";
  ConstructionOptions construction;
  std::optional<GateInit> gate;    // default: mlp for llama-moe, linear for mixtral
  std::optional<bool> gate_noise;  // default: on for llama-moe unless the gate is zeros
  std::optional<double> scale;     // on every expert's output; default: experts / top_k
  std::uint64_t seed = 42;
  ModelFormat format = ModelFormat::llama_moe;
  std::optional<DType> dtype;  // of the weights written; default: as the dense model's
  bool force = false;          // replace an existing output folder
};

/// What was made.
struct SplitReport {
  struct Layer {
    std::vector<std::int64_t> sizes;
    std::vector<std::pair<std::string, double>> measures;
  };

  ModelConfig config;
  std::string method;
  GateInit gate = GateInit::mlp;
  std::uint64_t seed = 0;
  ModelFormat format = ModelFormat::llama_moe;
  DType dtype = DType::bf16;
  std::vector<Layer> layers;
  ParameterCounts parameters;
  std::int64_t bytes = 0;  // of all files written
  double seconds = 0;      // of which
  double construction_seconds = 0;
  std::vector<std::string> warnings;
};

/// Called now and then with the values written so far and in all.
using SplitProgress = std::function<void(std::int64_t done, std::int64_t total)>;

/// Splits the model, one layer in memory at a time; the output folder appears whole or not at all.
/// Throws InputError, before any work, for options that cannot be: the output exists without
/// `force`, the input is no dense model, more experts than FFN neurons, top_k outside [1, experts],
/// a gate, noise or sizes that the format cannot hold.
SplitReport split_model(const SplitOptions& options, const SplitProgress& progress = {});

}  // namespace moe
