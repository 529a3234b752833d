// SPDX-License-Identifier: Apache-2.0
#include "nn/moe_layer.h"

#include <numeric>

#include "autograd/recompute.h"
#include "comm/watchdog.h"
#include "ops/elementwise.h"
#include "ops/exchange.h"
#include "ops/experts.h"
#include "ops/permute.h"

namespace moe {
namespace {

using Counts = std::vector<std::int64_t>;

Counts offsets_of(const Counts& counts) {
  Counts offsets(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), offsets.begin() + 1);
  return offsets;
}

/// Tells every member how many rows it gets for each of its experts. counts: rows for each of all
/// experts, from this rank. Returns [member][own expert], flat.
Counts exchange_counts(const Counts& counts, std::int64_t own_experts, Communicator& group) {
  const auto experts = std::int64_t(counts.size());
  Counts send, recv(std::size_t(group.size()), own_experts);
  for (int p = 0; p < group.size(); ++p) send.push_back(share_of(experts, p, group.size()).count);
  Tensor out = Tensor::empty({own_experts * group.size(), 1}, DType::i64);
  group.all_to_all(out, recv, Tensor::of<std::int64_t>({experts, 1}, counts), send).wait();
  return {out.data<std::int64_t>(), out.data<std::int64_t>() + out.size()};
}

/// Rows arrive by member, each member's by expert; experts want theirs together. Returns the index
/// of the arriving row for every sorted row, and its inverse.
std::pair<Tensor, Tensor> group_by_expert(const Counts& arriving, int members, std::int64_t experts,
                                          Device device) {
  const Counts first = offsets_of(arriving);
  const std::int64_t rows = first.back();
  Tensor index = Tensor::empty({rows}, DType::i32), inverse = empty_like(index);
  std::int32_t at = 0;
  for (std::int64_t e = 0; e < experts; ++e)
    for (int p = 0; p < members; ++p) {
      const auto block = std::size_t(p * experts + e);
      for (std::int64_t i = first[block]; i < first[block + 1]; ++i, ++at) {
        index.data<std::int32_t>()[at] = std::int32_t(i);
        inverse.data<std::int32_t>()[i] = at;
      }
    }
  return {index.to(device), inverse.to(device)};
}

}  // namespace

DenseFfn::DenseFfn(const ParameterStore& parameters, std::int64_t layer)
    : gate_(parameters[str("layers.", layer, ".ffn.gate.weight")]),
      up_(parameters[str("layers.", layer, ".ffn.up.weight")]),
      down_(parameters[str("layers.", layer, ".ffn.down.weight")]) {}

FfnOutput DenseFfn::forward(const Variable& x) const {
  return {ops::expert_ffn(x, gate_, up_, down_, {0, x.value.rows()}, {0, gate_.value.rows()}), {}};
}

MoeLayer::MoeLayer(const ModelConfig& config, const ParameterStore& parameters, std::int64_t layer,
                   const ProcessGrid& grid)
    : layer_(layer),
      experts_(config.moe.experts),
      local_experts_(parameters.local_experts()),
      scale_(config.moe.score_scale.at(std::size_t(layer))),
      group_(grid.expert_group()),
      router_(config, parameters, layer, grid.world()),
      gate_(parameters[str("layers.", layer, ".experts.gate.weight")]),
      up_(parameters[str("layers.", layer, ".experts.up.weight")]),
      down_(parameters[str("layers.", layer, ".experts.down.weight")]) {
  const Counts sizes = config.layer_expert_sizes(layer);
  const auto own = sizes.begin() + parameters.first_expert();
  neuron_offsets_ = offsets_of(Counts(own, own + local_experts_));
  if (!config.layer_shared_sizes(layer).empty()) shared_.emplace(config, parameters, layer);
}

FfnOutput MoeLayer::forward(const Variable& x, const ForwardContext& context) const {
  const auto layer = std::int32_t(layer_);
  set_phase("route", layer);
  const RouterOutput routed = router_.forward(x, context);
  const ops::Permutation sorted = ops::sort_by_expert(routed.routing.indices, experts_);
  if (context.statistics != nullptr && !recomputing()) {
    Counts& total = (*context.statistics)[std::size_t(layer_)].tokens_per_expert;
    total.resize(std::size_t(experts_));
    for (std::size_t e = 0; e < total.size(); ++e) total[e] += sorted.counts[e];
  }
  const Variable rows = run_experts(ops::dispatch(x, sorted), sorted.counts);
  Variable y = ops::combine(rows, routed.weights, sorted, scale_);
  if (shared_) y = ops::add(y, shared_->forward(x));
  return {y, routed.loss};
}

Variable MoeLayer::run_experts(const Variable& sorted, const Counts& counts) const {
  const int members = group_.size();
  if (members == 1)
    return ops::expert_ffn(sorted, gate_, up_, down_, offsets_of(counts), neuron_offsets_);

  const auto layer = std::int32_t(layer_);
  set_phase("exchange counts", layer);
  const Counts arriving = exchange_counts(counts, local_experts_, group_);
  Counts send(std::size_t(members), 0), recv = send, rows(std::size_t(local_experts_), 0);
  for (int p = 0; p < members; ++p) {
    const Share share = share_of(experts_, p, members);
    for (std::int64_t e = share.first; e < share.first + share.count; ++e)
      send[std::size_t(p)] += counts[std::size_t(e)];
    for (std::int64_t e = 0; e < local_experts_; ++e) {
      recv[std::size_t(p)] += arriving[std::size_t(p * local_experts_ + e)];
      rows[std::size_t(e)] += arriving[std::size_t(p * local_experts_ + e)];
    }
  }
  set_phase("dispatch", layer);
  const Variable arrived = ops::all_to_all(sorted, send, recv, group_);
  set_phase("experts", layer);
  const auto [index, inverse] =
      group_by_expert(arriving, members, local_experts_, arrived.value.device());
  const Variable grouped = ops::permute_rows(arrived, index, inverse);
  const Variable y = ops::expert_ffn(grouped, gate_, up_, down_, offsets_of(rows), neuron_offsets_);
  set_phase("combine", layer);
  return ops::all_to_all(ops::permute_rows(y, inverse, index), recv, send, group_);
}

}  // namespace moe
