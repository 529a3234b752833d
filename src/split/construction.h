// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "core/tensor.h"
#include "split/partition.h"

namespace moe {

/// What calibration text says about the layer that is split. Tensors that the construction did not
/// ask for (Construction::need) are undefined.
struct LayerCalibration {
  Tensor inputs = {};      // f32 [tokens, hidden]: what the FFN was given, after its norm
  Tensor importance = {};  // f64 [clusters, neurons]: split/importance.h, one row per routed expert
  Tensor own = {};         // f32 [this rank's tokens, hidden]
  Tensor validation = {};  // the same of validation text, where there is any
  Communicator* world = nullptr;  // who has the others' tokens; splitting is then collective
};

/// What a construction must produce, and from what.
struct SplitContext {
  std::int64_t layer = 0;
  std::uint64_t seed = 0;
  std::int64_t neurons = 0;
  std::vector<std::int64_t> sizes;                // neurons of each routed expert
  std::vector<std::int64_t> shared_sizes = {};    // and of each shared one
  const LayerCalibration* calibration = nullptr;  // what need() asked for
  std::int64_t top_k = 1;                         // routed experts that a token will choose

  std::int64_t experts() const { return std::int64_t(sizes.size()); }
};

/// The dense FFN weights of the layer being split: part "gate", "up" or "down" as a new f32
/// [neurons, hidden]. Read only when asked for.
using FfnWeights = std::function<Tensor(std::string_view part)>;

/// One layer's experts, and what the construction measured about them, by name.
struct LayerSplit {
  Partition partition;
  std::vector<std::pair<std::string, double>> measures;
  /// For a gate that asks one neuron of each routed expert (GateInit::representative); empty: none.
  std::vector<std::int64_t> representatives = {};
};

/// What a construction wants to know of calibration text.
enum class CalibrationNeed : std::uint8_t {
  nothing,
  inputs,
  own_inputs,              // each rank its own tokens' and validation text
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
  /// The sizes that it makes of `experts` routed experts when nobody asks for others. Throws
  /// InputError when so many experts cannot be made of so many neurons.
  virtual std::vector<std::int64_t> sizes(std::int64_t neurons, std::int64_t experts) const {
    return even_sizes(neurons, experts);
  }
  /// The factor on the experts' weighted sum, whose weights add up to 1, that keeps the magnitude
  /// of the dense FFN's output. For parts of an FFN it is LLaMA-MoE's choice, a rule of thumb:
  /// experts / top_k. For copies it is known: see make_copy_construction.
  virtual double natural_scale(std::int64_t experts, std::int64_t top_k) const {
    return double(experts) / double(top_k);
  }
};

/// Options of all methods; each reads its own.
struct ConstructionOptions {
  std::string cluster_on = "up";      // clustering: the projection whose rows are compared
  std::string cluster_metric = "l2";  // clustering: "l2" or "cosine" (split/clustering.h)
  int cluster_starts = 3;             // clustering: the best of so many runs is taken

  // gradient, sharing-inner, sharing-inter and residual:
  std::string importance_from = "documents";  // clusters of "documents" or of FFN "inputs"
  bool normalise_importance = false;  // divide scores by their cluster's mean before all else
  // sharing-inter and residual: who comes first among neurons with as many votes: those with the
  // larger "score" (summed over the clusters) or, as LLaMA-MoE does, the lower "index".
  std::string shared_by = "score";

  std::int64_t copy_granularity = 1;  // copy: slices that the FFN is cut into
};

/// Throws InputError for a method that does not exist or options that the method cannot use.
std::unique_ptr<Construction> make_construction(std::string_view method,
                                                const ConstructionOptions& options);

/// The names that make_construction takes.
std::vector<std::string> construction_names();

/// "random": every neuron equally likely to land in every expert (LLaMA-MoE v1's choice).
std::unique_ptr<Construction> make_random_construction(const ConstructionOptions& options);
/// "sequential": expert after expert takes the next neurons (what LLaMA-MoE v2 calls random).
std::unique_ptr<Construction> make_sequential_construction(const ConstructionOptions& options);
/// "clustering": balanced k-means of the neurons' weights (split/clustering.h).
std::unique_ptr<Construction> make_clustering_construction(const ConstructionOptions& options);
/// "coactivation": neurons that fire on the same tokens share an expert (split/coactivation.h).
std::unique_ptr<Construction> make_coactivation_construction(const ConstructionOptions& options);

// Importance of neurons to clusters of text (split/assign_by_importance.h); row e of the scores is
// expert e's, further rows are not read:

/// "gradient": every neuron in one expert, the largest scores choosing first (LLaMA-MoE v1's
/// gradient-independent split, v2's vanilla one).
std::unique_ptr<Construction> make_gradient_construction(const ConstructionOptions& options);
/// "sharing-inner": every expert takes its own most important neurons, whoever else has them; some
/// neurons may be in no expert. Sizes are free.
std::unique_ptr<Construction> make_sharing_inner_construction(const ConstructionOptions& options);
/// "sharing-inter": shared experts take the neurons that most clusters vote for, then every routed
/// expert its own most important of the rest.
std::unique_ptr<Construction> make_sharing_inter_construction(const ConstructionOptions& options);
/// "residual": shared experts as in sharing-inter, then the rest as in gradient.
std::unique_ptr<Construction> make_residual_construction(const ConstructionOptions& options);

// From what neurons say about each token (split/activation_energy.h):

/// "joint": shared and routed neurons in one balanced assignment, in turn with the choice that a
/// linear gate would make; the best by validation text.
std::unique_ptr<Construction> make_joint_construction(const ConstructionOptions& options);
/// "energy": the neurons with the most energy, the rest is left out. With one expert static
/// pruning.
std::unique_ptr<Construction> make_energy_construction(const ConstructionOptions& options);
/// "cmoe": CMoE's binary markers, one balanced assignment to the most frequent of them.
std::unique_ptr<Construction> make_marker_construction(const ConstructionOptions& options);
/// "gate-variation": steady gates are shared, the others clustered (after ExpertWeaver).
std::unique_ptr<Construction> make_gate_variation_construction(const ConstructionOptions& options);

/// Gives a construction that makes no shared experts such of the neurons with the most energy. The
/// context then needs own inputs.
std::unique_ptr<Construction> share_by_energy(std::unique_ptr<Construction> construction);

/// "copy": upcycling (Komatsuzaki et al. 2022). The FFN is cut into G = copy_granularity
/// consecutive slices, as even as can be, and expert e is a copy of slice e mod G; the number of
/// experts must be a multiple of G. Its natural scale is G, whatever k: when the k chosen experts,
/// each weighing 1 / k, hold every slice k / G times, their sum is 1 / G of the dense output.
std::unique_ptr<Construction> make_copy_construction(const ConstructionOptions& options);

// For constructions:

/// What `method` asked for; throws InputError when the context does not have it.
const Tensor& required(const SplitContext& context, Tensor LayerCalibration::*what,
                       std::string_view method);
/// The text of a method that works on each rank's own tokens; throws InputError without it.
const LayerCalibration& own_text(const SplitContext& context, std::string_view method);
/// Consecutive parts of an order of neurons, sorted within each part.
NeuronSets consecutive_sets(const std::vector<std::int64_t>& order,
                            const std::vector<std::int64_t>& sizes);

}  // namespace moe
