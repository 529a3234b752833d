// SPDX-License-Identifier: Apache-2.0
#include "split/assign_by_importance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "split/construction.h"

namespace moe {

namespace {

std::int64_t sum_of(const std::vector<std::int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
}

void check_scores(const Tensor& scores, const std::vector<std::int64_t>& sizes) {
  MOE_CHECK(scores.rows() == std::int64_t(sizes.size()), "scores for ", scores.rows(),
            " experts, sizes of ", sizes.size());
}

std::vector<std::int64_t> free_neurons(std::int64_t neurons, const std::vector<bool>& taken) {
  std::vector<std::int64_t> result;
  for (std::int64_t n = 0; n < neurons; ++n)
    if (taken.empty() || !taken[std::size_t(n)]) result.push_back(n);
  return result;
}

/// All neurons by descending score, then ascending index.
std::vector<std::int64_t> ranking(const double* scores, std::int64_t neurons) {
  std::vector<std::int64_t> order = free_neurons(neurons, {});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return scores[a] > scores[b]; });
  return order;
}

/// The first `count` of `order` that are not taken, or as many as there are.
std::vector<std::int64_t> first_free(const std::vector<std::int64_t>& order, std::int64_t count,
                                     const std::vector<bool>& taken) {
  std::vector<std::int64_t> result;
  for (auto n = order.begin(); n != order.end() && std::int64_t(result.size()) < count; ++n)
    if (taken.empty() || !taken[std::size_t(*n)]) result.push_back(*n);
  return result;
}

}  // namespace

Tensor normalised_importance(const Tensor& scores) {
  Tensor result = scores.clone();
  for (std::int64_t e = 0; e < scores.rows(); ++e) {
    double* row = result.data<double>() + e * scores.cols();
    double sum = 0;
    for (std::int64_t n = 0; n < scores.cols(); ++n) sum += std::abs(row[n]);
    if (sum == 0) continue;
    const double mean = sum / double(scores.cols());
    for (std::int64_t n = 0; n < scores.cols(); ++n) row[n] /= mean;
  }
  return result;
}

NeuronSets assign_disjoint(const Tensor& scores, const std::vector<std::int64_t>& sizes,
                           const std::vector<bool>& taken) {
  check_scores(scores, sizes);
  const std::vector<std::int64_t> neurons = free_neurons(scores.cols(), taken);
  MOE_REQUIRE(sum_of(sizes) == std::int64_t(neurons.size()), "experts are to have ", sum_of(sizes),
              " neurons, each in one of them, but there are ", neurons.size());
  struct Pair {
    double score;
    std::int32_t expert, neuron;
  };
  std::vector<Pair> pairs;
  pairs.reserve(sizes.size() * neurons.size());
  for (std::int64_t e = 0; e < scores.rows(); ++e)
    for (const std::int64_t n : neurons)
      pairs.push_back(
          {scores.data<double>()[e * scores.cols() + n], std::int32_t(e), std::int32_t(n)});
  std::sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.expert != b.expert ? a.expert > b.expert : a.neuron < b.neuron;
  });

  // A pair passed over, its neuron gone or its expert full, can never be made later: one pass does.
  NeuronSets experts(sizes.size());
  std::vector<bool> gone(std::size_t(scores.cols()), false);
  for (const Pair& pair : pairs) {
    std::vector<std::int64_t>& expert = experts[std::size_t(pair.expert)];
    if (gone[std::size_t(pair.neuron)] ||
        std::int64_t(expert.size()) == sizes[std::size_t(pair.expert)])
      continue;
    gone[std::size_t(pair.neuron)] = true;
    expert.push_back(pair.neuron);
  }
  for (std::vector<std::int64_t>& expert : experts) std::sort(expert.begin(), expert.end());
  return experts;
}

NeuronSets top_neurons(const Tensor& scores, const std::vector<std::int64_t>& sizes,
                       const std::vector<bool>& taken) {
  check_scores(scores, sizes);
  const std::size_t available = free_neurons(scores.cols(), taken).size();
  NeuronSets experts;
  for (std::int64_t e = 0; e < scores.rows(); ++e) {
    const std::int64_t size = sizes[std::size_t(e)];
    MOE_REQUIRE(size <= std::int64_t(available), "expert ", e, " is to have ", size,
                " neurons, but there are only ", available, " to choose from");
    const double* row = scores.data<double>() + e * scores.cols();
    experts.push_back(first_free(ranking(row, scores.cols()), size, taken));
    std::sort(experts.back().begin(), experts.back().end());
  }
  return experts;
}

NeuronSets shared_by_votes(const Tensor& scores, const std::vector<std::int64_t>& sizes,
                           const std::vector<std::int64_t>& shared_sizes, SharedBy order) {
  check_scores(scores, sizes);
  const std::int64_t neurons = scores.cols();
  const std::size_t wanted = std::size_t(sum_of(shared_sizes));
  MOE_REQUIRE(std::int64_t(wanted) <= neurons, "shared experts are to have ", wanted,
              " neurons of ", neurons);
  std::vector<double> sums(std::size_t(neurons), 0.0);
  for (std::int64_t i = 0; i < scores.size(); ++i)
    sums[std::size_t(i % neurons)] += scores.data<double>()[i];
  std::vector<std::vector<std::int64_t>> rankings;
  for (std::int64_t e = 0; e < scores.rows(); ++e)
    rankings.push_back(ranking(scores.data<double>() + e * neurons, neurons));

  std::vector<std::int64_t> chosen;
  std::vector<bool> taken(std::size_t(neurons), false);
  while (chosen.size() < wanted) {
    std::vector<std::int64_t> votes(std::size_t(neurons), 0);
    for (std::size_t e = 0; e < sizes.size(); ++e)
      for (const std::int64_t n : first_free(rankings[e], sizes[e], taken)) ++votes[std::size_t(n)];
    const std::int64_t most = *std::max_element(votes.begin(), votes.end());
    std::vector<std::int64_t> elected;
    for (std::int64_t n = 0; n < neurons; ++n)
      if (votes[std::size_t(n)] == most) elected.push_back(n);
    if (order == SharedBy::score)
      std::stable_sort(elected.begin(), elected.end(), [&](std::int64_t a, std::int64_t b) {
        return sums[std::size_t(a)] > sums[std::size_t(b)];
      });
    elected.resize(std::min(elected.size(), wanted - chosen.size()));
    for (const std::int64_t n : elected) taken[std::size_t(n)] = true;
    chosen.insert(chosen.end(), elected.begin(), elected.end());
  }

  return consecutive_sets(chosen, shared_sizes);
}

}  // namespace moe
