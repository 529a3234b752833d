// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/tensor.h"

namespace moe {

struct FileDigest {
  std::int64_t bytes = 0;
  std::uint64_t checksum = 0;
};
/// Reads the whole file. Throws InputError when it cannot be read.
FileDigest digest_of(const std::filesystem::path& path);
/// A text file whole. Throws InputError when it cannot be read.
std::string read_text(const std::filesystem::path& path);

/// How many rows of a tensor to read at once where memory shall stay small: 16 MB, at least one.
std::int64_t rows_at_once(const Shape& shape, DType dtype);

}  // namespace moe
