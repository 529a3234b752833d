// SPDX-License-Identifier: Apache-2.0
#include "core/cuda_device.h"
#include "core/error.h"

namespace moe {
namespace {

[[noreturn]] void none() { throw Error(cuda::why_unavailable()); }

}  // namespace

bool cuda_available() { return false; }

namespace cuda {

bool built() { return false; }
std::string why_unavailable() { return "built without CUDA: configure with `cmake --preset cuda`"; }
int device_count() { return 0; }
void use_device(int) { none(); }
int compute_capability() { none(); }
int processors() { none(); }
std::string device_name() { none(); }
std::string bus_id() { none(); }
CUstream_st* compute_stream() { none(); }
void synchronize() { none(); }
std::byte* take(std::size_t) { none(); }
void give(std::byte*) { none(); }
std::int64_t reserved_bytes() { return 0; }
std::int64_t free_bytes() { return 0; }
void copy_bytes(void*, const void*, std::size_t) { none(); }
void fill_zero(void*, std::size_t) { none(); }
void mark_phase(const char*) {}

}  // namespace cuda
}  // namespace moe
