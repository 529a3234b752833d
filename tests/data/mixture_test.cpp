// SPDX-License-Identifier: Apache-2.0
#include "data/mixture.h"

#include <cmath>
#include <numeric>
#include <set>

#include "data/data_test_support.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

std::vector<std::int64_t> order_of(std::int64_t n, std::uint64_t seed, std::uint64_t key,
                                   std::int64_t epoch) {
  std::vector<std::int64_t> order;
  for (std::int64_t i = 0; i < n; ++i) order.push_back(permuted_index(i, n, seed, key, epoch));
  return order;
}

TEST(PermutedIndex, IsABijectionForEverySize) {
  for (std::int64_t n = 1; n <= 300; ++n)
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      const auto order = order_of(n, 42, 7, epoch);
      EXPECT_EQ(std::set(order.begin(), order.end()).size(), std::size_t(n)) << n;
      EXPECT_EQ(*std::max_element(order.begin(), order.end()), n - 1) << n;
    }
}

TEST(PermutedIndex, DiffersByEpochSeedAndDomain) {
  const auto order = order_of(100, 42, 7, 0);
  EXPECT_EQ(order_of(100, 42, 7, 0), order);
  EXPECT_NE(order_of(100, 42, 7, 1), order);
  EXPECT_NE(order_of(100, 43, 7, 0), order);
  EXPECT_NE(order_of(100, 42, 8, 0), order);
}

TEST(PermutedIndex, PutsEveryElementEverywhereAboutAsOften) {
  for (const std::int64_t n : {5, 16, 23}) {
    constexpr std::int64_t kEpochs = 4000;
    std::vector<int> count(std::size_t(n * n));
    for (std::int64_t epoch = 0; epoch < kEpochs; ++epoch) {
      const auto order = order_of(n, 1, 2, epoch);
      for (std::int64_t i = 0; i < n; ++i) ++count[std::size_t(i * n + order[std::size_t(i)])];
    }
    const double expected = double(kEpochs) / double(n);
    double chi2 = 0;
    for (const int c : count) chi2 += (c - expected) * (c - expected) / expected;
    const double freedom = double((n - 1) * (n - 1));
    EXPECT_LT(chi2, freedom + 6 * std::sqrt(2 * freedom)) << n;
  }
}

TEST(PermutedIndex, ReachesFarIntoHugeDomains) {
  const std::int64_t n = (std::int64_t{1} << 40) + 12345;
  std::set<std::int64_t> seen;
  for (std::int64_t i = n - 1000; i < n; ++i) seen.insert(permuted_index(i, n, 1, 2, 3));
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_GE(*seen.begin(), 0);
  EXPECT_LT(*seen.rbegin(), n);
}

const std::vector<DomainSize> kDomains = {
    {"wiki", 0.3, 313}, {"code", 0.1, 126}, {"books", 0.6, 1251}, {"never", 0, 64}};

/// Draws for `steps` steps and calls visit(step, draw).
template <class Visit>
MixtureState draw_steps(const Mixture& mixture, std::int64_t steps, std::int64_t batch,
                        Visit&& visit) {
  MixtureState state = mixture.initial_state();
  for (std::int64_t step = 0; step < steps; ++step) {
    const StepDraw draw = mixture.draw(step, batch, state);
    visit(step, draw);
    state = draw.next;
  }
  return state;
}

TEST(Mixture, EveryDomainIsWithinOneSequenceOfItsShareAfterEveryDraw) {
  for (const std::vector<double>& weights :
       {std::vector<double>{0.361, 0.492, 0.008, 0.031, 0.091, 0.007, 0.010},
        {1, 1, 1},
        {1, 1e-4},
        {0.5, 0.25, 0.125, 0.125},
        {3, 0, 5, 0.01, 0.01, 0.01, 0.01, 2}}) {
    std::vector<DomainSize> domains;
    double total = 0;
    for (const double w : weights) {
      domains.push_back({str("d", domains.size()), w, 1000});
      total += w;
    }
    const Mixture mixture(domains, 1);
    MixtureState state = mixture.initial_state();
    for (std::int64_t n = 1; n <= 20000; ++n) {  // batches of one: every prefix is seen
      state = mixture.draw(n, 1, state).next;
      for (std::size_t d = 0; d < weights.size(); ++d)
        ASSERT_LT(std::abs(double(state.consumed[d]) - double(n) * weights[d] / total), 1)
            << "domain " << d << " after " << n;
    }
  }
}

TEST(Mixture, SharesHoldWhateverTheBatchAndAcrossChangesOfWeights) {
  const Mixture mixture(kDomains, 42);
  MixtureState state = mixture.initial_state();
  std::vector<double> due(4);
  std::int64_t drawn = 0;
  for (std::int64_t step = 0; step < 500; ++step) {
    if (step % 10 == 9) {
      const double shift = 0.01 * double(step % 7);
      state.weights = {0.3 + shift, 0.1, 0.6 - shift, 0};
    }
    const std::int64_t batch = 1 + step % 13;
    for (std::size_t d = 0; d < 4; ++d) due[d] += double(batch) * state.weights[d];
    drawn += batch;
    const StepDraw draw = mixture.draw(step, batch, state);
    std::vector<std::int64_t> count = state.consumed;
    for (const PlannedSequence& s : draw.sequences) ++count[std::size_t(s.domain)];
    state = draw.next;
    EXPECT_EQ(state.consumed, count);
    EXPECT_EQ(std::accumulate(count.begin(), count.end(), std::int64_t{0}), drawn);
    for (std::size_t d = 0; d < 4; ++d) ASSERT_LT(std::abs(double(count[d]) - due[d]), 1.5) << d;
  }
  EXPECT_EQ(state.consumed[3], 0);
}

TEST(Mixture, DrawsOfADomainLieAnywhereInTheBatch) {
  const Mixture mixture({{"a", 1, 1000}, {"b", 1, 1000}}, 5);
  std::vector<int> at(8);  // how often position p is of domain a
  draw_steps(mixture, 400, 8, [&](std::int64_t, const StepDraw& draw) {
    for (std::size_t p = 0; p < 8; ++p) at[p] += draw.sequences[p].domain == 0;
  });
  for (const int n : at) EXPECT_NEAR(n, 200, 50) << "ranks would train on domains of their own";
}

TEST(Mixture, EveryEpochOfADomainHoldsEachSequenceOnceInAnotherOrder) {
  const Mixture mixture({{"a", 1, 20}, {"b", 2, 55}}, 1);
  std::vector<std::vector<std::int64_t>> drawn(2);
  MixtureState state = mixture.initial_state();
  for (std::int64_t step = 0; step < 300; ++step) {
    const StepDraw draw = mixture.draw(step, 1, state);
    const PlannedSequence s = draw.sequences[0];
    drawn[std::size_t(s.domain)].push_back(s.index);
    state = draw.next;
  }
  for (std::size_t d = 0; d < 2; ++d) {
    const auto count = std::size_t(mixture.domains()[d].sequences);
    ASSERT_GT(drawn[d].size(), 3 * count);
    std::set<std::vector<std::int64_t>> orders;
    for (std::size_t epoch = 0; epoch < 3; ++epoch) {
      const auto begin = drawn[d].begin() + std::ptrdiff_t(epoch * count);
      const std::vector<std::int64_t> order(begin, begin + std::ptrdiff_t(count));
      EXPECT_EQ(std::set(order.begin(), order.end()).size(), count);
      orders.insert(order);
    }
    EXPECT_EQ(orders.size(), 3u);
  }
}

TEST(Mixture, ADrawIsAPureFunctionOfSeedStateAndStep) {
  const Mixture one(kDomains, 42), other(kDomains, 42), reseeded(kDomains, 43);
  MixtureState state = one.initial_state();
  bool differs = false;
  for (std::int64_t step = 0; step < 30; ++step) {
    const StepDraw draw = one.draw(step, 9, state);
    const StepDraw again = other.draw(step, 9, state);  // has never seen an earlier step
    EXPECT_EQ(draw.sequences, again.sequences);
    EXPECT_EQ(draw.next, again.next);
    EXPECT_EQ(draw.first_id, step * 9);
    differs = differs || reseeded.draw(step, 9, state).sequences != draw.sequences;
    state = draw.next;
  }
  EXPECT_TRUE(differs);
}

TEST(Mixture, ASeekToAnyStepIsTheStateOfThatStep) {
  const Mixture mixture(kDomains, 42);
  std::vector<MixtureState> states;
  std::vector<std::vector<PlannedSequence>> draws;
  draw_steps(mixture, 200, 5, [&](std::int64_t, const StepDraw& draw) {
    states.push_back(draw.next);
    draws.push_back(draw.sequences);
  });
  const Mixture fresh(kDomains, 42);
  for (const std::int64_t step : {199, 3, 150, 150, 1})
    EXPECT_EQ(fresh.draw(step, 5, states[std::size_t(step) - 1]).sequences,
              draws[std::size_t(step)]);
}

TEST(Mixture, NeitherTheOrderOfDomainsNorTheSizeOfOthersMatters) {
  std::vector<DomainSize> changed = {kDomains[2], kDomains[0], kDomains[1]};
  changed[0].sequences += 500;  // books grow
  for (DomainSize& d : changed) d.weight *= 8;
  const Mixture before(kDomains, 42), after(changed, 42);
  MixtureState a = before.initial_state(), b = after.initial_state();
  for (std::int64_t step = 0; step < 50; ++step) {
    const StepDraw p = before.draw(step, 16, a), q = after.draw(step, 16, b);
    for (std::size_t i = 0; i < 16; ++i) {
      const std::string& name = kDomains[std::size_t(p.sequences[i].domain)].name;
      EXPECT_EQ(changed[std::size_t(q.sequences[i].domain)].name, name);
      EXPECT_TRUE(name == "books" || p.sequences[i].index == q.sequences[i].index);
    }
    a = p.next;
    b = q.next;
  }
}

TEST(Mixture, ADomainAtItsLimitLeavesItsShareToTheOthers) {
  const Mixture mixture({{"small", 1, 10, 2}, {"a", 2, 1000}, {"b", 1, 1000}}, 3);
  const MixtureState state = draw_steps(mixture, 100, 7, [](std::int64_t, const StepDraw&) {});
  EXPECT_EQ(state.consumed[0], 20);
  // 80 draws until the limit, then two thirds and one third of 620.
  EXPECT_NEAR(double(state.consumed[1]), 40 + 620 * 2 / 3.0, 2.5);
  EXPECT_NEAR(double(state.consumed[2]), 20 + 620 / 3.0, 2.5);
}

TEST(Mixture, LimitsThatAreTooLowForTheRunAreRefusedBeforeIt) {
  const Mixture mixture({{"a", 1, 10, 2}, {"b", 3, 4, 1}, {"never", 0, 1000}}, 3);
  MixtureState state = mixture.initial_state();
  EXPECT_NO_THROW(mixture.require_enough(state, 24));
  EXPECT_THAT(input_error_of([&] { mixture.require_enough(state, 25); }),
              HasSubstr("have 24 sequences left within their max_epochs, the run needs 25"));
  for (std::int64_t step = 0; step < 24; ++step) state = mixture.draw(step, 1, state).next;
  EXPECT_EQ(state.consumed, (std::vector<std::int64_t>{20, 4, 0}));
  EXPECT_THROW(mixture.draw(24, 1, state), Error);
}

TEST(Reweighting, MovesSharesByTheExponentOfTheExcessLoss) {
  const std::vector<double> weights = {0.5, 0.3, 0.2, 0}, excess = {0.4, -0.2, 0, NAN};
  const double a = 0.5 * std::exp(0.4), b = 0.3 * std::exp(-0.2), c = 0.2;
  const auto plain = reweighted(weights, excess, {.dynamic = true});
  EXPECT_NEAR(plain[0], a / (a + b + c), 1e-15);
  EXPECT_NEAR(plain[1], b / (a + b + c), 1e-15);
  EXPECT_NEAR(plain[2], c / (a + b + c), 1e-15);
  EXPECT_EQ(plain[3], 0);
  const auto clipped = reweighted(weights, excess, {.dynamic = true, .clip = true});
  EXPECT_NEAR(clipped[1], 0.3 / (a + 0.3 + c), 1e-15);
  const auto smooth = reweighted(weights, excess, {.dynamic = true, .rate = 2, .smoothing = 0.03});
  const double a2 = 0.5 * std::exp(0.8), b2 = 0.3 * std::exp(-0.4);
  EXPECT_NEAR(smooth[0], 0.97 * a2 / (a2 + b2 + c) + 0.01, 1e-15);
  EXPECT_NEAR(smooth[0] + smooth[1] + smooth[2], 1, 1e-15);
  // Losses far apart neither overflow nor lose a domain for ever.
  const auto extreme = reweighted({0.5, 0.5}, {2000, 0}, {.dynamic = true, .smoothing = 1e-4});
  EXPECT_NEAR(extreme[1], 5e-5, 1e-12);
}

TEST(Mixture, RefusesDomainsItCannotDrawFrom) {
  const auto error = [](std::vector<DomainSize> domains) {
    return input_error_of([&] { Mixture(std::move(domains), 1); });
  };
  EXPECT_THAT(error({}), HasSubstr("no domain"));
  EXPECT_THAT(error({{"a", 0, 10}, {"b", 0, 10}}), HasSubstr("all domains are zero"));
  EXPECT_THAT(error({{"a", -1, 10}}), HasSubstr("domain 'a': weight -1"));
  EXPECT_THAT(error({{"a", NAN, 10}}), HasSubstr("weight nan"));
  EXPECT_THAT(error({{"a", 1, 0}}), HasSubstr("no sequence"));
  EXPECT_THAT(error({{"a", 1, 10}, {"a", 2, 10}}), HasSubstr("the same name"));
  EXPECT_THAT(error({{"a", 1, 10, -1}}), HasSubstr("-1 epochs"));
  const Mixture mixture(kDomains, 1);
  EXPECT_THROW(mixture.draw(0, 4, MixtureState{{0, 0}, {}, {}}), Error);
}

}  // namespace
}  // namespace moe
