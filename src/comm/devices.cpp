// SPDX-License-Identifier: Apache-2.0
#include "comm/devices.h"

#include <unistd.h>

#include <fstream>
#include <vector>

#include "comm/texts.h"
#include "core/cuda_device.h"

namespace moe {
namespace {

std::string host_name() {
  char name[256] = "";
  return gethostname(name, sizeof name - 1) == 0 ? name : "?";
}

/// Tells hosts of the same name apart: containers may have one.
std::string boot_id() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

}  // namespace

void check_devices(Communicator& world) {
  const int count = cuda::device_count();
  const std::vector<std::string> hosts = gather_texts(host_name(), world),
                                 boots = gather_texts(boot_id(), world),
                                 reasons = gather_texts(cuda::why_unavailable(), world);
  const std::vector<std::string> counts = gather_texts(std::to_string(count), world);
  for (std::size_t a = 0; a < hosts.size(); ++a)
    for (std::size_t b = 0; b < hosts.size(); ++b) {
      MOE_REQUIRE(counts[a] == "0" || counts[b] != "0", "rank ", b, " on host ", hosts[b],
                  " can use no GPU (", reasons[b], "), rank ", a, " on host ", hosts[a], " sees ",
                  counts[a], ": give every rank one, or start all without (CUDA_VISIBLE_DEVICES=)");
      MOE_REQUIRE(hosts[a] != hosts[b] || boots[a] != boots[b] || counts[a] == counts[b], "ranks ",
                  a, " and ", b, " on host ", hosts[a], " see ", counts[a], " and ", counts[b],
                  " GPUs: set CUDA_VISIBLE_DEVICES alike for all ranks of a host");
    }
}

std::string shared_device(Communicator& world) {
  const std::vector<std::string> hosts = gather_texts(host_name(), world),
                                 boots = gather_texts(boot_id(), world),
                                 devices = gather_texts(cuda::bus_id(), world);
  for (std::size_t a = 0; a < hosts.size(); ++a)
    for (std::size_t b = a + 1; b < hosts.size(); ++b)
      if (hosts[a] == hosts[b] && boots[a] == boots[b] && devices[a] == devices[b])
        return str("ranks ", a, " and ", b, " on host ", hosts[a], " both use GPU ", devices[a]);
  return "";
}

}  // namespace moe
