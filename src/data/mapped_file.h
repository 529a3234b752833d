// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <utility>

namespace moe {

/// A file's bytes, mapped for reading.
class MappedFile {
 public:
  /// Throws InputError when the file cannot be opened or is empty.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept
      : bytes_(std::exchange(other.bytes_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&&) = delete;

  const std::byte* bytes() const { return bytes_; }
  std::int64_t size() const { return size_; }

 private:
  const std::byte* bytes_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace moe
