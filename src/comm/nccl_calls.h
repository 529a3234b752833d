// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "comm/nccl_links.h"
#include "comm/process_grid.h"

/// What a collective of a Communicator asks of NCCL, on a link's stream; for the NCCL files of this
/// layer. All tensors are on the device; arguments have been checked.
namespace moe {

/// A member's view of a group of at least two.
struct NcclCall {
  ncclComm* comm;
  const NcclLink& link;
  int rank, size;
};

/// The members' parts, one after the other.
std::vector<Share> shares_of(std::span<const std::int64_t> parts);

/// whole = the members' `own`, parts[p] elements from member p. `own` may lie at its place.
void nccl_all_gather(const NcclCall& call, const Tensor& whole, const Tensor& own,
                     std::span<const std::int64_t> parts);

/// out = this rank's part of the sum of `in`. As many bytes as a ring moves, in pieces that fit
/// into the link's scratch memory.
void nccl_reduce_scatter(const NcclCall& call, const Tensor& out, const Tensor& in,
                         std::span<const std::int64_t> parts);

/// Whether x is small enough for nccl_small_sum().
bool fits_small_sum(const NcclLink& link, const Tensor& x, int size);
/// x = the sum: every member gets all of them and adds them up.
void nccl_small_sum(const NcclCall& call, const Tensor& x);
void nccl_max(const NcclCall& call, const Tensor& x);

/// Rows [first, first + count) of `in` to each member and of `out` from each member.
void nccl_exchange(const NcclCall& call, const Tensor& out, std::span<const Share> received,
                   const Tensor& in, std::span<const Share> sent);

void nccl_broadcast(const NcclCall& call, const Tensor& x, int root);

}  // namespace moe
