// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/checkpoint.h"

namespace moe {

struct CheckpointDifference {
  std::string where;  // "weights/norm.weight", "state/step", "model/top_k"
  std::string what;   // "3 of 64 values differ, first at [2, 5]: 0.5 and 0.25"
};

/// Compares steps, models, states and tensors bit for bit, whatever the files they lie in. Left
/// out: the configuration and the state's key "machine", which describe a run and not its result.
/// Reads a few MB at a time. Throws InputError when either checkpoint is damaged.
std::vector<CheckpointDifference> diff_checkpoints(const CheckpointReader& a,
                                                   const CheckpointReader& b);

}  // namespace moe
