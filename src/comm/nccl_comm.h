// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "comm/communicator.h"

namespace moe {

bool nccl_built();

/// Of each link, what parts of sums pass through on the device: large ones go in pieces.
inline constexpr std::int64_t kNcclScratchBytes = std::int64_t{64} << 20;

/// `host_group` for tensors of any device: those on a device travel by NCCL, those of the host as
/// before. Groups that are split off it, too. Collective; keeps a reference. Each rank has a device
/// of its own: throws InputError naming two that share one, and Error when the NCCL library is
/// older than what this was built with, when ranks have different ones, or in a build without CUDA.
///
/// What a device collective promises:
/// - A call takes tensors as the work given to the compute stream before it leaves them, and
///   returns when everything is queued. wait() makes the compute stream wait, not the host: results
///   are there for what is given to the compute stream after it. test() is true when they are
///   there. Only a call that compares row counts waits for the members to make it.
/// - Sums are added up by a kernel of ours, in rank order, kept in f32 for bf16: NCCL's order
///   depends on the machine, and its bf16 sums are rounded at each hop. Every repetition gives the
///   same bits.
/// - Tensors are kept until wait(), or until the end of the Pending; then the memory is free in the
///   order of the compute stream, so behind the collective.
/// - Rows and small sums have a link (a stream and a communicator) of their own beside that of bulk
///   collectives, so they do not queue behind gradients.
/// - A call makes NCCL's communicator for this group and link when it is the first to need it.
/// - A barrier is one of the hosts, not of their devices.
/// - When NCCL or the device fails, all communicators are aborted; every call and wait() from then
///   on throws Error with what failed first. A collective that hangs stays unfinished for the
///   watchdog, which names the late rank and ends the job.
std::unique_ptr<Communicator> nccl_communicator(Communicator& host_group,
                                                std::int64_t scratch_bytes = kNcclScratchBytes);

}  // namespace moe
