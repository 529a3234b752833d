// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <utility>

#include "config/model_config.h"
#include "config/model_parameters.h"
#include "config/train_config.h"
#include "nn/transformer.h"

namespace moe {

/// Weights that lie somewhere, with the architecture they belong to.
struct ModelSource {
  ModelConfig config;
  ParameterRows rows;
  /// Where a tokenizer may lie beside them.
  std::filesystem::path folder;
};

/// `path`: a Hugging Face model folder, a training checkpoint (step-00001000/), or a run's folder,
/// whose newest checkpoint is meant. Throws InputError when it is none of them.
ModelSource open_model(const std::filesystem::path& path);

/// `rows` of a model as it `was`, and initial ones of the parameters that `model` has beside those:
/// noise and selection bias of routers, when a run switches them on.
ParameterRows with_new_parameters(ParameterRows rows, const ModelConfig& was,
                                  const ModelConfig& model, std::uint64_t seed);

/// The architecture and the weights that a run begins with: its init_from's or random ones.
std::pair<ModelConfig, ParameterRows> starting_point(const TrainConfig& config);

/// A model of one process, for evaluation and generation.
class LoadedModel {
 public:
  LoadedModel(const ModelSource& source, DType dtype, Device device = Device::cpu);
  const Transformer& model() const { return transformer_; }
  const ParameterStore& parameters() const { return parameters_; }
  Communicator& world() const { return *world_; }

 private:
  ModelConfig config_;
  std::unique_ptr<Communicator> world_;
  ProcessGrid grid_;
  ParameterStore parameters_;
  Transformer transformer_;
};

}  // namespace moe
