// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moe {

/// The files that names and patterns (with *, ? or [...]: glob(7)) stand for, in their order; those
/// of a pattern by name. Throws InputError for a pattern that no file fits.
std::vector<std::filesystem::path> shard_files(const std::vector<std::string>& patterns);

}  // namespace moe
