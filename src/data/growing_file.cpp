// SPDX-License-Identifier: Apache-2.0
#include "data/growing_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/write_fault.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBuffer = 1 << 20;

[[noreturn]] void fail(const fs::path& path, const char* what, int reason) {
  throw Error(str(path.string(), ": cannot be ", what, ": ", std::strerror(reason)));
}

}  // namespace

GrowingFile::GrowingFile(int fd, fs::path path) : fd_(fd), path_(std::move(path)) {
  buffer_.reserve(kBuffer);
}

GrowingFile GrowingFile::unnamed(const fs::path& folder) {
  std::string name = (folder / ".moe-data-XXXXXX").string();
  const int fd = ::mkstemp(name.data());
  MOE_REQUIRE(fd >= 0, folder.string(), ": cannot create a file there: ", std::strerror(errno));
  ::unlink(name.c_str());
  return GrowingFile(fd, str("a temporary file in ", folder.string()));
}

GrowingFile::GrowingFile(const fs::path& path, std::int64_t size)
    : GrowingFile(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666), path) {
  MOE_REQUIRE(fd_ >= 0, path.string(), ": cannot be opened: ", std::strerror(errno));
  const off_t there = ::lseek(fd_, 0, SEEK_END);
  MOE_REQUIRE(there >= size, path.string(), ": ", there, " bytes where ", size,
              " were written: it was changed by something else");
  if (::ftruncate(fd_, size) != 0 || ::lseek(fd_, size, SEEK_SET) != size)
    fail(path, "written", errno);
  written_ = size;
}

GrowingFile::~GrowingFile() {
  if (fd_ >= 0) ::close(fd_);
}

GrowingFile::GrowingFile(GrowingFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      written_(other.written_),
      buffer_(std::move(other.buffer_)) {}

GrowingFile& GrowingFile::operator=(GrowingFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(written_, other.written_);
  std::swap(buffer_, other.buffer_);
  return *this;
}

void GrowingFile::append(const void* bytes, std::size_t count) {
  if (buffer_.size() + count > kBuffer) flush();
  const auto* from = static_cast<const std::byte*>(bytes);
  if (count > kBuffer)
    write(from, count);
  else
    buffer_.insert(buffer_.end(), from, from + count);
}

void GrowingFile::flush() {
  write(buffer_.data(), buffer_.size());
  buffer_.clear();
}

void GrowingFile::sync() {
  flush();
  if (::fdatasync(fd_) != 0) fail(path_, "synced", errno);
}

void GrowingFile::read(std::int64_t offset, void* bytes, std::size_t count) const {
  auto* to = static_cast<std::byte*>(bytes);
  while (count > 0) {
    const ssize_t n = ::pread(fd_, to, count, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(path_, "read", n < 0 ? errno : EIO);
    to += n;
    offset += n;
    count -= std::size_t(n);
  }
}

void GrowingFile::write(const std::byte* from, std::size_t count) {
  if (const int planted = write_fault(path_); planted != 0) fail(path_, "written", planted);
  while (count > 0) {
    const ssize_t n = ::write(fd_, from, count);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(path_, "written", n < 0 ? errno : EIO);
    from += n;
    written_ += n;
    count -= std::size_t(n);
  }
}

}  // namespace moe
