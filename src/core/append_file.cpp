// SPDX-License-Identifier: Apache-2.0
#include "core/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/write_fault.h"

namespace moe {

AppendFile::AppendFile(const std::filesystem::path& file) : path_(file.string()) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) throw Error(str(path_, ": cannot be written: ", std::strerror(errno)));
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

void AppendFile::append(std::string_view record) {
  struct stat before = {};
  bool good = ::fstat(fd_, &before) == 0;
  if (const int fault = write_fault(path_); fault != 0) {
    errno = fault;
    good = false;
  }
  for (std::size_t done = 0; good && done < record.size();) {
    const ssize_t n = ::write(fd_, record.data() + done, record.size() - done);
    if (n < 0 && errno == EINTR) continue;
    good = n > 0;
    if (good) done += std::size_t(n);
  }
  if (good) return;
  const std::string reason = std::strerror(errno);
  const bool restored = ::ftruncate(fd_, before.st_size) == 0;
  throw Error(
      str(path_, ": cannot be written: ", reason, restored ? "" : " (its last record is torn)"));
}

}  // namespace moe
