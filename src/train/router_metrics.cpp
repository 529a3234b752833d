// SPDX-License-Identifier: Apache-2.0
#include "train/router_metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moe {
namespace {

/// Entropy in nats of a distribution given by shares of `total`.
template <class Number>
double entropy(const std::vector<Number>& shares, double total) {
  double sum = 0;
  for (const Number n : shares)
    if (n > 0) sum -= double(n) / total * std::log(double(n) / total);
  return sum;
}

}  // namespace

void describe_routing(const RoutingResult& r, RoutingMetrics& m) {
  if (r.loads.empty()) return;
  m.top_k = r.top_k;
  m.router_losses = {{"cv_squared", r.cv_squared}, {"switch", r.switch_top_k}, {"z", r.z}};
  m.dropped_tokens = r.dropped;
  for (std::size_t l = 0; l < r.loads.size(); ++l) {
    const std::vector<std::int64_t>& load = r.loads[l];
    const double pairs = double(std::accumulate(load.begin(), load.end(), std::int64_t{0}));
    if (pairs == 0) continue;  // a dense layer
    m.expert_load.push_back(load);
    const double most = double(*std::max_element(load.begin(), load.end()));
    m.load_max_over_mean.push_back(most * double(load.size()) / pairs);
    m.router_entropy.push_back(entropy(load, pairs));
    m.dead_experts.push_back(std::count(load.begin(), load.end(), 0));
    const std::vector<double>& p = r.probabilities[l];
    m.probability_entropy.push_back(entropy(p, std::accumulate(p.begin(), p.end(), 0.0)));
  }
}

}  // namespace moe
