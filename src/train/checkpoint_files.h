// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace moe {

struct FileDigest {
  std::int64_t bytes = 0;
  std::uint64_t checksum = 0;
};
/// Reads the whole file. Throws InputError when it cannot be read.
FileDigest digest_of(const std::filesystem::path& path);
/// A text file whole. Throws InputError when it cannot be read.
std::string read_text(const std::filesystem::path& path);

}  // namespace moe
