// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "kernels/backend.h"

struct CUstream_st;  // cudaStream_t points to it

namespace moe {

/// Backend's products of experts in one launch for all of them. An object serves some shapes; the
/// others are a loop over experts.
class GroupedProducts {
 public:
  virtual ~GroupedProducts() = default;

  /// Whether it takes tokens of type T and rows of `width` numbers through these experts.
  virtual bool serves(DType type, std::int64_t width, const ExpertGroups& groups) const = 0;
  virtual void up(Tensor& hidden, const Tensor& x, const Tensor& w, const ExpertGroups& groups) = 0;
  virtual void down(Tensor& y, const Tensor& hidden, const Tensor& w, const ExpertGroups& groups,
                    double beta) = 0;
  virtual void weight(Tensor& dw, const Tensor& hidden, const Tensor& x, const ExpertGroups& groups,
                      double beta) = 0;
};

/// On the tensor cores of Hopper (compute capability 9.0): bf16, experts of equal size.
/// `processors`: those of the device, each of which takes a tile at a time.
std::unique_ptr<GroupedProducts> hopper_grouped_products(CUstream_st* stream, int processors);

}  // namespace moe
