// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <vector>

#include "core/descriptor.h"
#include "core/error.h"
#include "data/checksum.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kChunkBytes = 16 << 20;

void read_pieces(const fs::path& path, const std::function<void(const char*, std::size_t)>& take) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  MOE_REQUIRE(file.get() >= 0, path.string(), ": cannot be read: ", std::strerror(errno));
  // read() and not mmap: a disk that fails is then an error and not a signal.
  std::vector<char> buffer(std::size_t{1} << 22);
  for (;;) {
    const ssize_t n = ::read(file.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    MOE_REQUIRE(n >= 0, path.string(), ": cannot be read: ", std::strerror(errno));
    if (n == 0) return;
    take(buffer.data(), std::size_t(n));
  }
}

}  // namespace

FileDigest digest_of(const fs::path& path) {
  Checksum sum;
  FileDigest digest;
  read_pieces(path, [&](const char* bytes, std::size_t count) {
    sum.update(bytes, count);
    digest.bytes += std::int64_t(count);
  });
  digest.checksum = sum.value();
  return digest;
}

std::string read_text(const fs::path& path) {
  std::string text;
  read_pieces(path, [&](const char* bytes, std::size_t count) { text.append(bytes, count); });
  return text;
}

std::int64_t rows_at_once(const Shape& shape, DType dtype) {
  auto row_bytes = std::int64_t(size_of(dtype));
  for (std::size_t d = 1; d < shape.size(); ++d) row_bytes *= shape[d];
  return std::max<std::int64_t>(1, kChunkBytes / std::max<std::int64_t>(1, row_bytes));
}

}  // namespace moe
