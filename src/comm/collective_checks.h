// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "comm/communicator.h"

/// What can be checked of a call before any peer is asked; both transports check the same. All
/// throw Error.
namespace moe {

/// f32, bf16, f64 or i64, on the CPU.
void check_all_reduce(const Tensor& x);
void check_reduce_scatter(const Tensor& out, const Tensor& in, std::span<const std::int64_t> parts,
                          const Communicator& group);
void check_all_gather(const Tensor& out, const Tensor& in, std::span<const std::int64_t> parts,
                      const Communicator& group);
void check_all_to_all(const Tensor& out, std::span<const std::int64_t> recv_rows, const Tensor& in,
                      std::span<const std::int64_t> send_rows, int size);
void check_broadcast(const Tensor& x, int root, int size);

/// The message about a sender and a receiver whose row counts differ.
std::string rows_disagree(int sender, std::int64_t sent, int receiver, std::int64_t expected);

}  // namespace moe
