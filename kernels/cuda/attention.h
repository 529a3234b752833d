// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "kernels/backend.h"

struct CUstream_st;  // cudaStream_t points to it

namespace moe {

/// Attention on one stream of a device, as Backend::attention_forward and attention_backward have
/// it. Repeats to the bit.
class Attention {
 public:
  virtual ~Attention() = default;

  virtual void forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                       const Tensor& starts, const AttentionShape& shape) = 0;
  virtual void backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& starts, const AttentionShape& shape) = 0;
};

/// Own kernels for any shape and type: what faster ones are held against.
std::unique_ptr<Attention> plain_attention(CUstream_st* stream);

}  // namespace moe
