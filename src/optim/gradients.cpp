// SPDX-License-Identifier: Apache-2.0
#include "optim/gradients.h"

#include <algorithm>
#include <cmath>

#include "comm/watchdog.h"
#include "kernels/backend.h"

namespace moe {

GradientBuckets::GradientBuckets(ParameterStore& parameters, const ProcessGrid& grid,
                                 std::int64_t bucket_bytes)
    : parameters_(parameters), grid_(grid), gradients_(parameters.all().size()) {
  MemoryScope scope(MemoryKind::gradients);
  const DType acc = accumulator(parameters.dtype());
  const std::int64_t limit = bucket_bytes / std::int64_t(size_of(acc));
  // Elements that count for filling a bucket: of the largest share of any expert rank, so that
  // every rank closes its buckets at the same parameters.
  const auto counted = [&](const Parameter& p) {
    const auto& offsets = p.spec.expert_offsets;
    if (offsets.empty()) return p.variable.value.size();
    std::int64_t rows = 0;
    for (int r = 0; r < grid.ep(); ++r) {
      const Share share = share_of(std::int64_t(offsets.size()) - 1, r, grid.ep());
      rows = std::max(rows, offsets[std::size_t(share.first + share.count)] -
                                offsets[std::size_t(share.first)]);
    }
    return rows * p.spec.shape[1];
  };
  // One bucket of each placement is open at a time; a full one is closed, and buckets are numbered
  // by when they close.
  std::vector<Bucket> open(2);
  open[0].placement = Placement::replicated;
  open[1].placement = Placement::expert;
  std::int64_t filled[2] = {0, 0};
  const auto close = [&](std::size_t kind) {
    if (open[kind].parameters.empty()) return;
    std::int64_t size = 0;
    for (const std::size_t i : open[kind].parameters)
      size += parameters.all()[i].variable.value.size();
    open[kind].flat = Tensor::empty({size}, acc);
    buckets_.push_back(std::move(open[kind]));
    open[kind] = Bucket{buckets_.back().placement, {}, {}, 0, {}};
    filled[kind] = 0;
  };
  auto& all = parameters.all();
  for (std::size_t i = all.size(); i-- > 0;) {
    const auto kind = std::size_t(all[i].spec.placement == Placement::expert);
    open[kind].parameters.push_back(i);
    filled[kind] += counted(all[i]);
    if (filled[kind] >= limit) close(kind);
  }
  close(1);
  close(0);

  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    std::int64_t at = 0;
    for (const std::size_t i : buckets_[b].parameters) {
      const Variable& v = all[i].variable;
      gradients_[i] = buckets_[b].flat.slice(at, v.value.size()).view(v.value.shape());
      at += v.value.size();
      v.slot->storage = gradients_[i];
      v.slot->on_ready = [this, b] { ready(b); };
    }
  }
}

GradientBuckets::~GradientBuckets() {
  for (Parameter& p : parameters_.all()) *p.variable.slot = {};
}

Communicator& GradientBuckets::group_of(const Bucket& bucket) const {
  return bucket.placement == Placement::expert ? grid_.data_group() : grid_.world();
}

void GradientBuckets::begin_step() {
  for (Parameter& p : parameters_.all()) p.variable.slot->grad = {};
  for (Bucket& b : buckets_) b.waiting = int(b.parameters.size());
  next_to_send_ = 0;
  reducing_ = false;
}

void GradientBuckets::begin_last_micro_batch() { reducing_ = true; }

void GradientBuckets::ready(std::size_t bucket) {
  if (!reducing_) return;
  --buckets_[bucket].waiting;
  send_in_order();
  grid_.world().progress();
}

void GradientBuckets::send_in_order() {
  for (; next_to_send_ < buckets_.size() && buckets_[next_to_send_].waiting == 0; ++next_to_send_) {
    Bucket& b = buckets_[next_to_send_];
    for (const std::size_t i : b.parameters)
      if (!parameters_.all()[i].variable.slot->grad.defined())
        backend(gradients_[i].device()).fill(gradients_[i], 0);
    if (group_of(b).size() > 1) b.reduction = group_of(b).all_reduce(b.flat, ReduceOp::sum);
  }
}

void GradientBuckets::finish() {
  set_phase("reduce gradients");
  for (Bucket& b : buckets_) b.waiting = 0;
  send_in_order();
  for (Bucket& b : buckets_) b.reduction.wait();
  reducing_ = false;
}

double GradientBuckets::global_norm() const {
  Tensor replicated = Tensor::zeros({1}, DType::f64), expert = Tensor::zeros({1}, DType::f64);
  for (const Bucket& b : buckets_)
    backend(b.flat.device())
        .add_squared_norm(b.placement == Placement::expert ? expert : replicated, b.flat);
  if (grid_.ep() > 1) grid_.expert_group().all_reduce(expert, ReduceOp::sum).wait();
  return std::sqrt(*replicated.data<double>() + *expert.data<double>());
}

}  // namespace moe
