// SPDX-License-Identifier: Apache-2.0
#include "optim/selection_bias.h"

#include <numeric>

#include "kernels/backend.h"

namespace moe {

void update_selection_bias(ParameterStore& parameters, const std::string& router,
                           const std::vector<std::vector<std::int64_t>>& loads, double rate) {
  for (std::size_t l = 0; l < loads.size(); ++l) {
    const std::vector<std::int64_t>& load = loads[l];
    const std::int64_t pairs = std::accumulate(load.begin(), load.end(), std::int64_t{0});
    if (pairs == 0) continue;
    std::vector<double> change;
    for (const std::int64_t n : load) {
      const std::int64_t below = pairs - n * std::int64_t(load.size());  // E (mean - n)
      change.push_back(below > 0 ? rate : below < 0 ? -rate : 0.0);
    }
    Tensor bias = parameters[str("layers.", l, ".", router, ".selection_bias")].value;
    backend(bias.device())
        .add_into(bias,
                  Tensor::of<double>({std::int64_t(change.size())}, change).to(bias.device()));
  }
}

}  // namespace moe
