// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "comm/communicator.h"

/// What can be checked of a call before any peer is asked; all transports check the same. All
/// throw Error. `device`: where the transport wants the tensors.
namespace moe {

/// f32, bf16, f64 or i64.
void check_all_reduce(const Tensor& x, Device device = Device::cpu);
void check_reduce_scatter(const Tensor& out, const Tensor& in, std::span<const std::int64_t> parts,
                          const Communicator& group, Device device = Device::cpu);
void check_all_gather(const Tensor& out, const Tensor& in, std::span<const std::int64_t> parts,
                      const Communicator& group, Device device = Device::cpu);
void check_all_to_all(const Tensor& out, std::span<const std::int64_t> recv_rows, const Tensor& in,
                      std::span<const std::int64_t> send_rows, int size,
                      Device device = Device::cpu);
void check_broadcast(const Tensor& x, int root, int size, Device device = Device::cpu);

/// The message about a sender and a receiver whose row counts differ.
std::string rows_disagree(int sender, std::int64_t sent, int receiver, std::int64_t expected);

}  // namespace moe
