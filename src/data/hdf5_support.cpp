// SPDX-License-Identifier: Apache-2.0
#include "data/hdf5_support.h"

#include <cstdlib>

namespace moe {

std::unique_lock<std::recursive_mutex> lock_hdf5() {
  static std::recursive_mutex mutex;
  std::unique_lock lock(mutex);
  static const bool ready = [] {
    // Read by libhdf5 when it opens a file. Locks fail on many network file systems.
    setenv("HDF5_USE_FILE_LOCKING", "FALSE", 1);
    return H5open() >= 0 && H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  }();
  MOE_CHECK(ready, "libhdf5 does not start");
  return lock;
}

}  // namespace moe
