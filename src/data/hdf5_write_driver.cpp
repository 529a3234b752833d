// SPDX-License-Identifier: Apache-2.0
#include "data/hdf5_write_driver.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "core/write_fault.h"

namespace moe {
namespace {

struct DriverSettings {
  int* failure;
};

/// The public part comes first: libhdf5 sees only that.
struct OpenFile {
  H5FD_t base;
  int fd;
  int* failure;
  int planted;  // errno that a drill wants writes to fail with; 0: none
  haddr_t allocated, written;
};

OpenFile* self(H5FD_t* file) { return reinterpret_cast<OpenFile*>(file); }
const OpenFile* self(const H5FD_t* file) { return reinterpret_cast<const OpenFile*>(file); }

H5FD_t* open_file(const char* name, unsigned flags, hid_t access, haddr_t) {
  const auto* settings = static_cast<const DriverSettings*>(H5Pget_driver_info(access));
  if (settings == nullptr || (flags & H5F_ACC_TRUNC) == 0) return nullptr;
  const int fd = ::open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) {
    *settings->failure = errno;
    return nullptr;
  }
  auto file = std::make_unique<OpenFile>();
  file->fd = fd;
  file->failure = settings->failure;
  file->planted = write_fault(name);
  return reinterpret_cast<H5FD_t*>(file.release());
}

herr_t close_file(H5FD_t* base) {
  const std::unique_ptr<OpenFile> file(self(base));
  if (::close(file->fd) != 0 && *file->failure == 0) *file->failure = errno;
  return 0;
}

herr_t query(const H5FD_t*, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_AGGREGATE_SMALLDATA;
  return 0;
}

haddr_t end_of_allocation(const H5FD_t* file, H5FD_mem_t) { return self(file)->allocated; }
herr_t set_end_of_allocation(H5FD_t* file, H5FD_mem_t, haddr_t address) {
  self(file)->allocated = address;
  return 0;
}
haddr_t end_of_file(const H5FD_t* file, H5FD_mem_t) { return self(file)->written; }

herr_t read_bytes(H5FD_t* base, H5FD_mem_t, hid_t, haddr_t address, size_t count, void* to) {
  auto* at = static_cast<char*>(to);
  while (count > 0) {
    const ssize_t n = ::pread(self(base)->fd, at, count, off_t(address));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) {  // beyond the end
      std::memset(at, 0, count);
      return 0;
    }
    at += n;
    address += haddr_t(n);
    count -= size_t(n);
  }
  return 0;
}

herr_t write_bytes(H5FD_t* base, H5FD_mem_t, hid_t, haddr_t address, size_t count,
                   const void* from) {
  OpenFile* file = self(base);
  file->written = std::max<haddr_t>(file->written, address + count);
  if (file->planted != 0 && *file->failure == 0) *file->failure = file->planted;
  const auto* at = static_cast<const char*>(from);
  while (count > 0 && *file->failure == 0) {
    const ssize_t n = ::pwrite(file->fd, at, count, off_t(address));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      *file->failure = n < 0 ? errno : EIO;
      break;
    }
    at += n;
    address += haddr_t(n);
    count -= size_t(n);
  }
  return 0;
}

herr_t truncate_file(H5FD_t* base, hid_t, hbool_t) {
  OpenFile* file = self(base);
  if (file->allocated == file->written) return 0;
  if (*file->failure == 0 && ::ftruncate(file->fd, off_t(file->allocated)) != 0)
    *file->failure = errno;
  file->written = file->allocated;
  return 0;
}

/// Registered once and never taken back: it costs nothing, and libhdf5 cleans up at exit.
hid_t driver() {
  static const hid_t id = [] {
    static H5FD_class_t c = {};
    c.name = "moe-write";
    c.maxaddr = (haddr_t{1} << 62) - 1;
    c.fc_degree = H5F_CLOSE_STRONG;
    c.fapl_size = sizeof(DriverSettings);
    c.open = open_file;
    c.close = close_file;
    c.query = query;
    c.get_eoa = end_of_allocation;
    c.set_eoa = set_end_of_allocation;
    c.get_eof = end_of_file;
    c.read = read_bytes;
    c.write = write_bytes;
    c.truncate = truncate_file;
    const H5FD_mem_t by_kind[] = H5FD_FLMAP_DICHOTOMY;
    std::copy(std::begin(by_kind), std::end(by_kind), std::begin(c.fl_map));
    return HDF5_CHECK(H5FDregister(&c), "registering a file driver");
  }();
  return id;
}

Hdf5Handle access_through_driver(int* failure) {
  Hdf5Handle access(HDF5_CHECK(H5Pcreate(H5P_FILE_ACCESS)), H5Pclose);
  const DriverSettings settings{failure};
  HDF5_CHECK(H5Pset_driver(access.get(), driver(), &settings));
  // Metadata stays in memory until the end, so that dropped bytes are never read back.
  H5AC_cache_config_t cache;
  cache.version = H5AC__CURR_CACHE_CONFIG_VERSION;
  HDF5_CHECK(H5Pget_mdc_config(access.get(), &cache));
  cache.evictions_enabled = false;
  cache.incr_mode = H5C_incr__off;
  cache.flash_incr_mode = H5C_flash_incr__off;
  cache.decr_mode = H5C_decr__off;
  HDF5_CHECK(H5Pset_mdc_config(access.get(), &cache));
  return access;
}

}  // namespace

Hdf5WriteFile::Hdf5WriteFile(const std::filesystem::path& path) : path_(path.string()) {
  const Hdf5Handle access = access_through_driver(&failure_);
  const hid_t id = H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get());
  if (id >= 0) file_ = Hdf5Handle(id, H5Fclose);
  check();
  MOE_CHECK(id >= 0, path_, ": libhdf5 cannot create the file");
}

void Hdf5WriteFile::check() const {
  if (failure_ != 0) throw Error(str(path_, ": cannot be written: ", std::strerror(failure_)));
}

void Hdf5WriteFile::finish() {
  const bool closed = file_.close();
  check();
  MOE_CHECK(closed, path_, ": libhdf5 cannot close the file");
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || ::fsync(fd) != 0) failure_ = errno;
  if (fd >= 0) ::close(fd);
  check();
}

}  // namespace moe
