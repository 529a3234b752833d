// SPDX-License-Identifier: Apache-2.0
#include "split/balanced_assignment.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>

#include "core/error.h"

namespace moe {

namespace {

constexpr std::int64_t kUnreachable = std::numeric_limits<std::int64_t>::max() / 4;

/// The items of each bin, and for every pair of bins the item that is cheapest to move.
class Bins {
 public:
  Bins(std::span<const std::int64_t> costs, std::span<const std::int64_t> prices)
      : costs_(costs),
        bins_(prices.size()),
        owner_(costs.size() / bins_),
        counts_(bins_, 0),
        moves_(bins_ * bins_) {
    std::vector<std::vector<Move>> moves(bins_ * bins_);
    for (std::size_t i = 0; i < owner_.size(); ++i) {
      const auto row = costs_.subspan(i * bins_, bins_);
      std::size_t best = 0;
      for (std::size_t e = 1; e < bins_; ++e)
        if (row[e] + prices[e] < row[best] + prices[best]) best = e;
      owner_[i] = std::int32_t(best);
      ++counts_[best];
      for (std::size_t e = 0; e < bins_; ++e)
        if (e != best) moves[best * bins_ + e].emplace_back(row[e] - row[best], i);
    }
    for (std::size_t arc = 0; arc < moves.size(); ++arc)
      moves_[arc] = Heap(std::greater<>(), std::move(moves[arc]));
  }

  std::int64_t count(std::size_t bin) const { return counts_[bin]; }
  const std::vector<std::int32_t>& owner() const { return owner_; }

  /// What moving one item from a to b adds to the sum of costs.
  std::int64_t arc(std::size_t a, std::size_t b) {
    Heap& heap = moves_[a * bins_ + b];
    while (!heap.empty() && owner_[heap.top().second] != std::int32_t(a)) heap.pop();
    return heap.empty() ? kUnreachable : heap.top().first;
  }

  void move_cheapest(std::size_t a, std::size_t b) {
    const std::size_t item = moves_[a * bins_ + b].top().second;
    owner_[item] = std::int32_t(b);
    --counts_[a];
    ++counts_[b];
    const auto row = costs_.subspan(item * bins_, bins_);
    for (std::size_t e = 0; e < bins_; ++e)
      if (e != b) moves_[b * bins_ + e].emplace(row[e] - row[b], item);
  }

 private:
  using Move = std::pair<std::int64_t, std::size_t>;  // added cost, item
  using Heap = std::priority_queue<Move, std::vector<Move>, std::greater<>>;

  std::span<const std::int64_t> costs_;
  std::size_t bins_;
  std::vector<std::int32_t> owner_;
  std::vector<std::int64_t> counts_;
  std::vector<Heap> moves_;  // moves whose item has left its bin are dropped when they surface
};

/// Shortest distances over the arcs from the bins where `distance` is 0; the others must hold
/// kUnreachable. There are no negative cycles, so Bellman-Ford ends.
std::vector<std::size_t> shortest_paths(const std::vector<std::int64_t>& arcs,
                                        std::vector<std::int64_t>& distance) {
  const std::size_t bins = distance.size();
  std::vector<std::size_t> previous(bins, bins);
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t a = 0; a < bins; ++a) {
      if (distance[a] == kUnreachable) continue;
      for (std::size_t b = 0; b < bins; ++b) {
        if (a == b || arcs[a * bins + b] == kUnreachable) continue;
        const std::int64_t through = distance[a] + arcs[a * bins + b];
        if (through >= distance[b]) continue;
        distance[b] = through;
        previous[b] = a;
        changed = true;
      }
    }
  }
  return previous;
}

}  // namespace

std::vector<std::int32_t> balanced_assignment(std::span<const std::int64_t> costs,
                                              std::span<const std::int64_t> sizes,
                                              std::vector<std::int64_t>& prices) {
  const std::size_t bins = sizes.size();
  MOE_CHECK(prices.size() == bins, prices.size(), " prices for ", bins, " bins");
  const std::int64_t items = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  MOE_CHECK(std::int64_t(costs.size()) == items * std::int64_t(bins), costs.size(), " costs for ",
            items, " items and ", bins, " bins");

  Bins state(costs, prices);
  std::vector<std::int64_t> arcs(bins * bins, kUnreachable);
  const auto refresh = [&](std::size_t bin) {
    for (std::size_t e = 0; e < bins; ++e)
      if (e != bin) arcs[bin * bins + e] = state.arc(bin, e);
  };
  for (std::size_t e = 0; e < bins; ++e) refresh(e);

  while (true) {
    std::vector<std::int64_t> distance(bins, kUnreachable);
    bool surplus = false;
    for (std::size_t e = 0; e < bins; ++e)
      if (state.count(e) > sizes[e]) {
        distance[e] = 0;
        surplus = true;
      }
    if (!surplus) break;
    const std::vector<std::size_t> previous = shortest_paths(arcs, distance);
    std::size_t target = bins;
    for (std::size_t e = 0; e < bins; ++e)
      if (state.count(e) < sizes[e] && (target == bins || distance[e] < distance[target]))
        target = e;
    MOE_CHECK(target < bins && distance[target] != kUnreachable, "no bin can take a surplus item");
    std::vector<std::size_t> path = {target};
    while (previous[path.back()] != bins) path.push_back(previous[path.back()]);
    // From the far end, so that an item which just arrived in a bin is not the one that leaves it.
    for (std::size_t step = 0; step + 1 < path.size(); ++step)
      state.move_cheapest(path[step + 1], path[step]);
    for (const std::size_t bin : path) refresh(bin);
  }

  std::vector<std::int64_t> distance(bins, 0);
  shortest_paths(arcs, distance);
  for (std::size_t e = 0; e < bins; ++e) prices[e] = -distance[e];
  return state.owner();
}

}  // namespace moe
