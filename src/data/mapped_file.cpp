// SPDX-License-Identifier: Apache-2.0
#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace moe {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  MOE_REQUIRE(fd >= 0, path.string(), ": cannot open: ", std::strerror(errno));
  struct stat status {};
  void* mapped = MAP_FAILED;
  if (::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0)
    mapped = ::mmap(nullptr, std::size_t(status.st_size), PROT_READ, MAP_SHARED, fd, 0);
  ::close(fd);
  MOE_REQUIRE(S_ISREG(status.st_mode), path.string(), ": not a file");
  MOE_REQUIRE(status.st_size > 0, path.string(), ": the file is empty");
  MOE_REQUIRE(mapped != MAP_FAILED, path.string(), ": cannot map the file");
  bytes_ = static_cast<const std::byte*>(mapped);
  size_ = status.st_size;
}

MappedFile::~MappedFile() {
  if (bytes_ != nullptr) ::munmap(const_cast<std::byte*>(bytes_), std::size_t(size_));
}

}  // namespace moe
