// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "core/error.h"
#include "data/checksum.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void fail(const fs::path& path, const char* what) {
  throw Error(str(path.string(), ": ", what, ": ", std::strerror(errno)));
}

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

void write_synced(const fs::path& path, const std::string& text) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (file.get() < 0) fail(path, "cannot be written");
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(file.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(path, "cannot be written");
    done += std::size_t(n);
  }
  if (::fsync(file.get()) != 0) fail(path, "cannot be synced");
}

void sync_path(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0 || ::fsync(file.get()) != 0) fail(path, "cannot be synced");
}

void rename_path(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail(to, "cannot be renamed to");
}

void exchange_paths(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) fail(to, "cannot be replaced");
  // File systems without an exchange (NFS): for a moment there is neither.
  const fs::path aside = from.string() + ".old";
  rename_path(to, aside);
  rename_path(from, to);
  rename_path(aside, from);
}

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

}  // namespace moe
