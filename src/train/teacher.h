// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "config/train_config.h"
#include "train/model_source.h"

namespace moe {

/// Whom a student learns from: a model of its own on every rank, whole, which nothing changes.
struct Teacher {
  std::shared_ptr<const Transformer> model;  // none: nobody teaches
  std::string checksum;                      // of its weights, as they compute; "" without a model
};

/// What config.distill.teacher names, its weights not read yet. Throws InputError naming the key:
/// no such model, another vocabulary than the student's, too few positions for the sequences.
ModelSource open_teacher(const TrainConfig& config, const ModelConfig& student);

/// The teacher of a run, in the student's number type on its device; none where the configuration
/// names none. Throws InputError as open_teacher() does, and where a weight is not finite.
Teacher load_teacher(const TrainConfig& config, const ModelConfig& student, Device device);

/// "weight 1 of the divergence at temperature 2, 0.5 of the cross-entropy".
std::string to_text(const TrainConfig::Distill& distill);

}  // namespace moe
