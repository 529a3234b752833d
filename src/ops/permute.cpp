// SPDX-License-Identifier: Apache-2.0
#include "ops/permute.h"

#include <numeric>

#include "autograd/recipe.h"
#include "kernels/backend.h"

namespace moe::ops {

Permutation sort_by_expert(const Tensor& indices, std::int64_t experts, const Tensor& order) {
  Backend& device = backend(indices.device());
  Tensor counts = Tensor::empty({experts}, DType::i64, indices.device());
  Tensor row_to_slot = Tensor::empty({indices.size()}, DType::i32, indices.device());
  Permutation p;
  p.slot_to_row = empty_like(indices);
  device.sort_by_expert(counts, p.slot_to_row, row_to_slot, indices, order);
  const Tensor host = counts.to(Device::cpu);
  p.counts.assign(host.data<std::int64_t>(), host.data<std::int64_t>() + experts);
  p.row_to_slot =
      row_to_slot.slice(0, std::accumulate(p.counts.begin(), p.counts.end(), std::int64_t{0}));
  return p;
}

Variable dispatch(const Variable& x, const Permutation& p) {
  const Tensor& xv = x.value;
  MOE_CHECK(p.slot_to_row.rows() == xv.rows(), "dispatch: routing of ", p.slot_to_row.rows(),
            " tokens for ", xv.rows());
  Backend& device = backend(xv.device());
  Tensor rows = Tensor::empty({p.row_to_slot.size(), xv.cols()}, xv.dtype(), xv.device());
  device.gather_rows(rows, xv, p.row_to_slot, p.slot_to_row.cols());
  Variable result = record(
      "dispatch", {x}, rows,
      [&device, slot_to_row = p.slot_to_row, shape = xv.shape()](std::span<const Tensor> drows) {
        Tensor dx = Tensor::empty(shape, drows[0].dtype(), drows[0].device());
        device.combine_forward(dx, drows[0], Tensor(), slot_to_row, 1);
        return std::vector<Tensor>{dx};
      });
  if (x.recipe)
    result.recipe =
        std::make_shared<Recipe>([&device, kept = Kept(x), row_to_slot = p.row_to_slot,
                                  k = p.slot_to_row.cols(), shape = rows.shape()]() mutable {
          const Tensor from = kept.take();
          Tensor again = Tensor::empty(shape, from.dtype(), from.device());
          device.gather_rows(again, from, row_to_slot, k);
          return again;
        });
  return result;
}

Variable combine(const Variable& rows, const Variable& weights, const Permutation& p,
                 double factor) {
  const Tensor r = rows.value, w = weights.value;
  MOE_CHECK(r.rows() == p.row_to_slot.size() && w.shape() == p.slot_to_row.shape());
  Backend& device = backend(r.device());
  Tensor y = Tensor::empty({w.rows(), r.cols()}, r.dtype(), r.device());
  device.combine_forward(y, r, w, p.slot_to_row, factor);
  return record("combine", {rows, weights}, y,
                [&device, r, w, slot_to_row = p.slot_to_row, factor](std::span<const Tensor> dy) {
                  Tensor dr = empty_like(r), dw = empty_like(w);
                  device.combine_backward(dr, dw, dy[0], r, w, slot_to_row, factor);
                  return std::vector<Tensor>{dr, dw};
                });
}

}  // namespace moe::ops
