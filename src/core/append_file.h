// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace moe {

/// A file that records are added to, each as a whole or not at all.
class AppendFile {
 public:
  /// Goes on at the end of what is there. Throws Error when the file cannot be opened.
  explicit AppendFile(const std::filesystem::path& file);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// With the system when it returns, but not synced. Throws Error when not all of it can be
  /// written; the file then ends where it did before, or the message says that it is torn.
  void append(std::string_view record);

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace moe
