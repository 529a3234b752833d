// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"

// Methods that have no CUDA kernel yet.

namespace moe {
namespace {

[[noreturn]] void unfinished(const char* kernel) {
  throw Error(str("no CUDA kernel for ", kernel, " yet"));
}

}  // namespace

// loss
void CudaBackend::cross_entropy(Tensor&, Tensor&, const Tensor&, double) {
  unfinished("cross_entropy");
}

// routing
void CudaBackend::topk(Tensor&, Tensor&, const Tensor&, const Tensor&) { unfinished("topk"); }
void CudaBackend::leading_columns(Tensor&, const Tensor&) { unfinished("leading_columns"); }
void CudaBackend::drop_over_capacity(Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  unfinished("drop_over_capacity");
}
void CudaBackend::softmax_forward(Tensor&, const Tensor&) { unfinished("softmax_forward"); }
void CudaBackend::softmax_backward(Tensor&, const Tensor&, const Tensor&) {
  unfinished("softmax_backward");
}
void CudaBackend::router_weights_forward(Tensor&, const Tensor&, const Tensor&, RouterWeights) {
  unfinished("router_weights_forward");
}
void CudaBackend::router_weights_backward(Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                          const Tensor&, RouterWeights) {
  unfinished("router_weights_backward");
}
void CudaBackend::scatter_columns(Tensor&, const Tensor&, const Tensor&) {
  unfinished("scatter_columns");
}
void CudaBackend::gather_columns(Tensor&, const Tensor&, const Tensor&) {
  unfinished("gather_columns");
}
void CudaBackend::count_experts(Tensor&, const Tensor&) { unfinished("count_experts"); }
void CudaBackend::segment_sum(Tensor&, const Tensor&, const Tensor&) { unfinished("segment_sum"); }
void CudaBackend::segment_broadcast(Tensor&, const Tensor&, const Tensor&) {
  unfinished("segment_broadcast");
}
void CudaBackend::noisy_load_forward(Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                     const Tensor&, const Tensor&, bool) {
  unfinished("noisy_load_forward");
}
void CudaBackend::noisy_load_backward(Tensor&, Tensor&, Tensor&, const Tensor&, const Tensor&,
                                      const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                      bool) {
  unfinished("noisy_load_backward");
}
void CudaBackend::cv_squared_forward(Tensor&, const Tensor&, const Tensor&) {
  unfinished("cv_squared_forward");
}
void CudaBackend::cv_squared_backward(Tensor&, const Tensor&, const Tensor&) {
  unfinished("cv_squared_backward");
}
void CudaBackend::switch_loss_forward(Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  unfinished("switch_loss_forward");
}
void CudaBackend::switch_loss_backward(Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  unfinished("switch_loss_backward");
}
void CudaBackend::z_loss_forward(Tensor&, const Tensor&, const Tensor&, double) {
  unfinished("z_loss_forward");
}
void CudaBackend::z_loss_backward(Tensor&, const Tensor&, const Tensor&, double) {
  unfinished("z_loss_backward");
}

// permutation
void CudaBackend::sort_by_expert(Tensor&, Tensor&, Tensor&, const Tensor&, const Tensor&) {
  unfinished("sort_by_expert");
}
void CudaBackend::gather_rows(Tensor&, const Tensor&, const Tensor&, std::int64_t) {
  unfinished("gather_rows");
}
void CudaBackend::combine_forward(Tensor&, const Tensor&, const Tensor&, const Tensor&, double) {
  unfinished("combine_forward");
}
void CudaBackend::combine_backward(Tensor&, Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                   const Tensor&, double) {
  unfinished("combine_backward");
}

}  // namespace moe
