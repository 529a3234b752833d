// SPDX-License-Identifier: Apache-2.0
#include "split/arms.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace moe {
namespace {

/// Experts of which every token visits all that are active, in one.
void prune(SplitOptions& o) {
  const ModelFolder dense(o.input);
  o.expert_size = active_neurons(dense.config().intermediate_size, o.experts, o.shared, o.top_k);
  o.experts = o.top_k = 1;
  o.shared = 0;
  o.method = "energy";
  o.gate = GateInit::zeros;
  o.weights = SplitWeights::unit;
}

/// As many active experts, none of them shared.
void share_none(SplitOptions& o) {
  o.experts += o.shared;
  o.top_k += o.shared;
  o.shared = 0;
}

void fit_gate(SplitOptions& o) {
  o.gate = GateInit::logistic;
  o.weights = SplitWeights::unit;
}

void cluster_gates(SplitOptions& o) {
  o.method = "clustering";
  o.construction.cluster_on = "gate";
  o.weights = SplitWeights::unit;
}

void take_markers(SplitOptions& o) {
  o.method = "cmoe";
  o.gate = GateInit::representative;
  o.weights = SplitWeights::unit;
}

void join(SplitOptions& o) {
  o.method = "joint";
  fit_gate(o);
}

void refit(SplitOptions& o) { o.refit = SplitRefit::down_and_bias; }

const std::vector<Arm> kArms = {
    {"pruned", "the neurons with the most energy, for every token", prune},
    {kNullArm, "the same, down projection and bias refitted: no routing at all",
     [](SplitOptions& o) { prune(o), refit(o); }},
    {"v1", "LLaMA-MoE v1: random experts, random gate, softmax times E / k",
     [](SplitOptions& o) {
       share_none(o);
       o.method = "random";
       o.gate = GateInit::mlp;
     }},
    {"v2", "LLaMA-MoE v2: importance to clusters of inputs, centres as gate, least-squares scale",
     [](SplitOptions& o) {
       o.method = "residual";
       o.construction.importance_from = "inputs";
       o.gate = GateInit::centers;
       o.scale = SplitScale::Rule::least_squares;
     }},
    {"moefication", "balanced k-means of gate rows, trained MLP gate, shared by energy",
     [](SplitOptions& o) {
       cluster_gates(o);
       o.gate = GateInit::select;
     }},
    {"cmoe", "CMoE: activation markers, one neuron of each expert as gate", take_markers},
    {"cmoe+refit", "the same with our refit", [](SplitOptions& o) { take_markers(o), refit(o); }},
    {"gate-variation", "after ExpertWeaver: steady gates shared, others clustered; our gate",
     [](SplitOptions& o) {
       o.method = "gate-variation";
       fit_gate(o);
     }},
    {"random+refit", "random experts, shared by energy, with our gate and refit",
     [](SplitOptions& o) {
       o.method = "random";
       fit_gate(o);
       refit(o);
     }},
    {"clusters+refit", "k-means of gate rows, shared by energy, with our gate and refit",
     [](SplitOptions& o) {
       cluster_gates(o);
       fit_gate(o);
       refit(o);
     }},
    {"joint", "neurons and gate found together, logistic gate", join},
    {kOwnArm, "the same, down projections and expert biases refitted",
     [](SplitOptions& o) { join(o), refit(o); }},
    {"joint+refit:stream", "the same, refitted towards the dense residual stream",
     [](SplitOptions& o) {
       join(o);
       refit(o);
       o.refit_to_dense_stream = true;
     }},
    {"joint+refit:routed", "the same without shared experts, as many active",
     [](SplitOptions& o) { share_none(o), join(o), refit(o); }},
    {"mixtral", "as Mixtral holds it: no shared experts, no biases, flat softmax",
     [](SplitOptions& o) {
       share_none(o);
       join(o);
       o.weights = SplitWeights::flat;
       o.refit = SplitRefit::down;
       o.format = ModelFormat::mixtral;
     }},
    {"mixtral:sharp", "the same with the gate's own softmax, times k",
     [](SplitOptions& o) {
       share_none(o);
       join(o);
       o.weights = SplitWeights::softmax;
       o.scale = double(o.top_k);
       o.refit = SplitRefit::down;
       o.format = ModelFormat::mixtral;
     }},
};

}  // namespace

std::int64_t active_neurons(std::int64_t neurons, std::int64_t experts, std::int64_t shared,
                            std::int64_t top_k) {
  const std::vector<std::int64_t> sizes = even_sizes(neurons, experts + shared);
  const std::int64_t of_shared =
      std::accumulate(sizes.begin(), sizes.begin() + shared, std::int64_t{0});
  return of_shared + ((neurons - of_shared) * top_k + experts - 1) / experts;
}

const std::vector<Arm>& all_arms() { return kArms; }

std::vector<Arm> arms_named(const std::vector<std::string>& names) {
  std::vector<Arm> arms;
  for (const std::string& name : names) {
    const auto found =
        std::find_if(kArms.begin(), kArms.end(), [&](const Arm& arm) { return arm.name == name; });
    if (found == kArms.end()) {
      std::vector<std::string> known;
      for (const Arm& arm : kArms) known.push_back(arm.name);
      throw InputError(
          str("there is no arm '", name, "': use all or some of ", moe::join(known, ", ")));
    }
    arms.push_back(*found);
  }
  return arms;
}

}  // namespace moe
