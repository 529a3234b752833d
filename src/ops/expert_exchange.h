// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/tape.h"
#include "comm/communicator.h"

namespace moe::ops {

/// The experts of a layer on the members of an expert group, cut into chunks: chunk c is the c-th
/// contiguous share of each member's experts. While the rows of one chunk travel, another chunk's
/// experts compute. A chunk holds all rows of its experts, so every product sees the same rows in
/// the same order for any number of chunks, and the results are the same to the bit.
struct ExpertChunks {
  std::int64_t experts;  // of all members together
  int members;
  std::int64_t chunks;  // no member has more experts

  ExpertChunks(std::int64_t experts, int members, std::int64_t wanted);

  /// The experts in the order their rows leave in: by chunk, by member, by expert. i32[experts].
  Tensor order() const;
};

/// How many rows of which expert this rank sends and gets, equal on both sides.
struct ExchangeCounts {
  std::vector<std::int64_t> sent;      // for each of all experts
  std::vector<std::int64_t> arriving;  // [member][own expert]
};

/// Tells every member how many rows it gets for each of its experts. sent: this rank's rows for
/// each of all experts. Collective.
ExchangeCounts exchange_counts(std::vector<std::int64_t> sent, Communicator& group);

/// Rows to their experts on the members of `group`, through them, and back.
///
/// x: T[rows, hidden], in the order of `chunks`; gate, up, down: this rank's experts, which begin
/// at neuron_offsets. Backward sends gradients the same way: each chunk's dx leaves before the
/// weight gradients of that chunk are computed. `group` outlives backward; `layer` is for the
/// watchdog. Collective, also without rows.
Variable exchange_experts(const Variable& x, const Variable& gate, const Variable& up,
                          const Variable& down, const std::vector<std::int64_t>& neuron_offsets,
                          const ExpertChunks& chunks, const ExchangeCounts& counts,
                          Communicator& group, std::int32_t layer);

}  // namespace moe::ops
