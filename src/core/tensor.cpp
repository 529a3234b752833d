// SPDX-License-Identifier: Apache-2.0
#include "core/tensor.h"

#include <functional>
#include <numeric>

namespace moe {

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
  for (const std::int64_t n : shape) MOE_CHECK(n >= 0, "a tensor of shape ", join(shape));
  Tensor t;
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.device_ = device;
  t.bytes_ = allocate(device, t.nbytes());
  return t;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) {
  Tensor t = empty(std::move(shape), dtype, device);
  fill_zero(device, t.bytes(), t.nbytes());
  return t;
}

Tensor Tensor::wrap(std::shared_ptr<std::byte> owner, Shape shape, DType dtype, Device device) {
  Tensor t;
  t.bytes_ = std::move(owner);
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.device_ = device;
  return t;
}

std::int64_t Tensor::cols() const {
  MOE_CHECK(!shape_.empty(), "an undefined or scalar tensor has no columns");
  return std::accumulate(shape_.begin() + 1, shape_.end(), std::int64_t{1}, std::multiplies<>());
}

std::int64_t Tensor::size() const {
  return std::accumulate(shape_.begin(), shape_.end(), std::int64_t{1}, std::multiplies<>());
}

Tensor Tensor::view(Shape shape) const {
  Tensor t = *this;
  t.shape_ = std::move(shape);
  MOE_CHECK(t.size() == size(), "cannot view ", join(shape_), " as ", join(t.shape_));
  return t;
}

Tensor Tensor::slice(std::int64_t first, std::int64_t count) const {
  MOE_CHECK(first >= 0 && count >= 0 && first + count <= rows(), "rows ", first, " to ",
            first + count, " of ", rows());
  Tensor t = *this;
  t.shape_[0] = count;
  t.bytes_ = std::shared_ptr<std::byte>(
      bytes_, bytes_.get() + std::size_t(first * cols()) * size_of(dtype_));
  return t;
}

Tensor Tensor::clone() const {
  Tensor t = empty_like(*this);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Device device) const {
  if (device == device_) return *this;
  Tensor t = empty(shape_, dtype_, device);
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& other) const {
  MOE_CHECK(size() == other.size() && dtype_ == other.dtype_, "copy of ", join(other.shape_), " ",
            name(other.dtype_), " into ", join(shape_), " ", name(dtype_));
  moe::copy_bytes(device_, bytes(), other.device_, other.bytes(), nbytes());
}

}  // namespace moe
