// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "config/parameter_families.h"
#include "config/train_config.h"
#include "data/held_out.h"
#include "data/loader.h"
#include "train/engine.h"
#include "train/teacher.h"

namespace moe {

/// What a configuration asks of the engine.
EngineOptions engine_options(const TrainConfig& config, Device device, const Teacher& teacher);

/// Whether `ranks` can train this model as configured, and what of it. Throws InputError naming the
/// key: a batch that ranks cannot share evenly, sequences beyond the model's positions, families to
/// freeze or to give a rate that it has not, a teacher that does not suit.
FrozenPlan require_trainable(const TrainConfig& config, const ModelConfig& model, int ranks);

/// selfcheck() of a run's engine, and a line that says what held. Collective. Throws Error.
void report_selfcheck(const TrainConfig& config, const EngineOptions& options,
                      const ProcessGrid& grid, const ModelConfig& model,
                      const ParameterRows& weights);

/// The data of a run, opened.
struct RunData {
  struct HeldOutDomain {
    std::string name;
    HeldOut data;
  };
  Loader loader;
  std::vector<HeldOutDomain> held_out;
};

/// Throws InputError naming the file or domain.
RunData open_data(const TrainConfig& config, const ModelConfig& model);

}  // namespace moe
