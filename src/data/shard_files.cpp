// SPDX-License-Identifier: Apache-2.0
#include "data/shard_files.h"

#include <glob.h>

#include <memory>

#include "core/error.h"

namespace moe {

std::vector<std::filesystem::path> shard_files(const std::vector<std::string>& patterns) {
  std::vector<std::filesystem::path> files;
  for (const std::string& pattern : patterns) {
    if (pattern.find_first_of("*?[") == std::string::npos) {
      files.emplace_back(pattern);
      continue;
    }
    glob_t found{};
    const std::unique_ptr<glob_t, void (*)(glob_t*)> release(&found, globfree);
    const int failure = glob(pattern.c_str(), 0, nullptr, &found);
    MOE_REQUIRE(failure != GLOB_NOMATCH, pattern, ": no file fits this pattern");
    MOE_REQUIRE(failure == 0, pattern, ": its folder cannot be read");
    for (std::size_t i = 0; i < found.gl_pathc; ++i) files.emplace_back(found.gl_pathv[i]);
  }
  return files;
}

}  // namespace moe
