// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

struct CUstream_st;

/// CUDA devices that stand in for real ones, one for each rank of run_ranks. Streams are real
/// threads: each takes its work in order, some of it late, and nothing orders two of them but
/// events, so work that does not wait for what it needs reads NaN or old bytes. Memory comes and
/// goes in the order of the compute stream: what is given back is poisoned in that order and may be
/// taken at once. Linked before the libraries, in the place of core's device and of CUDA's runtime.
namespace moe::fake {

/// From here on the calling thread is the process of this rank, with a device of its own.
void use_device(int rank);
/// The rank whose device the calling thread uses.
int device_of_thread();

/// What cuda::bus_id(), cuda::device_count() of this thread's device answer.
void set_bus_id(const std::string& id);
void set_device_count(int count);

/// Kernels, which run in the emulator, are work of their stream from here on.
void run_kernels_on_streams();

/// Puts work onto a stream.
void enqueue(CUstream_st* stream, std::function<void()> work);

/// Streams of this priority of all devices take no more work until resume().
void pause(int priority);
void resume();
inline constexpr int kHighestPriority = -5;

}  // namespace moe::fake
