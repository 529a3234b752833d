// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/memory.h"

namespace moe {

using Shape = std::vector<std::int64_t>;

/// A contiguous, row-major array on one device. Copying a Tensor shares its bytes; clone() copies
/// them. A default-constructed Tensor is undefined and stands for "none".
class Tensor {
 public:
  Tensor() = default;

  /// Contents are undefined.
  static Tensor empty(Shape shape, DType dtype, Device device = Device::cpu);
  static Tensor zeros(Shape shape, DType dtype, Device device = Device::cpu);
  /// Views bytes that `owner` keeps alive.
  static Tensor wrap(std::shared_ptr<std::byte> owner, Shape shape, DType dtype,
                     Device device = Device::cpu);
  /// Copies values to the CPU.
  template <class T>
  static Tensor of(Shape shape, const std::vector<T>& values) {
    Tensor t = empty(std::move(shape), dtype_of<T>);
    MOE_CHECK(t.size() == std::int64_t(values.size()), "a shape of ", join(t.shape()), " holds ",
              t.size(), " values, got ", values.size());
    std::copy(values.begin(), values.end(), t.data<T>());
    return t;
  }

  bool defined() const { return bytes_ != nullptr; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(std::size_t i) const { return shape_.at(i); }
  /// First dimension.
  std::int64_t rows() const { return shape_.at(0); }
  /// Product of all dimensions but the first.
  std::int64_t cols() const;
  std::int64_t size() const;
  std::size_t nbytes() const { return std::size_t(size()) * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  /// Throws Error when T is not the tensor's type. Mutable: a Tensor is a handle, like a pointer.
  template <class T>
  T* data() const {
    MOE_CHECK(dtype_of<T> == dtype_, "a ", name(dtype_), " tensor read as ", name(dtype_of<T>));
    return reinterpret_cast<T*>(bytes_.get());
  }
  std::byte* bytes() const { return bytes_.get(); }

  /// The same bytes under another shape of the same size.
  Tensor view(Shape shape) const;
  /// Rows [first, first + count) of the same bytes.
  Tensor slice(std::int64_t first, std::int64_t count) const;
  Tensor clone() const;
  /// This tensor where it is there already, else a copy.
  Tensor to(Device device) const;
  void copy_from(const Tensor& other) const;

 private:
  std::shared_ptr<std::byte> bytes_;
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_ = Device::cpu;
};

inline Tensor empty_like(const Tensor& t) {
  return Tensor::empty(t.shape(), t.dtype(), t.device());
}

}  // namespace moe
