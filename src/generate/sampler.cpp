// SPDX-License-Identifier: Apache-2.0
#include "generate/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"

namespace moe {
namespace {

template <class A>
std::int32_t likeliest(const A* logits, std::int64_t n) {
  return std::int32_t(std::max_element(logits, logits + n) - logits);
}

void penalize(std::vector<double>& logits, std::span<const std::int32_t> seen, double penalty) {
  std::vector<std::int32_t> ids(seen.begin(), seen.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (const std::int32_t id : ids) {
    double& l = logits.at(std::size_t(id));
    l = l > 0 ? l / penalty : l * penalty;
  }
}

}  // namespace

void SamplingOptions::validate() const {
  MOE_REQUIRE(repetition_penalty > 0, "a repetition penalty of ", repetition_penalty,
              ": it must be above 0 (1: off)");
  MOE_REQUIRE(temperature >= 0, "a temperature of ", temperature, ": it must not be negative");
  MOE_REQUIRE(top_k >= 0, "a sampling top-k of ", top_k, ": it must not be negative (0: off)");
  MOE_REQUIRE(top_p > 0 && top_p <= 1, "a top-p of ", top_p, ": it must be above 0 and at most 1");
  MOE_REQUIRE(min_p >= 0 && min_p <= 1, "a min-p of ", min_p, ": it must lie from 0 to 1");
}

Sampler::Sampler(const SamplingOptions& options) : options_(options) { options.validate(); }

std::vector<Sampler::Candidate> Sampler::candidates(const std::vector<double>& logits) const {
  const double best = *std::max_element(logits.begin(), logits.end());
  std::vector<Candidate> all;
  all.reserve(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i)
    all.push_back({std::int32_t(i), std::exp((logits[i] - best) / options_.temperature)});
  const bool cuts = options_.top_k > 0 || options_.top_p < 1;
  if (!cuts) {
    std::erase_if(all, [&](const Candidate& c) { return c.probability < options_.min_p; });
    return all;
  }
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
  });
  if (options_.top_k > 0)
    all.resize(std::min(all.size(), static_cast<std::size_t>(options_.top_k)));
  double total = 0, sum = 0;
  for (const Candidate& c : all) total += c.probability;
  std::size_t kept = 0;
  while (kept < all.size() && sum < options_.top_p * total) sum += all[kept++].probability;
  all.resize(std::max<std::size_t>(kept, 1));
  std::erase_if(all, [&](const Candidate& c) { return c.probability < options_.min_p; });
  return all;
}

std::int32_t Sampler::next(const Tensor& logits, std::span<const std::int32_t> seen,
                           std::int64_t text, std::int64_t index) const {
  std::int32_t id = 0;
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    const A* l = logits.data<A>();
    if (options_.temperature == 0 && options_.repetition_penalty == 1) {
      id = likeliest(l, logits.size());
      return;
    }
    std::vector<double> values(l, l + logits.size());
    if (options_.repetition_penalty != 1) penalize(values, seen, options_.repetition_penalty);
    if (options_.temperature == 0) {
      id = likeliest(values.data(), logits.size());
      return;
    }
    const std::vector<Candidate> from = candidates(values);
    double total = 0;
    for (const Candidate& c : from) total += c.probability;
    const Philox random(options_.seed, RandomPurpose::sampling, {std::uint64_t(text)});
    double left = random.uniform(std::uint64_t(index)) * total;
    id = from.front().id;  // where rounding leaves nobody
    for (const Candidate& c : from)
      if ((left -= c.probability) < 0) {
        id = c.id;
        break;
      }
  });
  return id;
}

}  // namespace moe
