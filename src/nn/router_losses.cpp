// SPDX-License-Identifier: Apache-2.0
#include "nn/router_losses.h"

#include <numeric>

#include "ops/elementwise.h"
#include "ops/exchange.h"

namespace moe {
namespace {

/// The tokens that a balance loss looks at together, and what each such segment weighs.
class Segments {
 public:
  Segments(const ForwardContext& context, BalanceScope scope, Communicator& world)
      : context_(context),
        world_(world),
        whole_step_(scope == BalanceScope::step),
        tokens_(context.sequence_tokens.begin(), context.sequence_tokens.end()) {
    if (scope == BalanceScope::sequence) return;
    tokens_ = {std::accumulate(tokens_.begin(), tokens_.end(), 0.0)};
    if (!whole_step_) return;
    // Statistics of the whole step stand on every rank, so each rank counts 1/W of their loss.
    Tensor n = Tensor::of<double>({1}, tokens_);
    world.all_reduce(n, ReduceOp::sum).wait();
    tokens_[0] = *n.data<double>() / world.size();
  }

  std::int64_t number() const { return std::int64_t(tokens_.size()); }

  /// acc[segments, E]: sums over each segment's tokens.
  Variable sums(const Variable& per_token) const {
    const Variable s = ops::segment_sum(per_token, number(), context_.valid);
    return whole_step_ ? ops::all_reduce_sum(s, world_) : s;
  }

  /// i64[segments, E]: pairs of each expert.
  Tensor counts(const Tensor& indices, std::int64_t experts) const {
    Tensor c = Tensor::empty({number(), experts}, DType::i64, indices.device());
    backend(c.device()).count_experts(c, indices);
    if (whole_step_) world_.all_reduce(c, ReduceOp::sum).wait();
    return c;
  }

  /// acc[segments]: coefficient times each segment's share of the global batch's tokens.
  Tensor weights(double coefficient, const Tensor& like) const {
    std::vector<double> w = tokens_;
    for (double& v : w) v *= coefficient * context_.inverse_routed;
    Tensor t = Tensor::empty({number()}, like.dtype());
    backend(Device::cpu).cast(t, Tensor::of<double>({number()}, w));
    return t.to(like.device());
  }

 private:
  const ForwardContext& context_;
  Communicator& world_;
  bool whole_step_;
  std::vector<double> tokens_;  // of each segment
};

}  // namespace

Variable RouterLosses::total() const {
  Variable sum;
  for (const Variable* term : {&cv_squared, &switch_top_k, &z})
    if (term->value.defined()) sum = sum.value.defined() ? ops::add(sum, *term) : *term;
  return sum;
}

RouterLosses router_losses(const RouterScores& scores, const ops::Routing& routing,
                           const Variable& weights, bool smooth_load, const ForwardContext& context,
                           const RoutingContext& run, std::int64_t layer, Communicator& world) {
  const RouterOptions& want = run.options;
  const Tensor& logits = scores.noisy.value;
  const std::int64_t experts = logits.cols();
  const Segments segments(context, want.scope, world);
  RouterLosses losses;
  if (want.cv_squared > 0) {
    const Tensor segment_weights = segments.weights(want.cv_squared, logits);
    const Variable importance = ops::scatter_columns(weights, routing.indices, experts);
    Variable load;
    if (smooth_load) {
      load =
          ops::noisy_load(scores.clean, scores.noisy, scores.sigma, routing, want.v1_load_formula);
    } else {  // a count, which has no gradient
      Tensor ones = empty_like(weights.value);
      backend(ones.device()).fill(ones, 1);
      load = ops::scatter_columns(Variable::constant(ones), routing.indices, experts);
    }
    losses.cv_squared = ops::add(ops::cv_squared(segments.sums(importance), segment_weights),
                                 ops::cv_squared(segments.sums(load), segment_weights));
  }
  if (want.switch_top_k > 0) {
    const bool previous = want.scope == BalanceScope::global_batch;
    losses.switch_top_k = ops::switch_loss(
        segments.sums(scores.probabilities),
        previous ? run.previous_counts.slice(layer, 1) : segments.counts(routing.indices, experts),
        segments.weights(want.switch_top_k, logits));
  }
  if (want.z > 0)
    losses.z = ops::z_loss(scores.clean, context.valid, want.z * context.inverse_routed);
  return losses;
}

}  // namespace moe
