// SPDX-License-Identifier: Apache-2.0
#include "split/refit_layer.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "kernels/backend.h"
#include "split/down_refit.h"

namespace moe {
namespace {

constexpr std::int64_t kAdvisedTokensOfANeuron = 4;

TokenRouting rows_of(const TokenRouting& routing, std::int64_t first, std::int64_t count,
                     double scale) {
  Tensor weights = routing.weights.slice(first, count).clone();
  backend(Device::cpu).scale(weights, scale);
  return {routing.experts.slice(first, count), weights};
}

}  // namespace

double relative_error(const ExpertSum& experts, const RefitText& text, double scale,
                      Communicator& world) {
  const Tensor y = experts.output(text.inputs, text.routing, scale);
  const auto sum = [&](auto&& value) {
    return parallel_sum(y.size(), 1 << 16, [&](std::int64_t begin, std::int64_t end) {
      double total = 0;
      for (std::int64_t i = begin; i < end; ++i) total += value(i) * value(i);
      return total;
    });
  };
  const float *got = y.data<float>(), *want = text.targets.data<float>();
  Tensor sums = Tensor::of<double>(
      {2}, {sum([&](std::int64_t i) { return double(want[i]) - double(got[i]); }),
            sum([&](std::int64_t i) { return double(want[i]); })});
  world.all_reduce(sums, ReduceOp::sum).wait();
  const double* s = sums.data<double>();
  return s[1] > 0 ? std::sqrt(s[0] / s[1]) : 0;
}

LayerRefit refit_layer(const ExpertSum& experts, std::int64_t shared_neurons,
                       const RefitText& calibration, const RefitText& validation, double scale,
                       bool bias, const std::vector<double>& ridges, Communicator& world) {
  // The sums are larger than all that was before, and blocks of that size are in no cache.
  release_cached_memory();
  std::vector<std::int64_t> sizes;
  for (std::size_t e = 0; e + 1 < experts.offsets().size(); ++e)
    sizes.push_back(experts.offsets()[e + 1] - experts.offsets()[e]);
  DownRefitter refitter(sizes, shared_neurons, experts.down().cols(), bias);
  for (std::int64_t first = 0; first < calibration.inputs.rows(); first += kTextPart) {
    const std::int64_t n = std::min(kTextPart, calibration.inputs.rows() - first);
    refitter.add(experts.activations(calibration.inputs.slice(first, n)),
                 rows_of(calibration.routing, first, n, scale),
                 calibration.targets.slice(first, n));
  }
  refitter.add_ranks(world);
  release_cached_memory();

  LayerRefit result;
  result.error_before = result.error_after = relative_error(experts, validation, scale, world);
  if (refitter.rows() < experts.columns()) {
    result.note = str("no refit: ", refitter.rows(), " calibration tokens for ", experts.columns(),
                      " neurons (", kAdvisedTokensOfANeuron * experts.columns(), " are advised)");
    return result;
  }
  if (refitter.rows() < kAdvisedTokensOfANeuron * experts.columns())
    result.note = str(refitter.rows(), " calibration tokens for ", experts.columns(), " neurons (",
                      kAdvisedTokensOfANeuron * experts.columns(), " are advised)");
  std::int64_t dependent = -1;
  ExpertSum candidate = experts;
  for (const double ridge : ridges) {
    DownRefit fit = refitter.solve(ridge, experts.down(), &world);
    candidate.set_down(fit.down, fit.bias);
    const double error = relative_error(candidate, validation, scale, world);
    if (!(error < result.error_after)) continue;
    result.error_after = error;
    result.ridge = ridge;
    result.jitter = fit.jitter;
    result.error_of_fit = std::sqrt(fit.error);
    dependent = fit.dependent;
    result.down = std::move(fit.down);
    result.bias = std::move(fit.bias);
  }
  if (!result.down.defined()) {
    result.note = "no refit: none lowers the error on validation text";
  } else if (result.jitter > 0) {
    result.note +=
        str(result.note.empty() ? "" : "; ", "activations depend on each other, ",
            dependent < 0 ? str("first those for a bias")
                          : str("first those of neuron ", dependent, " in the experts' order"),
            ": solved with jitter");
  }
  return result;
}

}  // namespace moe
