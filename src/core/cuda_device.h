// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct CUstream_st;  // cudaStream_t points to it

/// The CUDA device of this process. A build without CUDA has none: there cuda_available() is false,
/// and whatever needs a device throws Error.
namespace moe {

bool cuda_available();

namespace cuda {

/// Whether this program was built with CUDA.
bool built();

/// Why no device can be used here, in one line: built without CUDA, no driver, a driver that is too
/// old, no device. Empty when one can.
std::string why_unavailable();

/// How many devices this process sees; 0 when none can be used.
int device_count();

/// Makes device `index` the one of this process and all its threads; before anything lies on it.
/// Without this call it is device 0.
void use_device(int index);

/// 90 for compute capability 9.0; and how many processors (SMs) it has.
int compute_capability();
int processors();

/// Its name and its number on the PCI bus, which no other device of this host has.
std::string device_name();
std::string bus_id();

/// The stream of all kernels of this process, in whose order its memory comes and goes: what has
/// been freed may be used by the next kernel. The calling thread is on the process's device when
/// this returns.
CUstream_st* compute_stream();

/// Waits for all work on the compute stream. Throws Error when a kernel has failed.
void synchronize();

/// Bytes in the order of the compute stream, aligned to 256; nullptr when the device has no more.
std::byte* take(std::size_t bytes);
void give(std::byte* block);

/// Bytes that the device gave to this process's pool, in use or not, and what it has left.
std::int64_t reserved_bytes();
std::int64_t free_bytes();

/// In the order of the compute stream. Returns when `src` may change and, where `dst` is the
/// host's, the bytes are there.
void copy_bytes(void* dst, const void* src, std::size_t bytes);
void fill_zero(void* dst, std::size_t bytes);

/// Names what this thread does from here on in profiles (NVTX), until the next call.
void mark_phase(const char* name);

}  // namespace cuda
}  // namespace moe
