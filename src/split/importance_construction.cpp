// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "split/assign_by_importance.h"
#include "split/construction.h"

namespace moe {

namespace {

double sum_at(const double* row, const std::vector<std::int64_t>& neurons) {
  double sum = 0;
  for (const std::int64_t n : neurons) sum += row[n];
  return sum;
}

/// How much of its cluster's importance the average expert holds, alone and with the shared ones,
/// and how many of the neurons no expert holds.
std::vector<std::pair<std::string, double>> measures_of(const Partition& partition,
                                                        const Tensor& scores) {
  double own = 0, shared = 0;
  for (std::size_t e = 0; e < partition.experts.size(); ++e) {
    const double* row = scores.data<double>() + std::int64_t(e) * scores.cols();
    const double total = std::accumulate(row, row + scores.cols(), 0.0);
    if (total == 0) continue;
    own += sum_at(row, partition.experts[e]) / total;
    for (const auto& set : partition.shared) shared += sum_at(row, set) / total;
  }
  std::vector<bool> used(std::size_t(scores.cols()), false);
  for (const NeuronSets* sets : {&partition.experts, &partition.shared})
    for (const std::int64_t n : concatenated(*sets)) used[std::size_t(n)] = true;
  const double experts = double(partition.experts.size());
  return {
      {"importance_own", own / experts},
      {"importance_own_and_shared", (own + shared) / experts},
      {"neurons_unused", double(std::count(used.begin(), used.end(), false))},
  };
}

/// The neurons of shared experts, and those then left to routed ones.
struct SharedChoice {
  NeuronSets sets;
  std::vector<bool> taken;
};

class ImportanceConstruction : public Construction {
 public:
  ImportanceConstruction(const char* name, const ConstructionOptions& options)
      : name_(name), options_(options) {
    MOE_REQUIRE(options.importance_from == "documents" || options.importance_from == "inputs",
                "there is no importance from '", options.importance_from,
                "': use documents or inputs");
    MOE_REQUIRE(options.shared_by == "score" || options.shared_by == "index",
                "shared neurons cannot be chosen by '", options.shared_by, "': use score or index");
  }

  CalibrationNeed need() const final {
    return options_.importance_from == "documents" ? CalibrationNeed::importance_by_document
                                                   : CalibrationNeed::importance_by_input;
  }

  LayerSplit split(const SplitContext& context, const FfnWeights&) const final {
    const Tensor scores = scores_of(context);
    LayerSplit result;
    result.partition =
        assign(options_.normalise_importance ? normalised_importance(scores) : scores, context);
    result.measures = measures_of(result.partition, scores);
    return result;
  }

 protected:
  virtual Partition assign(const Tensor& scores, const SplitContext& context) const = 0;

  SharedChoice choose_shared(const Tensor& scores, const SplitContext& context) const {
    const SharedBy order = options_.shared_by == "score" ? SharedBy::score : SharedBy::index;
    SharedChoice choice = {shared_by_votes(scores, context.sizes, context.shared_sizes, order),
                           std::vector<bool>(std::size_t(context.neurons), false)};
    for (const std::int64_t n : concatenated(choice.sets)) choice.taken[std::size_t(n)] = true;
    return choice;
  }

 private:
  Tensor scores_of(const SplitContext& context) const {
    const Tensor& all = required(context, &LayerCalibration::importance, name_);
    MOE_CHECK(all.cols() == context.neurons, "importance of ", all.cols(), " neurons, not of ",
              context.neurons);
    MOE_REQUIRE(all.rows() >= context.experts(), "layer ", context.layer, ": importance for ",
                all.rows(), " clusters of text, ", context.experts(),
                " experts need one cluster each");
    const Tensor scores = all.slice(0, context.experts());
    for (std::int64_t i = 0; i < scores.size(); ++i)
      MOE_REQUIRE(std::isfinite(scores.data<double>()[i]), "layer ", context.layer,
                  ": the importance of neuron ", i % context.neurons, " to cluster ",
                  i / context.neurons, " is ", scores.data<double>()[i]);
    return scores;
  }

  const char* name_;
  ConstructionOptions options_;
};

class GradientConstruction final : public ImportanceConstruction {
 public:
  explicit GradientConstruction(const ConstructionOptions& options)
      : ImportanceConstruction("gradient", options) {}

 private:
  Partition assign(const Tensor& scores, const SplitContext& context) const override {
    return {assign_disjoint(scores, context.sizes)};
  }
};

class SharingInnerConstruction final : public ImportanceConstruction {
 public:
  explicit SharingInnerConstruction(const ConstructionOptions& options)
      : ImportanceConstruction("sharing-inner", options) {}
  Coverage coverage() const override { return Coverage::any; }

 private:
  Partition assign(const Tensor& scores, const SplitContext& context) const override {
    return {top_neurons(scores, context.sizes)};
  }
};

class SharingInterConstruction final : public ImportanceConstruction {
 public:
  explicit SharingInterConstruction(const ConstructionOptions& options)
      : ImportanceConstruction("sharing-inter", options) {}
  Coverage coverage() const override { return Coverage::any; }
  bool shares() const override { return true; }

 private:
  Partition assign(const Tensor& scores, const SplitContext& context) const override {
    const SharedChoice shared = choose_shared(scores, context);
    return {top_neurons(scores, context.sizes, shared.taken), shared.sets};
  }
};

class ResidualConstruction final : public ImportanceConstruction {
 public:
  explicit ResidualConstruction(const ConstructionOptions& options)
      : ImportanceConstruction("residual", options) {}
  bool shares() const override { return true; }

 private:
  Partition assign(const Tensor& scores, const SplitContext& context) const override {
    const SharedChoice shared = choose_shared(scores, context);
    return {assign_disjoint(scores, context.sizes, shared.taken), shared.sets};
  }
};

}  // namespace

std::unique_ptr<Construction> make_gradient_construction(const ConstructionOptions& options) {
  return std::make_unique<GradientConstruction>(options);
}

std::unique_ptr<Construction> make_sharing_inner_construction(const ConstructionOptions& options) {
  return std::make_unique<SharingInnerConstruction>(options);
}

std::unique_ptr<Construction> make_sharing_inter_construction(const ConstructionOptions& options) {
  return std::make_unique<SharingInterConstruction>(options);
}

std::unique_ptr<Construction> make_residual_construction(const ConstructionOptions& options) {
  return std::make_unique<ResidualConstruction>(options);
}

}  // namespace moe
