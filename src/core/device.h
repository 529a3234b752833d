// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe {

/// Where a tensor's bytes lie.
enum class Device : std::uint8_t { cpu, cuda };

/// What a user asks for; automatic: a CUDA device where one can be used.
enum class DeviceChoice : std::uint8_t { automatic, cpu, cuda };

inline const char* name(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

}  // namespace moe
