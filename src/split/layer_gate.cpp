// SPDX-License-Identifier: Apache-2.0
#include "split/layer_gate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "kernels/backend.h"
#include "split/balanced_assignment.h"
#include "split/clustering.h"
#include "split/dense_layer.h"
#include "split/expert_sum.h"
#include "split/logistic_router.h"

namespace moe {
namespace {

constexpr double kRidge = 1e-3;
constexpr int kLogisticIterations = 60;
constexpr double kFlatSpread = 1.0 / 16;

}  // namespace

GateLogits representative_logits(const FfnMatrices& ffn,
                                 const std::vector<std::int64_t>& representatives) {
  const auto rows_of = [&](const Tensor& all) {
    Tensor rows = Tensor::empty({std::int64_t(representatives.size()), all.cols()}, DType::f32);
    for (std::size_t e = 0; e < representatives.size(); ++e)
      rows.slice(std::int64_t(e), 1).copy_from(all.slice(representatives[e], 1));
    normalise_rows(rows);
    return rows;
  };
  return [gate = rows_of(ffn.gate), up = rows_of(ffn.up)](const Tensor& inputs) {
    Tensor h = ffn_activations(inputs, gate, up);
    for (std::int64_t i = 0; i < h.size(); ++i) h.data<float>()[i] = std::fabs(h.data<float>()[i]);
    return h;
  };
}

TokenClustering matched_to_experts(const TokenClustering& found, const Tensor& inputs,
                                   const FfnMatrices& ffn, const NeuronSets& experts) {
  const auto n = std::int64_t(experts.size());
  const Tensor mass = activation_mass(inputs, ffn, experts);
  std::vector<double> share(std::size_t(n * n), 0.0);
  for (std::int64_t t = 0; t < mass.rows(); ++t) {
    const float* m = mass.data<float>() + t * n;
    const double all = std::accumulate(m, m + n, 1e-30);
    for (std::int64_t e = 0; e < n; ++e)
      share[std::size_t(found.labels[std::size_t(t)] * n + e)] += double(m[e]) / all;
  }
  const double largest = *std::max_element(share.begin(), share.end());
  std::vector<std::int64_t> costs, prices(std::size_t(n), 0);
  for (const double s : share) costs.push_back(-std::llround(s / largest * 0x1p30));
  const std::vector<std::int32_t> expert_of =
      balanced_assignment(costs, std::vector<std::int64_t>(std::size_t(n), 1), prices);
  TokenClustering ordered{empty_like(found.weight), empty_like(found.bias), {}};
  for (std::int64_t c = 0; c < n; ++c) {
    const std::int64_t e = expert_of[std::size_t(c)];
    ordered.weight.slice(e, 1).copy_from(found.weight.slice(c, 1));
    ordered.bias.slice(e, 1).copy_from(found.bias.slice(c, 1));
  }
  return ordered;
}

GateWeights fit_layer_gate(const Tensor& inputs, const FfnMatrices& ffn, const Partition& partition,
                           std::int64_t k, bool bias, Communicator& world) {
  const Tensor members = best_experts(ExpertSum(ffn, partition).norms(inputs), k);
  return GateRegression(inputs, kRidge, bias, world).logistic(members, kLogisticIterations);
}

void flatten_gate(GateWeights& gate, const Tensor& inputs, Communicator& world) {
  MOE_CHECK(gate.weight.defined(), "only a linear gate can be made flat");
  const Tensor logits = gate_logits(gate, inputs);
  Tensor widest = Tensor::zeros({1}, DType::f64);
  for (std::int64_t t = 0; t < logits.rows(); ++t) {
    const float* row = logits.data<float>() + t * logits.cols();
    const auto [least, most] = std::minmax_element(row, row + logits.cols());
    widest.data<double>()[0] = std::max(widest.data<double>()[0], double(*most) - double(*least));
  }
  world.all_reduce(widest, ReduceOp::max).wait();
  const double spread = widest.data<double>()[0];
  if (!(spread > kFlatSpread)) return;
  const double factor = std::exp2(std::floor(std::log2(kFlatSpread / spread)));
  backend(Device::cpu).scale(gate.weight, factor);
  if (gate.bias.defined()) backend(Device::cpu).scale(gate.bias, factor);
}

}  // namespace moe
