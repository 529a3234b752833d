// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "train/checkpoint.h"
#include "train/engine.h"

namespace moe {

/// The tensors of a training state, by the names they have in checkpoints: "weights/P" (masters),
/// "adam_m/P" and "adam_v/P" of every trained parameter P, "weights/P" alone of the others, and
/// "router/previous_counts" and "attention_router/previous_counts" (Engine::previous_counts, ...)
/// of a model with experts there. Views of the engine's own memory: of each row that several ranks
/// hold, one rank's. Over all ranks every row comes exactly once.
std::vector<TensorRows> state_to_save(Engine& engine);

/// The weights in a checkpoint: masters, so of the accumulator's type.
ParameterRows weights_in(std::shared_ptr<const CheckpointReader> reader);

/// Reads what is not weights: the moments of the rows that this rank's optimiser owns, and the
/// routers' counts. Both start anew where a checkpoint has none: what was frozen in the run that
/// saved it has no moments. With Engine::load_weights this
/// brings the whole state back. Throws InputError when the checkpoint is of another model.
void load_moments_and_counts(Engine& engine, const CheckpointReader& reader);

/// Updates that a checkpoint's weights have had. Throws InputError when it does not say.
std::int64_t optimizer_steps_in(const CheckpointReader& reader);

}  // namespace moe
