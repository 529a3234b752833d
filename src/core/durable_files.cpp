// SPDX-License-Identifier: Apache-2.0
#include "core/durable_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "core/descriptor.h"
#include "core/error.h"
#include "core/write_fault.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& path, const char* what) {
  throw Error(str(path.string(), ": ", what, ": ", std::strerror(errno)));
}

}  // namespace

std::int64_t write_synced(const fs::path& path, std::string_view text) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (file.get() < 0) fail(path, "cannot be written");
  if ((errno = write_fault(path)) != 0) fail(path, "cannot be written");
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(file.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(path, "cannot be written");
    done += std::size_t(n);
  }
  if (::fsync(file.get()) != 0) fail(path, "cannot be synced");
  return std::int64_t(text.size());
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

}  // namespace moe
