// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace moe {

// Files and folders as checkpoints need them: synced to the disk, and checked before use.

/// Writes and syncs a file. Throws Error with the system's words.
void write_synced(const std::filesystem::path& path, const std::string& text);
/// Syncs a file or folder. Throws Error.
void sync_path(const std::filesystem::path& path);
/// Throws Error; file systems say what is wrong.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);
/// Puts `from` in the place of the folder `to`; what was there is then at `from`.
void exchange_paths(const std::filesystem::path& from, const std::filesystem::path& to);

struct FileDigest {
  std::int64_t bytes = 0;
  std::uint64_t checksum = 0;
};
/// Reads the whole file. Throws InputError when it cannot be read.
FileDigest digest_of(const std::filesystem::path& path);
/// A text file whole. Throws InputError when it cannot be read.
std::string read_text(const std::filesystem::path& path);

}  // namespace moe
