// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "kernels/backend.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/grouped_products.h"
#include "kernels/cuda/products.h"

namespace moe {

/// The device's kernels, spread over the .cu files of this folder by family. Every method puts its
/// kernels on one stream and returns: none waits for the device or copies from it. Scratch memory
/// comes from the device of the arguments. Sums are added in a fixed order, without atomics on
/// floats.
class CudaBackend final : public Backend {
 public:
  CudaBackend(std::unique_ptr<Products> products, std::unique_ptr<Attention> attention,
              CUstream_st* stream = nullptr, std::unique_ptr<GroupedProducts> grouped = nullptr)
      : products_(std::move(products)),
        attention_(std::move(attention)),
        grouped_(std::move(grouped)),
        stream_(stream) {}

  // elementwise
  void fill(Tensor& x, double value) override;
  void cast(Tensor& y, const Tensor& x) override;
  void add(Tensor& y, const Tensor& a, const Tensor& b) override;
  void add_into(Tensor& y, const Tensor& x) override;
  void scale(Tensor& x, double factor) override;
  void scale_by(Tensor& x, const Tensor& factor) override;
  void multiply_add(Tensor& y, const Tensor& a, const Tensor& b, const Tensor& c) override;
  void multiply(Tensor& y, const Tensor& a, const Tensor& b) override;
  void tanh_forward(Tensor& y, const Tensor& x) override;
  void tanh_backward(Tensor& dx, const Tensor& dy, const Tensor& y) override;
  void softplus_forward(Tensor& y, const Tensor& x, double offset) override;
  void softplus_backward(Tensor& dx, const Tensor& dy, const Tensor& x) override;
  void swiglu_forward(Tensor& y, const Tensor& gate, const Tensor& up) override;
  void swiglu_backward(Tensor& dgate, Tensor& dup, Tensor& y, const Tensor& dy, const Tensor& gate,
                       const Tensor& up) override;
  void normal(Tensor& x, std::span<const Philox> streams) override;
  void add_squared_norm(Tensor& out, const Tensor& x) override;
  void sum(Tensor& out, const Tensor& x) override;

  // matrix products
  void gemm(Tensor& c, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
            double beta) override;
  void grouped_gemm_up(Tensor& hidden, const Tensor& x, const Tensor& w,
                       const ExpertGroups& groups) override;
  void grouped_gemm_down(Tensor& y, const Tensor& hidden, const Tensor& w,
                         const ExpertGroups& groups, double beta) override;
  void grouped_gemm_weight(Tensor& dw, const Tensor& hidden, const Tensor& x,
                           const ExpertGroups& groups, double beta) override;

  // normalisation, positions, embedding, attention
  void rmsnorm_forward(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& w,
                       double eps) override;
  void rmsnorm_backward(Tensor& dx, Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                        const Tensor& rstd) override;
  void rope(Tensor& y, const Tensor& x, const Tensor& cos, const Tensor& sin,
            const Tensor& positions, std::int64_t heads, std::int64_t length,
            std::int64_t first_position, bool inverse) override;
  void embedding_forward(Tensor& y, const Tensor& table, const Tensor& ids) override;
  void embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) override;
  void attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& starts,
                         const AttentionShape& shape) override;
  void attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                          const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                          const Tensor& starts, const AttentionShape& shape) override;
  void segment_offsets(Tensor& offsets, const Tensor& counts) override;
  void attention_spans(Tensor& begin, Tensor& end, Tensor& positions, const Tensor& row_to_slot,
                       std::int64_t k, const Tensor& starts, std::int64_t length,
                       const Tensor& offsets) override;
  void span_attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                              const Tensor& v, const AttentionSpans& spans,
                              const SpanAttentionShape& shape) override;
  void span_attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                               const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                               const Tensor& lse, const AttentionSpans& spans,
                               const SpanAttentionShape& shape) override;

  // loss
  void cross_entropy(Tensor& loss, Tensor& logits, const Tensor& labels,
                     double gradient_scale) override;
  void distillation(Tensor& loss, Tensor& divergence, Tensor& logits, const Tensor& teacher,
                    const Tensor& labels, const DistillationStep& step) override;

  // routing
  void topk(Tensor& values, Tensor& indices, const Tensor& scores, const Tensor& valid) override;
  void leading_columns(Tensor& y, const Tensor& x) override;
  void drop_over_capacity(Tensor& kept, const Tensor& indices, const Tensor& weights,
                          const Tensor& capacities) override;
  void softmax_forward(Tensor& p, const Tensor& logits) override;
  void softmax_backward(Tensor& dlogits, const Tensor& dp, const Tensor& p) override;
  void router_weights_forward(Tensor& weights, const Tensor& logits, const Tensor& indices,
                              RouterWeights form) override;
  void router_weights_backward(Tensor& dlogits, const Tensor& dweights, const Tensor& weights,
                               const Tensor& logits, const Tensor& indices,
                               RouterWeights form) override;
  void scatter_columns(Tensor& dense, const Tensor& weights, const Tensor& indices) override;
  void gather_columns(Tensor& weights, const Tensor& dense, const Tensor& indices) override;
  void count_experts(Tensor& counts, const Tensor& indices) override;
  void segment_sum(Tensor& sums, const Tensor& x, const Tensor& valid) override;
  void segment_broadcast(Tensor& dx, const Tensor& dsums, const Tensor& valid) override;
  void noisy_load_forward(Tensor& load, const Tensor& clean, const Tensor& noisy,
                          const Tensor& sigma, const Tensor& top_values, const Tensor& top_indices,
                          bool compatible) override;
  void noisy_load_backward(Tensor& dclean, Tensor& dnoisy, Tensor& dsigma, const Tensor& dload,
                           const Tensor& clean, const Tensor& noisy, const Tensor& sigma,
                           const Tensor& top_values, const Tensor& top_indices,
                           bool compatible) override;
  void cv_squared_forward(Tensor& loss, const Tensor& x, const Tensor& segment_weights) override;
  void cv_squared_backward(Tensor& dx, const Tensor& x, const Tensor& segment_weights) override;
  void switch_loss_forward(Tensor& loss, const Tensor& p, const Tensor& counts,
                           const Tensor& segment_weights) override;
  void switch_loss_backward(Tensor& dp, const Tensor& p, const Tensor& counts,
                            const Tensor& segment_weights) override;
  void z_loss_forward(Tensor& loss, const Tensor& logits, const Tensor& valid,
                      double factor) override;
  void z_loss_backward(Tensor& dlogits, const Tensor& logits, const Tensor& valid,
                       double factor) override;

  // permutation
  void sort_by_expert(Tensor& counts, Tensor& slot_to_row, Tensor& row_to_slot,
                      const Tensor& indices, const Tensor& order) override;
  void gather_rows(Tensor& y, const Tensor& x, const Tensor& index, std::int64_t divisor) override;
  void combine_forward(Tensor& y, const Tensor& rows, const Tensor& weights,
                       const Tensor& slot_to_row, double factor) override;
  void combine_backward(Tensor& drows, Tensor& dweights, const Tensor& dy, const Tensor& rows,
                        const Tensor& weights, const Tensor& slot_to_row, double factor) override;

  // optimiser
  void adamw(Tensor& weight, Tensor& master, Tensor& m, Tensor& v, const Tensor& gradient,
             const AdamWStep& step) override;

 private:
  std::unique_ptr<Products> products_;
  std::unique_ptr<Attention> attention_;
  std::unique_ptr<GroupedProducts> grouped_;  // none: always the loop over experts
  CUstream_st* stream_;
};

}  // namespace moe
