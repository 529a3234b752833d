// SPDX-License-Identifier: Apache-2.0
#include "app/device_choice.h"

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "core/cuda_device.h"
#include "core/error.h"
#include "core/log.h"

namespace moe {

Device choose_device(DeviceChoice wanted, int local_rank) {
  if (wanted == DeviceChoice::cpu) return Device::cpu;
  if (cuda_available()) {
    cuda::use_device(local_rank % cuda::device_count());
    return Device::cuda;
  }
  MOE_REQUIRE(wanted == DeviceChoice::automatic,
              "device cuda was asked for: ", cuda::why_unavailable());
  if (cuda::built()) log_info("on the CPU: {}", cuda::why_unavailable());
  return Device::cpu;
}

void add_device_option(CLI::App& app, DeviceChoice& choice) {
  static const std::map<std::string, DeviceChoice> kChoices = {
      {"auto", DeviceChoice::automatic}, {"cpu", DeviceChoice::cpu}, {"cuda", DeviceChoice::cuda}};
  app.add_option("--device", choice,
                 "auto, cpu or cuda; auto: a CUDA device where the build and the machine have one")
      ->transform(CLI::CheckedTransformer(kChoices).description(""))
      ->default_str("auto");
}

}  // namespace moe
