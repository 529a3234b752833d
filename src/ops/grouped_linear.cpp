// SPDX-License-Identifier: Apache-2.0
#include "ops/grouped_linear.h"

#include "autograd/recipe.h"
#include "kernels/backend.h"

namespace moe::ops {
namespace {

// Experts of the same size as ExpertGroups, which reads the vectors of others.
struct EqualExperts {
  EqualExperts(const std::vector<std::int64_t>& row_offsets, std::int64_t columns)
      : rows(row_offsets) {
    for (std::size_t e = 0; e < rows.size(); ++e) neurons.push_back(std::int64_t(e) * columns);
  }
  ExpertGroups groups() const { return {rows, neurons}; }
  std::vector<std::int64_t> rows, neurons = {};
};

EqualExperts checked(const char* what, const Tensor& x, const Tensor& w,
                     const std::vector<std::int64_t>& row_offsets) {
  const std::int64_t experts = std::int64_t(row_offsets.size()) - 1;
  MOE_CHECK(experts > 0 && row_offsets.back() == x.rows(), what, ": ", experts, " experts, ",
            row_offsets.empty() ? 0 : row_offsets.back(), " rows by the offsets, ", x.rows(),
            " given");
  MOE_CHECK(w.rows() % experts == 0, what, ": weight ", join(w.shape()), " for ", experts,
            " experts");
  return {row_offsets, w.rows() / experts};
}

}  // namespace

Variable grouped_up(const Variable& x, const Variable& w,
                    const std::vector<std::int64_t>& row_offsets) {
  const Tensor& xv = x.value;
  const Tensor wv = w.value;
  EqualExperts experts = checked("grouped_up", xv, wv, row_offsets);
  MOE_CHECK(wv.cols() == xv.cols(), "grouped_up: weight ", join(wv.shape()), " for input ",
            join(xv.shape()));
  Backend& device = backend(xv.device());
  Tensor y = Tensor::empty({xv.rows(), experts.neurons[1]}, xv.dtype(), xv.device());
  device.grouped_gemm_up(y, xv, wv, experts.groups());
  return record(
      "grouped_up", {x, w}, y,
      [&device, kept = Kept(x), wv, experts = std::move(experts), wants_dx = x.wants_gradient(),
       wants_dw = w.wants_gradient()](std::span<const Tensor> dy) mutable {
        const Tensor input = kept.take();
        Tensor dx, dw;
        if (wants_dx) {
          dx = empty_like(input);
          device.grouped_gemm_down(dx, dy[0], wv, experts.groups(), 0);
        }
        if (wants_dw) {
          dw = Tensor::empty(wv.shape(), accumulator(wv.dtype()), wv.device());
          device.grouped_gemm_weight(dw, dy[0], input, experts.groups(), 0);
        }
        return std::vector<Tensor>{dx, dw};
      });
}

Variable grouped_down(const Variable& x, const Variable& w,
                      const std::vector<std::int64_t>& row_offsets) {
  const Tensor& xv = x.value;
  const Tensor wv = w.value;
  EqualExperts experts = checked("grouped_down", xv, wv, row_offsets);
  MOE_CHECK(experts.neurons[1] == xv.cols(), "grouped_down: weight ", join(wv.shape()),
            " for input ", join(xv.shape()));
  Backend& device = backend(xv.device());
  Tensor y = Tensor::empty({xv.rows(), wv.cols()}, xv.dtype(), xv.device());
  device.grouped_gemm_down(y, xv, wv, experts.groups(), 0);
  return record(
      "grouped_down", {x, w}, y,
      [&device, kept = Kept(x), wv, experts = std::move(experts), wants_dx = x.wants_gradient(),
       wants_dw = w.wants_gradient()](std::span<const Tensor> dy) mutable {
        const Tensor input = kept.take();
        Tensor dx, dw;
        if (wants_dx) {
          dx = empty_like(input);
          device.grouped_gemm_up(dx, dy[0], wv, experts.groups());
        }
        if (wants_dw) {
          dw = Tensor::empty(wv.shape(), accumulator(wv.dtype()), wv.device());
          device.grouped_gemm_weight(dw, input, dy[0], experts.groups(), 0);
        }
        return std::vector<Tensor>{dx, dw};
      });
}

}  // namespace moe::ops
