// SPDX-License-Identifier: Apache-2.0
#include "train/machine.h"

#include <fstream>

namespace moe {

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) {
      const std::size_t colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  return "unknown";
}

std::string compiler_name() { return "g++ " __VERSION__; }

}  // namespace moe
