// SPDX-License-Identifier: Apache-2.0
#include "split/coactivation.h"

#include <metis.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "kernels/backend.h"

namespace moe {

namespace {

constexpr std::int64_t kTokens = 1024;  // of which activations are held at a time
constexpr std::int64_t kTileRows = 256;
constexpr std::int64_t kRowGrain = 64;
constexpr std::int64_t kTokenGrain = 64;
constexpr std::int64_t kNeighbours = 64;
constexpr double kTotalWeight = 1 << 29;  // METIS adds weights up in 32 bits
constexpr double kLeastGain = 1e-6;       // of an exchange; a token's weights add up to at most n

/// Calls body(first, count) for tiles of the rows of an [n, ...] product. Each tile is multiplied
/// by one thread: how a product is shared among threads decides its rounding.
template <class Body>
void for_row_tiles(std::int64_t n, Body&& body) {
  parallel_for(n, kTileRows,
               [&](std::int64_t begin, std::int64_t end) { body(begin, end - begin); });
}

/// |h| of some tokens, each scaled to length 1: f32 [neurons, tokens].
Tensor firing(const Tensor& inputs, const Tensor& gate, const Tensor& up) {
  Backend& cpu = backend(Device::cpu);
  const std::int64_t neurons = gate.rows(), tokens = inputs.rows();
  Tensor h = Tensor::empty({neurons, tokens}, DType::f32);
  for_row_tiles(neurons, [&](std::int64_t first, std::int64_t count) {
    Tensor gated = Tensor::empty({count, tokens}, DType::f32), ups = empty_like(gated);
    cpu.gemm(gated, gate.slice(first, count), false, inputs, true, 0);
    cpu.gemm(ups, up.slice(first, count), false, inputs, true, 0);
    Tensor rows = h.slice(first, count);
    cpu.swiglu_forward(rows, gated, ups);
  });
  float* values = h.data<float>();
  std::vector<double> squares(std::size_t(tokens), 0.0);
  parallel_for(tokens, kTokenGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = 0; n < neurons; ++n)
      for (std::int64_t t = begin; t < end; ++t) {
        const double v = double(values[n * tokens + t]);
        squares[std::size_t(t)] += v * v;
      }
    for (std::int64_t n = 0; n < neurons; ++n)
      for (std::int64_t t = begin; t < end; ++t) {
        const double square = squares[std::size_t(t)];
        float& v = values[n * tokens + t];
        v = square > 0 ? float(std::abs(double(v)) / std::sqrt(square)) : 0.0f;
      }
  });
  for (const double square : squares)
    MOE_REQUIRE(std::isfinite(square),
                "the FFN's activations on the calibration text are not finite");
  return h;
}

/// The strongest edges, as METIS wants them: no edge from a neuron to itself, each one listed at
/// both its ends.
struct Graph {
  std::vector<idx_t> first = {0};  // of each neuron's edges
  std::vector<idx_t> to, weight;
};

/// An edge is kept when it is among the kNeighbours strongest of either end.
std::vector<std::vector<idx_t>> strongest(const Tensor& weights) {
  const std::int64_t n = weights.rows(), keep = std::min(kNeighbours, n - 1);
  std::vector<std::vector<idx_t>> kept(static_cast<std::size_t>(n));
  parallel_for(n, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<idx_t> order;
    for (std::int64_t i = begin; i < end; ++i) {
      const float* row = weights.data<float>() + i * n;
      order.clear();
      for (std::int64_t j = 0; j < n; ++j)
        if (j != i && row[j] > 0) order.push_back(idx_t(j));
      const auto last = order.begin() + std::min(keep, std::int64_t(order.size()));
      std::nth_element(order.begin(), last, order.end(), [&](idx_t a, idx_t b) {
        return row[a] != row[b] ? row[a] > row[b] : a < b;
      });
      kept[std::size_t(i)].assign(order.begin(), last);
    }
  });
  std::vector<std::vector<idx_t>> both = kept;
  for (std::size_t i = 0; i < kept.size(); ++i)
    for (const idx_t j : kept[i]) both[std::size_t(j)].push_back(idx_t(i));
  for (std::vector<idx_t>& list : both) {
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
  }
  return both;
}

Graph strong_graph(const Tensor& weights) {
  const auto neighbours = strongest(weights);
  const auto weight = [&](std::size_t i, idx_t j) {
    return double(weights.data<float>()[std::int64_t(i) * weights.rows() + j]);
  };
  double total = 0;
  for (std::size_t i = 0; i < neighbours.size(); ++i)
    for (const idx_t j : neighbours[i]) total += weight(i, j);
  Graph graph;
  for (std::size_t i = 0; i < neighbours.size(); ++i) {
    for (const idx_t j : neighbours[i]) {
      graph.to.push_back(j);
      graph.weight.push_back(
          std::max(idx_t{1}, idx_t(std::lround(weight(i, j) / total * kTotalWeight))));
    }
    graph.first.push_back(idx_t(graph.to.size()));
  }
  return graph;
}

/// METIS' parts of about the sizes given.
std::vector<std::int32_t> metis_parts(Graph graph, const std::vector<std::int64_t>& sizes,
                                      std::uint64_t seed) {
  idx_t neurons = idx_t(graph.first.size()) - 1, constraints = 1, parts = idx_t(sizes.size()), cut;
  std::vector<real_t> targets;
  for (const std::int64_t size : sizes) targets.push_back(real_t(size) / real_t(neurons));
  idx_t options[METIS_NOPTIONS];
  METIS_SetDefaultOptions(options);
  options[METIS_OPTION_SEED] =
      idx_t(Philox(seed, RandomPurpose::split).below(0, std::numeric_limits<idx_t>::max()));
  options[METIS_OPTION_UFACTOR] = 1;  // parts at most 0.1 % too large
  std::vector<idx_t> labels(std::size_t(neurons), 0);
  // Not METIS_PartGraphKway: METIS 5.1 divides by zero there in graphs with few vertices.
  const int status = METIS_PartGraphRecursive(
      &neurons, &constraints, graph.first.data(), graph.to.data(), nullptr, nullptr,
      graph.weight.data(), &parts, targets.data(), nullptr, options, &cut, labels.data());
  MOE_CHECK(status == METIS_OK, "METIS returned ", status);
  return {labels.begin(), labels.end()};
}

/// Neurons in parts, and the weight between every neuron and every part.
class Parts {
 public:
  Parts(const Tensor& weights, std::vector<std::int32_t>& labels, std::int64_t parts)
      : weights_(weights), labels_(labels), parts_(parts) {
    sums_.assign(std::size_t(neurons() * parts), 0.0);
    parallel_for(neurons(), kRowGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        for (std::int64_t j = 0; j < neurons(); ++j)
          sums_[std::size_t(i * parts_ + part_of(j))] += weight(i, j);
    });
  }

  std::int64_t neurons() const { return weights_.rows(); }
  std::int64_t parts() const { return parts_; }
  std::int64_t part_of(std::int64_t i) const { return labels_[std::size_t(i)]; }
  double weight(std::int64_t i, std::int64_t j) const {
    return double(weights_.data<float>()[i * neurons() + j]);
  }
  /// What the weight within parts grows by when neuron i moves to part p.
  double gain(std::int64_t i, std::int64_t p) const {
    return sums_[std::size_t(i * parts_ + p)] - sums_[std::size_t(i * parts_ + part_of(i))];
  }
  void move(std::int64_t i, std::int64_t p) {
    const std::int64_t from = part_of(i);
    for (std::int64_t j = 0; j < neurons(); ++j) {
      sums_[std::size_t(j * parts_ + from)] -= weight(i, j);
      sums_[std::size_t(j * parts_ + p)] += weight(i, j);
    }
    labels_[std::size_t(i)] = std::int32_t(p);
  }

 private:
  const Tensor& weights_;
  std::vector<std::int32_t>& labels_;
  std::int64_t parts_;
  std::vector<double> sums_;
};

std::vector<std::int64_t> by_descending_size(const std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> order(sizes.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return sizes[std::size_t(a)] > sizes[std::size_t(b)];
  });
  return order;
}

/// Renames parts so that the largest gets the name of the largest size, and so on.
void match_sizes(std::vector<std::int32_t>& labels, const std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> found(sizes.size(), 0), names(sizes.size());
  for (const std::int32_t p : labels) ++found[std::size_t(p)];
  const auto from = by_descending_size(found), to = by_descending_size(sizes);
  for (std::size_t rank = 0; rank < from.size(); ++rank) names[std::size_t(from[rank])] = to[rank];
  for (std::int32_t& p : labels) p = std::int32_t(names[std::size_t(p)]);
}

}  // namespace

Tensor coactivation(const Tensor& inputs, const Tensor& gate, const Tensor& up) {
  const std::int64_t neurons = gate.rows();
  MOE_CHECK(inputs.cols() == gate.cols() && gate.shape() == up.shape(), "inputs ",
            join(inputs.shape()), ", gate ", join(gate.shape()), ", up ", join(up.shape()));
  Backend& cpu = backend(Device::cpu);
  Tensor weights = Tensor::zeros({neurons, neurons}, DType::f32);
  for (std::int64_t t = 0; t < inputs.rows(); t += kTokens) {
    const Tensor h = firing(inputs.slice(t, std::min(kTokens, inputs.rows() - t)), gate, up);
    for_row_tiles(neurons, [&](std::int64_t first, std::int64_t count) {
      Tensor rows = weights.slice(first, count);
      cpu.gemm(rows, h.slice(first, count), false, h, true, 1);
    });
  }
  // A product and its transpose may be rounded differently.
  float* w = weights.data<float>();
  parallel_for(neurons, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t j = 0; j < end; ++j)
      for (std::int64_t i = std::max(begin, j); i < end; ++i)
        w[i * neurons + j] = i == j ? 0 : w[j * neurons + i];
  });
  return weights;
}

std::vector<std::int32_t> coactivation_parts(const Tensor& weights,
                                             const std::vector<std::int64_t>& sizes,
                                             std::uint64_t seed) {
  std::vector<std::int32_t> labels(std::size_t(weights.rows()), 0);
  if (sizes.size() > 1) labels = metis_parts(strong_graph(weights), sizes, seed);
  match_sizes(labels, sizes);
  move_to_sizes(labels, weights, sizes);
  exchange_neurons(labels, weights, std::int64_t(sizes.size()));
  match_sizes(labels, sizes);
  return labels;
}

void move_to_sizes(std::vector<std::int32_t>& labels, const Tensor& weights,
                   const std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> excess(sizes.size());
  for (std::size_t p = 0; p < sizes.size(); ++p) excess[p] = -sizes[p];
  for (const std::int32_t p : labels) ++excess[std::size_t(p)];
  Parts parts(weights, labels, std::int64_t(sizes.size()));
  while (*std::max_element(excess.begin(), excess.end()) > 0) {
    std::int64_t moved = -1, target = -1;
    double most = -std::numeric_limits<double>::infinity();
    for (std::int64_t i = 0; i < parts.neurons(); ++i) {
      if (excess[std::size_t(parts.part_of(i))] <= 0) continue;
      for (std::int64_t p = 0; p < parts.parts(); ++p) {
        if (excess[std::size_t(p)] >= 0 || parts.gain(i, p) <= most) continue;
        most = parts.gain(i, p);
        moved = i;
        target = p;
      }
    }
    MOE_CHECK(moved >= 0, "parts of ", join(sizes, "+"), " neurons out of ", parts.neurons());
    --excess[std::size_t(parts.part_of(moved))];
    ++excess[std::size_t(target)];
    parts.move(moved, target);
  }
}

void exchange_neurons(std::vector<std::int32_t>& labels, const Tensor& weights,
                      std::int64_t part_count) {
  Parts parts(weights, labels, part_count);
  std::vector<std::int64_t> sizes(std::size_t(part_count), 0);
  for (const std::int32_t p : labels) ++sizes[std::size_t(p)];
  for (std::int64_t exchange = 0; exchange < parts.neurons(); ++exchange) {
    // willing[p * parts + q]: who in p gains most by moving to q.
    std::vector<std::int64_t> willing(std::size_t(part_count * part_count), -1);
    for (std::int64_t i = 0; i < parts.neurons(); ++i)
      for (std::int64_t q = 0; q < part_count; ++q) {
        std::int64_t& best = willing[std::size_t(parts.part_of(i) * part_count + q)];
        if (best < 0 || parts.gain(i, q) > parts.gain(best, q)) best = i;
      }
    std::int64_t first = -1, second = -1, from = -1, to = -1;
    double most = kLeastGain;
    for (std::int64_t p = 0; p < part_count; ++p)
      for (std::int64_t q = 0; q < part_count; ++q) {
        const std::int64_t i = willing[std::size_t(p * part_count + q)];
        const std::int64_t j = willing[std::size_t(q * part_count + p)];
        if (p == q || i < 0) continue;
        const auto propose = [&](double gain, std::int64_t other) {
          if (gain <= most) return;
          most = gain;
          first = i, second = other, from = p, to = q;
        };
        if (sizes[std::size_t(p)] == sizes[std::size_t(q)] + 1) propose(parts.gain(i, q), -1);
        if (j >= 0) propose(parts.gain(i, q) + parts.gain(j, p) - 2 * parts.weight(i, j), j);
      }
    if (first < 0) return;
    parts.move(first, to);
    if (second >= 0) {
      parts.move(second, from);
    } else {
      std::swap(sizes[std::size_t(from)], sizes[std::size_t(to)]);
    }
  }
}

double weight_within_parts(const Tensor& weights, const std::vector<std::int32_t>& labels) {
  const std::int64_t n = weights.rows();
  const auto sum = [&](bool all) {
    return parallel_sum(n, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
      double total = 0;
      for (std::int64_t i = begin; i < end; ++i)
        for (std::int64_t j = 0; j < n; ++j)
          if (all || labels[std::size_t(i)] == labels[std::size_t(j)])
            total += double(weights.data<float>()[i * n + j]);
      return total;
    });
  };
  const double all = sum(true);
  return all > 0 ? sum(false) / all : 0;
}

}  // namespace moe
