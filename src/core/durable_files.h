// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace moe {

// Changes to files and folders that outlive a crash of the machine. All throw Error with the
// system's words.

/// Writes and syncs a file; returns its size.
std::int64_t write_synced(const std::filesystem::path& path, std::string_view text);
/// Syncs a file or folder.
void sync_path(const std::filesystem::path& path);
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);
/// Puts `from` in the place of the folder `to`; what was there is then at `from`.
void exchange_paths(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace moe
