// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace moe {

/// A file that grows at its end, through a buffer. Writing throws Error with the system's words.
class GrowingFile {
 public:
  /// A file without a name in `folder`: it is gone when it is closed. Throws InputError.
  static GrowingFile unnamed(const std::filesystem::path& folder);
  /// Keeps the first `size` bytes of the file and drops the rest; creates it when there is none.
  /// Throws InputError when it cannot be opened or has fewer.
  GrowingFile(const std::filesystem::path& path, std::int64_t size);
  ~GrowingFile();
  GrowingFile(GrowingFile&& other) noexcept;
  GrowingFile& operator=(GrowingFile&& other) noexcept;

  void append(const void* bytes, std::size_t count);
  /// Counts what is still in the buffer.
  std::int64_t size() const { return written_ + std::int64_t(buffer_.size()); }
  /// Hands the buffer to the system; sync() also waits until the disk has it.
  void flush();
  void sync();
  /// Only what flush() has handed over.
  void read(std::int64_t offset, void* bytes, std::size_t count) const;

 private:
  GrowingFile(int fd, std::filesystem::path path);
  void write(const std::byte* from, std::size_t count);

  int fd_;
  std::filesystem::path path_;
  std::int64_t written_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace moe
