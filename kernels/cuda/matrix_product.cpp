// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"

namespace moe {
namespace {

/// `rows` rows of t, from its row `first` on.
MatrixView rows_of(const Tensor& t, std::int64_t first, std::int64_t rows,
                   bool transposed = false) {
  return {t.slice(first, rows).bytes(), rows, t.cols(), transposed};
}

/// The hidden activations of each expert as a matrix: [rows of e, neurons of e] from its offset on.
template <class F>
void each_expert(const ExpertGroups& groups, const Tensor& hidden, F&& f) {
  std::byte* at = hidden.bytes();
  for (std::int64_t e = 0; e < groups.experts(); ++e) {
    const std::int64_t rows = groups.rows_of(e), neurons = groups.neurons_of(e);
    f(groups.rows[std::size_t(e)], groups.neurons[std::size_t(e)], rows, neurons, at);
    at += std::size_t(rows * neurons) * size_of(hidden.dtype());
  }
}

}  // namespace

void CudaBackend::gemm(Tensor& c, const Tensor& a, bool transpose_a, const Tensor& b,
                       bool transpose_b, double beta) {
  products_->multiply(c.bytes(), c.dtype(), {a.bytes(), a.rows(), a.cols(), transpose_a},
                      {b.bytes(), b.rows(), b.cols(), transpose_b}, a.dtype(), beta);
}

void CudaBackend::grouped_gemm_up(Tensor& hidden, const Tensor& x, const Tensor& w,
                                  const ExpertGroups& groups) {
  if (grouped_ && grouped_->serves(x.dtype(), x.cols(), groups))
    return grouped_->up(hidden, x, w, groups);
  each_expert(groups, hidden, [&](auto row, auto neuron, auto rows, auto neurons, std::byte* h) {
    products_->multiply(h, hidden.dtype(), rows_of(x, row, rows), rows_of(w, neuron, neurons, true),
                        x.dtype(), 0);
  });
}

void CudaBackend::grouped_gemm_down(Tensor& y, const Tensor& hidden, const Tensor& w,
                                    const ExpertGroups& groups, double beta) {
  if (grouped_ && grouped_->serves(y.dtype(), y.cols(), groups))
    return grouped_->down(y, hidden, w, groups, beta);
  each_expert(groups, hidden, [&](auto row, auto neuron, auto rows, auto neurons, std::byte* h) {
    products_->multiply(y.slice(row, rows).bytes(), y.dtype(), {h, rows, neurons},
                        rows_of(w, neuron, neurons), w.dtype(), beta);
  });
}

void CudaBackend::grouped_gemm_weight(Tensor& dw, const Tensor& hidden, const Tensor& x,
                                      const ExpertGroups& groups, double beta) {
  if (grouped_ && grouped_->serves(x.dtype(), x.cols(), groups))
    return grouped_->weight(dw, hidden, x, groups, beta);
  each_expert(groups, hidden, [&](auto row, auto neuron, auto rows, auto neurons, std::byte* h) {
    products_->multiply(dw.slice(neuron, neurons).bytes(), dw.dtype(), {h, rows, neurons, true},
                        rows_of(x, row, rows), x.dtype(), beta);
  });
}

}  // namespace moe
