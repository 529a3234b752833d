// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "split/partition.h"

namespace moe {

/// What calibration text says about the layer that is split. Tensors that the construction did not
/// ask for (Construction::need) are undefined.
struct LayerCalibration {
  Tensor inputs;      // f32 [tokens, hidden]: what the FFN was given, after its norm
  Tensor importance;  // f64 [clusters, neurons]: split/importance.h, one row per routed expert
};

/// What a construction must produce, and from what.
struct SplitContext {
  std::int64_t layer = 0;
  std::uint64_t seed = 0;
  std::int64_t neurons = 0;
  std::vector<std::int64_t> sizes;                // neurons of each routed expert
  std::vector<std::int64_t> shared_sizes = {};    // and of each shared one
  const LayerCalibration* calibration = nullptr;  // what need() asked for

  std::int64_t experts() const { return std::int64_t(sizes.size()); }
};

/// The dense FFN weights of the layer being split: part "gate", "up" or "down" as a new f32
/// [neurons, hidden]. Read only when asked for.
using FfnWeights = std::function<Tensor(std::string_view part)>;

/// One layer's experts, and what the construction measured about them, by name.
struct LayerSplit {
  Partition partition;
  std::vector<std::pair<std::string, double>> measures;
};

/// What a construction wants to know of calibration text.
enum class CalibrationNeed : std::uint8_t {
  nothing,
  inputs,
  importance_by_document,  // clusters of documents: LLaMA-MoE v1
  importance_by_input,     // clusters of the layer's FFN inputs: LLaMA-MoE v2
};

/// A way to divide the FFN neurons of one layer among experts. It decides nothing else: gates and
/// output scales are made elsewhere. Results depend on the arguments alone, never on the number of
/// threads.
class Construction {
 public:
  virtual ~Construction() = default;
  virtual LayerSplit split(const SplitContext& context, const FfnWeights& weights) const = 0;
  virtual Coverage coverage() const { return Coverage::exact; }
  virtual CalibrationNeed need() const { return CalibrationNeed::nothing; }
  /// Whether it can make shared experts.
  virtual bool shares() const { return false; }
};

/// Options of all methods; each reads its own.
struct ConstructionOptions {
  std::string cluster_on = "up";  // clustering: the projection whose rows are compared
  int cluster_starts = 3;         // clustering: the best of so many runs is taken
};

/// Throws InputError for a method that does not exist or options that the method cannot use.
std::unique_ptr<Construction> make_construction(std::string_view method,
                                                const ConstructionOptions& options);

/// The names that make_construction takes.
std::vector<std::string> construction_names();

/// "random": every neuron equally likely to land in every expert (LLaMA-MoE v1's choice).
std::unique_ptr<Construction> make_random_construction(const ConstructionOptions& options);
/// "clustering": balanced k-means of the neurons' weights (split/clustering.h).
std::unique_ptr<Construction> make_clustering_construction(const ConstructionOptions& options);

}  // namespace moe
