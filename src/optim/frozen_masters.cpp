// SPDX-License-Identifier: Apache-2.0
#include "optim/frozen_masters.h"

#include "kernels/backend.h"

namespace moe {

FrozenMasters::FrozenMasters(ParameterStore& parameters, const ProcessGrid& grid)
    : parameters_(parameters) {
  const MemoryScope scope(MemoryKind::optimizer);
  const DType acc = accumulator(parameters.dtype());
  for (std::size_t i = 0; i < parameters.all().size(); ++i) {
    const Parameter& p = parameters.all()[i];
    if (p.trained || !p.spec.trained) continue;
    const Communicator& copies = grid.holders(p.spec.placement);
    const Share share = share_of(p.rows(), copies.rank(), copies.size());
    Tensor value = p.variable.value.slice(share.first, share.count);
    if (value.dtype() != acc) value = Tensor::empty(value.shape(), acc);
    rows_.push_back({i, share.first, value});
  }
}

void FrozenMasters::load(const ParameterRows& rows) {
  for (const Rows& r : rows_) {
    const Parameter& p = parameters_.all()[r.parameter];
    if (r.value.dtype() == p.variable.value.dtype()) continue;
    const Tensor source = rows(p.name(), p.first_row + r.first, r.value.rows());
    Tensor kept = r.value;
    backend(Device::cpu).cast(kept, source.to(Device::cpu));
  }
}

}  // namespace moe
