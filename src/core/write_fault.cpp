// SPDX-License-Identifier: Apache-2.0
#include "core/write_fault.h"

#include <mutex>
#include <utility>
#include <vector>

namespace moe {
namespace {

std::mutex mutex;
std::vector<std::pair<std::string, int>> planted;

}  // namespace

void plant_write_fault(std::string part_of_path, int error) {
  const std::lock_guard lock(mutex);
  planted.emplace_back(std::move(part_of_path), error);
}

int write_fault(const std::filesystem::path& file) {
  const std::lock_guard lock(mutex);
  for (const auto& [part, error] : planted)
    if (file.string().find(part) != std::string::npos) return error;
  return 0;
}

}  // namespace moe
