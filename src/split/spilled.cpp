// SPDX-License-Identifier: Apache-2.0
#include "split/spilled.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

#include "core/error.h"

namespace moe {

Tensor spilled(const Tensor& x) {
  const std::size_t bytes = x.nbytes();
  if (bytes == 0) return x;
  const std::filesystem::path folder = std::filesystem::temp_directory_path();
  std::string name = (folder / "moe-split-XXXXXX").string();
  const int file = mkstemp(name.data());
  MOE_CHECK(file >= 0, folder.string(), ": cannot make a temporary file: ", std::strerror(errno));
  unlink(name.c_str());
  // Room is taken now: a page that finds none later would end the process.
  const int full = posix_fallocate(file, 0, off_t(bytes));
  void* at =
      full == 0 ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  const int error = full == 0 ? errno : full;
  close(file);
  MOE_CHECK(at != MAP_FAILED, folder.string(), ": cannot hold ", bytes,
            " bytes of a refitted layer: ", std::strerror(error),
            ": name a folder with room in TMPDIR");
  const Tensor copy =
      Tensor::wrap(std::shared_ptr<std::byte>(static_cast<std::byte*>(at),
                                              [bytes](std::byte* p) { munmap(p, bytes); }),
                   x.shape(), x.dtype());
  std::memcpy(copy.bytes(), x.bytes(), bytes);
  return copy;
}

}  // namespace moe
