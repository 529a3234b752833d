// SPDX-License-Identifier: Apache-2.0
#include "optim/gradients.h"

#include <algorithm>
#include <cmath>

#include "comm/watchdog.h"
#include "kernels/backend.h"

namespace moe {

GradientBuckets::GradientBuckets(ParameterStore& parameters, const BucketPlan& plan,
                                 const ProcessGrid& grid, DType transport)
    : parameters_(parameters),
      plan_(plan),
      grid_(grid),
      transport_(transport),
      gradients_(parameters.all().size()),
      waiting_(plan.buckets().size()),
      reductions_(plan.buckets().size()) {
  MemoryScope scope(MemoryKind::gradients);
  const DType acc = accumulator(parameters.dtype());
  MOE_CHECK(transport == acc || (transport == DType::bf16 && acc == DType::f32 && plan.sharded()),
            "gradients of ", name(acc), " sent as ", name(transport));
  // Zeros: what lies between parameters counts in sums over whole buckets.
  for (const Placement p : {Placement::replicated, Placement::expert})
    flat_[std::size_t(p)] = Tensor::zeros(parameters.flat(p).shape(), acc, parameters.device());
  for (std::size_t b = 0; b < plan.buckets().size(); ++b)
    for (const std::size_t i : plan.buckets()[b].parameters) {
      const Parameter& p = parameters.all()[i];
      const Tensor& value = p.variable.value;
      gradients_[i] =
          flat_[std::size_t(p.spec.placement)].slice(p.offset, value.size()).view(value.shape());
      p.variable.slot->storage = gradients_[i];
      p.variable.slot->on_ready = [this, b] { ready(b); };
    }
}

GradientBuckets::~GradientBuckets() {
  for (Parameter& p : parameters_.all())
    if (p.variable.slot) *p.variable.slot = {};
}

Tensor GradientBuckets::values(std::size_t bucket) const {
  const Bucket& b = plan_.buckets()[bucket];
  return flat_[std::size_t(b.placement)].slice(b.first, b.size);
}

Tensor GradientBuckets::own_values(std::size_t bucket) const {
  const Share own = plan_.own_part(plan_.buckets()[bucket]);
  return values(bucket).slice(own.first, own.count);
}

void GradientBuckets::begin_step() {
  for (Parameter& p : parameters_.all())
    if (p.variable.slot) p.variable.slot->grad = {};
  for (std::size_t b = 0; b < waiting_.size(); ++b)
    waiting_[b] = int(plan_.buckets()[b].parameters.size());
  next_to_send_ = 0;
  reducing_ = false;
}

void GradientBuckets::begin_last_micro_batch() { reducing_ = true; }

void GradientBuckets::ready(std::size_t bucket) {
  if (!reducing_) return;
  --waiting_[bucket];
  send_in_order();
  grid_.holders(Placement::replicated).progress();
}

void GradientBuckets::send_in_order() {
  for (; next_to_send_ < waiting_.size() && waiting_[next_to_send_] == 0; ++next_to_send_)
    send(next_to_send_);
}

void GradientBuckets::send(std::size_t bucket) {
  const Bucket& b = plan_.buckets()[bucket];
  for (const std::size_t i : b.parameters)
    if (!parameters_.all()[i].variable.slot->grad.defined())
      backend(gradients_[i].device()).fill(gradients_[i], 0);
  Communicator& group = grid_.holders(b.placement);
  if (group.size() == 1) return;
  Tensor sent = values(bucket);
  if (b.parts.empty()) {
    reductions_[bucket] = group.all_reduce(sent, ReduceOp::sum);
    return;
  }
  if (sent.dtype() != transport_) {
    const MemoryScope scope(MemoryKind::gradients);
    const Tensor whole = sent;
    sent = Tensor::empty(whole.shape(), transport_, whole.device());
    backend(sent.device()).cast(sent, whole);
  }
  reductions_[bucket] = group.reduce_scatter(own_values(bucket), sent, b.parts);
}

void GradientBuckets::finish() {
  set_phase("reduce gradients");
  std::fill(waiting_.begin(), waiting_.end(), 0);
  send_in_order();
  for (Pending& reduction : reductions_) reduction.wait();
  reducing_ = false;
}

void GradientBuckets::gather() {
  for (std::size_t b = 0; b < reductions_.size(); ++b) {
    const Bucket& bucket = plan_.buckets()[b];
    if (!bucket.parts.empty())
      reductions_[b] =
          grid_.holders(bucket.placement).all_gather(values(b), own_values(b), bucket.parts);
  }
  for (Pending& reduction : reductions_) reduction.wait();
}

double GradientBuckets::global_norm() const {
  // Squares of what no other rank of the world counts, and of what all ranks hold. The copies of an
  // expert that nobody shares out are counted on the first of its data group.
  const Device device = parameters_.device();
  Tensor own = Tensor::zeros({1}, DType::f64, device), common = own.clone();
  for (std::size_t b = 0; b < reductions_.size(); ++b) {
    const Bucket& bucket = plan_.buckets()[b];
    const bool everywhere = bucket.parts.empty() && bucket.placement == Placement::replicated;
    if (bucket.parts.empty() && !everywhere && grid_.holders(bucket.placement).rank() > 0) continue;
    const Tensor counted = own_values(b);
    backend(counted.device()).add_squared_norm(everywhere ? common : own, counted);
  }
  own = own.to(Device::cpu);
  grid_.holders(Placement::replicated).all_reduce(own, ReduceOp::sum).wait();
  return std::sqrt(*own.data<double>() + *common.to(Device::cpu).data<double>());
}

}  // namespace moe
