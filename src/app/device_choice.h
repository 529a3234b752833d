// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/device.h"

namespace CLI {
class App;
}

namespace moe {

/// Where this process computes. Ranks of a host take its CUDA devices in turn, local_rank modulo
/// their number. Says so where a build for CUDA runs on the CPU because it finds no device. Throws
/// InputError when CUDA was asked for and cannot be had.
Device choose_device(DeviceChoice wanted, int local_rank = 0);

/// Declares --device.
void add_device_option(CLI::App& app, DeviceChoice& choice);

}  // namespace moe
