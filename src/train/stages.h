// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "config/train_config.h"
#include "hf/model_format.h"
#include "train/trainer.h"

namespace moe {

/// A stage as a run of its own.
struct PlannedStage {
  std::string name;    // empty: the run has no stages and is one
  TrainConfig config;  // its run.folder is the stage's
  ModelConfig model;
  std::optional<ModelFormat> export_format;
};

/// What a run's stages train, in their order. Throws InputError, naming the stage, for settings
/// that its model cannot have and for a format that has no place for it.
std::vector<PlannedStage> plan_stages(const TrainConfig& config);

/// Trains a run: as one where it has no stages, else stage after stage, each a run of its own in
/// run.folder/NAME that begins with the weights of the checkpoint that ended the one before. The
/// end of a stage is exported to run.folder/NAME/model, whole or not at all, before the next
/// begins.
///
/// Before anything is trained or removed, what is left to do is checked: ranks, models, formats,
/// the data of every stage and its tokenizer. With `resume` auto the run goes on where it was: in a
/// stage, between two, or in an export. Collective. Throws InputError and Error as Trainer does.
RunEnd train_run(const TrainConfig& config, const StartOptions& start, Communicator& world);

}  // namespace moe
