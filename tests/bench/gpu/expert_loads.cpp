// SPDX-License-Identifier: Apache-2.0
#include "expert_loads.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <numeric>
#include <sstream>
#include <tuple>

#include "core/error.h"

namespace moe {
namespace {

ExpertLoads normalised(ExpertLoads loads) {
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  for (double& load : loads) load /= total;
  return loads;
}

}  // namespace

ExpertLoads balanced_loads(std::int64_t experts) {
  return ExpertLoads(std::size_t(experts), 1.0 / double(experts));
}

ExpertLoads one_hot_load(std::int64_t experts, double factor) {
  const double hot = factor / double(experts);
  ExpertLoads loads(std::size_t(experts), (1 - hot) / double(experts - 1));
  loads[0] = hot;
  return loads;
}

ExpertLoads loads_of_trace(const std::string& file, std::int64_t experts) {
  std::ifstream in(file);
  MOE_REQUIRE(in, file, ": cannot be read");
  std::map<std::tuple<std::string, std::string, std::int64_t>, ExpertLoads> layers;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string model, domain, kind;
    std::int64_t layer = 0, expert = 0;
    double count = 0;
    if (!(words >> model >> domain >> kind >> layer >> expert >> count)) continue;
    if (kind != "expert_counts") continue;
    ExpertLoads& loads = layers[{model, domain, layer}];
    loads.resize(std::max(loads.size(), std::size_t(expert) + 1));
    loads[std::size_t(expert)] = count;
  }
  MOE_REQUIRE(!layers.empty(), file, ": no lines of expert_counts");
  ExpertLoads found;
  for (auto& [where, loads] : layers)
    if (found.empty() || skew(normalised(loads)) > skew(found)) found = normalised(loads);
  ExpertLoads result(static_cast<std::size_t>(experts));
  for (std::size_t e = 0; e < result.size(); ++e) result[e] = found[e % found.size()];
  return normalised(result);
}

double skew(const ExpertLoads& loads) {
  return *std::max_element(loads.begin(), loads.end()) * double(loads.size());
}

std::vector<std::int64_t> row_offsets(const ExpertLoads& loads, std::int64_t pairs) {
  std::vector<std::int64_t> rows = {0};
  double sum = 0;
  for (const double load : loads) {
    sum += load;
    rows.push_back(std::llround(sum * double(pairs)));
  }
  return rows;
}

}  // namespace moe
