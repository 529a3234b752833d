// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention.h"

#include "kernels/cuda/cuda_backend.h"

namespace moe {

void CudaBackend::attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                    const Tensor& v, const Tensor& starts,
                                    const AttentionShape& shape) {
  attention_->forward(out, lse, q, k, v, starts, shape);
}

void CudaBackend::attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                                     const Tensor& q, const Tensor& k, const Tensor& v,
                                     const Tensor& out, const Tensor& lse, const Tensor& starts,
                                     const AttentionShape& shape) {
  attention_->backward(dq, dk, dv, dout, q, k, v, out, lse, starts, shape);
}

}  // namespace moe
