// SPDX-License-Identifier: Apache-2.0
#include "split/activation_energy.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/backend.h"
#include "split/calibration.h"
#include "split/clustering.h"
#include "split/construction.h"
#include "split/dense_layer.h"
#include "split/expert_sum.h"

namespace moe {

Tensor activation_energy(const Tensor& inputs, const FfnMatrices& ffn) {
  const std::int64_t neurons = ffn.gate.rows();
  std::vector<float> length(std::size_t(neurons), 0);
  for (std::int64_t n = 0; n < neurons; ++n) {
    const float* d = ffn.down.data<float>() + n * ffn.down.cols();
    length[std::size_t(n)] =
        float(std::inner_product(d, d + ffn.down.cols(), d, 0.0, std::plus<>(),
                                 [](float a, float b) { return double(a) * double(b); }));
  }
  const Tensor energy = Tensor::empty({inputs.rows(), neurons}, DType::f32);
  for (std::int64_t first = 0; first < inputs.rows(); first += kTextPart) {
    const std::int64_t part = std::min(kTextPart, inputs.rows() - first);
    const Tensor h = ffn_activations(inputs.slice(first, part), ffn.gate, ffn.up);
    parallel_for(part, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t)
        for (std::int64_t n = 0; n < neurons; ++n) {
          const float a = h.data<float>()[t * neurons + n];
          energy.data<float>()[(first + t) * neurons + n] = a * a * length[std::size_t(n)];
        }
    });
  }
  return energy;
}

std::vector<double> column_sums(const Tensor& x, Communicator& world) {
  Tensor sums = Tensor::zeros({x.cols()}, DType::f64);
  parallel_for(x.cols(), 1024, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < x.rows(); ++t)
      for (std::int64_t c = begin; c < end; ++c)
        sums.data<double>()[c] += double(x.data<float>()[t * x.cols() + c]);
  });
  world.all_reduce(sums, ReduceOp::sum).wait();
  return {sums.data<double>(), sums.data<double>() + sums.size()};
}

std::vector<std::int64_t> by_score(const std::vector<double>& scores) {
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return scores[std::size_t(a)] > scores[std::size_t(b)];
  });
  return order;
}

Tensor profiles(const Tensor& x, const std::vector<std::int64_t>& neurons) {
  const auto count = std::int64_t(neurons.size());
  Tensor points = Tensor::empty({count, x.rows()}, DType::f32);
  parallel_for(count, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      float* p = points.data<float>() + i * x.rows();
      double mean = 0;
      for (std::int64_t t = 0; t < x.rows(); ++t) {
        p[t] = std::sqrt(x.data<float>()[t * x.cols() + neurons[std::size_t(i)]]);
        mean += double(p[t]) / double(x.rows());
      }
      for (std::int64_t t = 0; t < x.rows(); ++t) p[t] -= float(mean);
    }
  });
  normalise_rows(points);
  return points;
}

SharedAndRest take_shared(const std::vector<std::int64_t>& order,
                          const std::vector<std::int64_t>& shared_sizes) {
  const std::int64_t shared =
      std::accumulate(shared_sizes.begin(), shared_sizes.end(), std::int64_t{0});
  SharedAndRest result;
  result.shared = consecutive_sets({order.begin(), order.begin() + shared}, shared_sizes);
  result.rest.assign(order.begin() + shared, order.end());
  std::sort(result.rest.begin(), result.rest.end());
  return result;
}

NeuronSets sets_of(const std::vector<std::int64_t>& rest, const std::vector<std::int32_t>& labels,
                   std::int64_t experts) {
  NeuronSets sets{std::size_t(experts)};
  for (std::size_t i = 0; i < rest.size(); ++i) sets[std::size_t(labels[i])].push_back(rest[i]);
  return sets;
}

Tensor sampled_rows(const Tensor& x, std::int64_t rows, Communicator& world) {
  Tensor total = Tensor::of<std::int64_t>({1}, {x.rows()});
  world.all_reduce(total, ReduceOp::sum).wait();
  const std::int64_t all = total.data<std::int64_t>()[0];
  if (all <= rows) return gather_ranks(x, world);
  const std::int64_t own = rows * x.rows() / all;
  const Tensor part = Tensor::empty({own, x.cols()}, x.dtype());
  for (std::int64_t i = 0; i < own; ++i) part.slice(i, 1).copy_from(x.slice(i * x.rows() / own, 1));
  return gather_ranks(part, world);
}

}  // namespace moe
