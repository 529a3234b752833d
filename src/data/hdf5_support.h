// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hdf5.h>

#include <mutex>
#include <utility>

#include "core/error.h"

/// Throws Error when a call of libhdf5 fails (all of them say so with a negative result).
#define HDF5_CHECK(expr, ...)                                                               \
  [&] {                                                                                     \
    const auto result_ = (expr);                                                            \
    if (result_ < 0) ::moe::fail_check(__FILE__, __LINE__, #expr, ::moe::str(__VA_ARGS__)); \
    return result_;                                                                         \
  }()

namespace moe {

/// The serial libhdf5 is not thread-safe: whoever calls it holds this lock. Taking it the first
/// time also switches off libhdf5's own error printing and its file locks.
std::unique_lock<std::recursive_mutex> lock_hdf5();

/// An open object of libhdf5, closed at the end of the scope.
class Hdf5Handle {
 public:
  Hdf5Handle() = default;
  Hdf5Handle(hid_t id, herr_t (*closer)(hid_t)) : id_(id), close_(closer) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept
      : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }
  hid_t get() const { return id_; }

  /// Closes now and says whether that worked: closing a file is when its last bytes are written.
  bool close() { return close_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

}  // namespace moe
