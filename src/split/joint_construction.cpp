// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/backend.h"
#include "split/activation_energy.h"
#include "split/balanced_assignment.h"
#include "split/clustering.h"
#include "split/construction.h"
#include "split/logistic_router.h"
#include "split/token_sums.h"

namespace moe {
namespace {

constexpr std::int64_t kProfileTokens = 4096;
constexpr int kIterations = 12;
constexpr double kRidge = 1e-3;

/// Whom the tokens are taken to choose while neurons look for their experts.
enum class Routing : std::uint8_t {
  best,        // the experts with the most energy for the token: an oracle
  energy,      // those that a linear gate predicts to have the most
  membership,  // those that a linear gate predicts to be the oracle's
};

/// What neurons say about some tokens, and to whom they go.
class Tokens {
 public:
  Tokens(Tensor inputs, const FfnMatrices& ffn)
      : inputs_(std::move(inputs)), energy_(activation_energy(inputs_, ffn)) {}

  const Tensor& inputs() const { return inputs_; }
  const Tensor& energy() const { return energy_; }

  /// Energy of each routed expert for each token, f32 [tokens, experts]; shared neurons have the
  /// label `experts`.
  Tensor by_expert(const std::vector<std::int32_t>& labels, std::int64_t experts) const {
    return sums_by_group(energy_, labels, experts);
  }

  /// The energy of each neuron on the tokens that chose each expert: f64 [experts, neurons].
  Tensor benefits(const Tensor& chosen, std::int64_t experts) const {
    return sums_by_choice(energy_, chosen, experts);
  }

 private:
  Tensor inputs_, energy_;
};

Tensor largest(const Tensor& scores, std::int64_t k) {
  Tensor values = Tensor::empty({scores.rows(), k}, DType::f32);
  Tensor indices = Tensor::empty({scores.rows(), k}, DType::i32);
  backend(Device::cpu).topk(values, indices, scores, {});
  return indices;
}

/// Neurons to shared and routed experts in one balanced assignment, in turn with the tokens'
/// choice, which a linear gate makes: so experts become what the gate can predict.
/// docs/splitting.md
class JointSearch {
 public:
  JointSearch(const SplitContext& context, const LayerCalibration& text, const FfnMatrices& ffn)
      : context_(context),
        world_(*text.world),
        experts_(context.experts()),
        calibration_(text.own, ffn),
        validation_(text.validation.defined() ? text.validation : text.own, ffn),
        regression_(text.own, kRidge, true, world_),
        sizes_(context.sizes) {
    shared_ =
        std::accumulate(context.shared_sizes.begin(), context.shared_sizes.end(), std::int64_t{0});
    if (shared_ > 0) sizes_.push_back(shared_);
    const auto total = [&](const Tokens& tokens) { return column_sums(tokens.energy(), world_); };
    energy_ = total(calibration_);
    const std::vector<double> held = total(validation_);
    validation_energy_ = std::accumulate(held.begin(), held.end(), 0.0);
  }

  LayerSplit find() {
    std::vector<std::int32_t> labels = clustered();
    LayerSplit result;
    best_ = labels;
    best_share_ = share(labels, regression_.ridge(roots(calibration_.by_expert(labels, experts_))));
    result.measures.emplace_back("energy_by_clusters", best_share_);
    for (const auto& [routing, name] :
         {std::pair(Routing::best, "energy_joint"), std::pair(Routing::energy, "energy_routed"),
          std::pair(Routing::membership, "energy_by_membership")}) {
      improve(routing);
      result.measures.emplace_back(name, best_share_);
    }
    result.partition = partition_of(best_);
    return result;
  }

 private:
  std::vector<std::int32_t> clustered() const {
    const SharedAndRest found = take_shared(by_score(energy_), context_.shared_sizes);
    const Tensor sample = sampled_rows(calibration_.energy(), kProfileTokens, world_);
    const Clustering clusters =
        balanced_kmeans(profiles(sample, found.rest), context_.sizes, context_.seed,
                        std::uint64_t(context_.layer), 1, ClusterMetric::cosine);
    std::vector<std::int32_t> labels(std::size_t(context_.neurons), std::int32_t(experts_));
    for (std::size_t i = 0; i < found.rest.size(); ++i)
      labels[std::size_t(found.rest[i])] = clusters.labels[i];
    return labels;
  }

  /// From the best labels so far until nothing moves. With a gate in the loop the share may fall,
  /// so the best of all is kept, not the last.
  void improve(Routing routing) {
    std::vector<std::int32_t> labels = best_;
    std::vector<std::int64_t> prices(sizes_.size(), 0);
    for (int i = 0; i < kIterations; ++i) {
      const Tensor by_expert = calibration_.by_expert(labels, experts_);
      const GateWeights gate =
          regression_.ridge(routing == Routing::membership ? best_experts(by_expert, context_.top_k)
                                                           : roots(by_expert));
      if (const double got = share(labels, gate); got > best_share_) {
        best_share_ = got;
        best_ = labels;
      }
      const Tensor scores =
          routing == Routing::best ? by_expert : gate_logits(gate, calibration_.inputs());
      std::vector<std::int32_t> next = assigned(largest(scores, context_.top_k), prices);
      if (next == labels) return;
      labels = std::move(next);
    }
  }

  std::vector<std::int32_t> assigned(const Tensor& chosen,
                                     std::vector<std::int64_t>& prices) const {
    Tensor benefit = calibration_.benefits(chosen, experts_);
    world_.all_reduce(benefit, ReduceOp::sum).wait();
    const double unit =
        0x1p40 / std::max(*std::max_element(energy_.begin(), energy_.end()), 1e-300);
    std::vector<std::int64_t> costs;
    costs.reserve(std::size_t(context_.neurons) * sizes_.size());
    for (std::int64_t n = 0; n < context_.neurons; ++n) {
      for (std::int64_t e = 0; e < experts_; ++e)
        costs.push_back(-std::llround(benefit.data<double>()[e * context_.neurons + n] * unit));
      if (shared_ > 0) costs.push_back(-std::llround(energy_[std::size_t(n)] * unit));
    }
    return balanced_assignment(costs, sizes_, prices);
  }

  /// The energy of what held-back tokens get, shared neurons and the experts that the gate chooses,
  /// over all energy.
  double share(const std::vector<std::int32_t>& labels, const GateWeights& gate) const {
    const Tensor by_group = sums_by_group(validation_.energy(), labels, experts_ + 1);
    const Tensor chosen = largest(gate_logits(gate, validation_.inputs()), context_.top_k);
    double got = parallel_sum(by_group.rows(), 64, [&](std::int64_t begin, std::int64_t end) {
      double sum = 0;
      for (std::int64_t t = begin; t < end; ++t) {
        const float* energy = by_group.data<float>() + t * by_group.cols();
        sum += double(energy[experts_]);
        for (std::int64_t j = 0; j < chosen.cols(); ++j)
          sum += double(energy[chosen.data<std::int32_t>()[t * chosen.cols() + j]]);
      }
      return sum;
    });
    Tensor total = Tensor::of<double>({1}, {got});
    world_.all_reduce(total, ReduceOp::sum).wait();
    return validation_energy_ > 0 ? total.data<double>()[0] / validation_energy_ : 1;
  }

  static Tensor roots(const Tensor& x) {
    const Tensor y = x.clone();
    for (std::int64_t i = 0; i < y.size(); ++i) y.data<float>()[i] = std::sqrt(y.data<float>()[i]);
    return y;
  }

  Partition partition_of(const std::vector<std::int32_t>& labels) const {
    Partition partition{NeuronSets{std::size_t(experts_)}, {}};
    std::vector<std::int64_t> shared;
    for (std::size_t n = 0; n < labels.size(); ++n)
      (labels[n] == experts_ ? shared : partition.experts[std::size_t(labels[n])])
          .push_back(std::int64_t(n));
    if (shared_ > 0) partition.shared = consecutive_sets(shared, context_.shared_sizes);
    return partition;
  }

  const SplitContext& context_;
  Communicator& world_;
  std::int64_t experts_, shared_ = 0;
  Tokens calibration_, validation_;
  GateRegression regression_;
  std::vector<std::int64_t> sizes_;  // of all bins: routed experts, then shared neurons
  std::vector<double> energy_;       // of each neuron on the calibration text
  double validation_energy_ = 0;
  std::vector<std::int32_t> best_;
  double best_share_ = 0;
};

class JointConstruction final : public Construction {
 public:
  CalibrationNeed need() const override { return CalibrationNeed::own_inputs; }
  bool shares() const override { return true; }

  LayerSplit split(const SplitContext& context, const FfnWeights& weights) const override {
    const FfnMatrices ffn{weights("gate"), weights("up"), weights("down")};
    return JointSearch(context, own_text(context, "joint"), ffn).find();
  }
};

}  // namespace

std::unique_ptr<Construction> make_joint_construction(const ConstructionOptions&) {
  return std::make_unique<JointConstruction>();
}

}  // namespace moe
