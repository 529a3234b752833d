// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "data/held_out.h"
#include "nn/transformer.h"

namespace moe {

struct HeldOutLoss {
  double loss = 0;          // mean cross-entropy over `tokens` scored tokens, in nats
  std::int64_t tokens = 0;  // scored
};

/// [summed loss, scored tokens] of each of the first `sequences` held-out sequences, as f64
/// [sequences, 2]; at least one row. Computed as held_out_loss() says.
Tensor sequence_losses(
    const Transformer& model, const HeldOut& data, std::int64_t sequences, std::int64_t micro_batch,
    Communicator& world, const std::function<void()>& alive = [] {});

/// The loss of the first `sequences` held-out sequences (all there are, when fewer), without gate
/// noise or router losses, spread over the ranks in batches of `micro_batch`. The same on every
/// rank. Collective: ranks that run out of sequences compute padding, because expert exchanges need
/// everyone. `alive` is called after every batch.
HeldOutLoss held_out_loss(
    const Transformer& model, const HeldOut& data, std::int64_t sequences, std::int64_t micro_batch,
    Communicator& world, const std::function<void()>& alive = [] {});

}  // namespace moe
