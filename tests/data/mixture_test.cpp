// SPDX-License-Identifier: Apache-2.0
#include "data/mixture.h"

#include <cmath>
#include <map>
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

TEST(SequenceCut, ScoresEveryTokenButTheFirstOnce) {
  for (std::int64_t tokens = 2; tokens < 40; ++tokens)
    for (std::int64_t length = 1; length < 15; ++length) {
      const SequenceCut cut{tokens, length};
      std::int64_t inputs = 0;
      for (std::int64_t i = 0; i < cut.count(); ++i) {
        EXPECT_GE(cut.inputs(i), 1);
        EXPECT_LE(cut.inputs(i), length);
        EXPECT_TRUE(i + 1 == cut.count() || cut.inputs(i) == length);
        inputs += cut.inputs(i);
      }
      EXPECT_EQ(inputs, tokens - 1) << tokens << " " << length;
    }
}

const std::vector<DomainSize> kDomains = {
    {"wiki", 3, 1000}, {"code", 1, 777}, {"books", 6, 12345}, {"unused", 0, 50}};

TEST(Mixture, DrawsDomainsByTheirWeights) {
  const Mixture mixture(kDomains, 16, 42);
  MixtureState state = mixture.initial_state();
  std::vector<std::int64_t> count(4);
  constexpr std::int64_t kSteps = 300, kBatch = 100;
  for (std::int64_t step = 0; step < kSteps; ++step) {
    const StepPlan plan = mixture.plan(step, kBatch, state);
    for (const PlannedSequence& s : plan.sequences) ++count[std::size_t(s.domain)];
    state = plan.next;
  }
  EXPECT_EQ(state.consumed, count);
  const std::vector<double> share = {0.3, 0.1, 0.6, 0};
  for (std::size_t d = 0; d < 4; ++d) {
    const double n = kSteps * kBatch, deviation = std::sqrt(n * share[d] * (1 - share[d]));
    EXPECT_NEAR(double(count[d]), n * share[d], 4.5 * deviation) << d;
  }
}

TEST(Mixture, EveryEpochOfADomainHoldsEachSequenceOnceInAnotherOrder) {
  const Mixture mixture({{"a", 1, 201}, {"b", 2, 555}}, 10, 1);
  MixtureState state = mixture.initial_state();
  std::vector<std::vector<std::int64_t>> drawn(2);
  for (std::int64_t step = 0; step < 40; ++step) {
    const StepPlan plan = mixture.plan(step, 7, state);
    for (const PlannedSequence& s : plan.sequences) drawn[std::size_t(s.domain)].push_back(s.index);
    state = plan.next;
  }
  for (std::size_t d = 0; d < 2; ++d) {
    const auto count = std::size_t(mixture.cut(d).count());
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

TEST(Mixture, APlanIsAPureFunctionOfSeedStateAndStep) {
  const Mixture one(kDomains, 16, 42), other(kDomains, 16, 42), reseeded(kDomains, 16, 43);
  MixtureState state = one.initial_state();
  bool differs = false;
  for (std::int64_t step = 0; step < 30; ++step) {
    const StepPlan plan = one.plan(step, 9, state);
    const StepPlan again = other.plan(step, 9, state);  // has never seen an earlier step
    EXPECT_EQ(plan.sequences, again.sequences);
    EXPECT_EQ(plan.next, again.next);
    EXPECT_EQ(plan.first_id, step * 9);
    differs = differs || reseeded.plan(step, 9, state).sequences != plan.sequences;
    state = plan.next;
  }
  EXPECT_TRUE(differs);
}

TEST(Mixture, NeitherTheOrderOfDomainsNorTheSizeOfOthersMatters) {
  std::vector<DomainSize> changed = {kDomains[2], kDomains[0], kDomains[1]};
  changed[0].tokens += 5000;  // books grow
  for (DomainSize& d : changed) d.weight *= 10;
  const Mixture before(kDomains, 16, 42), after(changed, 16, 42);
  MixtureState a = before.initial_state(), b = after.initial_state();
  for (std::int64_t step = 0; step < 20; ++step) {
    const StepPlan p = before.plan(step, 16, a), q = after.plan(step, 16, b);
    for (std::size_t i = 0; i < 16; ++i) {
      const std::string& name = kDomains[std::size_t(p.sequences[i].domain)].name;
      EXPECT_EQ(changed[std::size_t(q.sequences[i].domain)].name, name);
      EXPECT_TRUE(name == "books" || p.sequences[i].index == q.sequences[i].index);
    }
    a = p.next;
    b = q.next;
  }
}

TEST(Mixture, ANewDomainOnlyTakesPositionsFromTheOthers) {
  std::vector<DomainSize> more = kDomains;
  more.push_back({"new", 2, 400});
  const Mixture before(kDomains, 16, 42), after(more, 16, 42);
  const auto p = before.plan(3, 200, before.initial_state()).sequences;
  const auto q = after.plan(3, 200, after.initial_state()).sequences;
  int taken = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    taken += q[i].domain == 4;
    EXPECT_TRUE(q[i].domain == 4 || q[i].domain == p[i].domain);
  }
  EXPECT_GT(taken, 10);
  EXPECT_LT(taken, 70);
}

TEST(Mixture, RefusesDomainsItCannotDrawFrom) {
  const auto error = [](std::vector<DomainSize> domains) {
    return input_error_of([&] { Mixture(std::move(domains), 8, 1); });
  };
  EXPECT_THAT(error({}), HasSubstr("no domain"));
  EXPECT_THAT(error({{"a", 0, 10}, {"b", 0, 10}}), HasSubstr("all domains are zero"));
  EXPECT_THAT(error({{"a", -1, 10}}), HasSubstr("domain 'a': weight -1"));
  EXPECT_THAT(error({{"a", NAN, 10}}), HasSubstr("weight nan"));
  EXPECT_THAT(error({{"a", 1, 1}}), HasSubstr("a sequence needs two"));
  EXPECT_THAT(error({{"a", 1, 10}, {"a", 2, 10}}), HasSubstr("the same name"));
  EXPECT_THROW(Mixture({{"a", 1, 10}}, 0, 1), InputError);
  const Mixture mixture(kDomains, 8, 1);
  EXPECT_THROW(mixture.plan(0, 4, MixtureState{{0, 0}}), Error);
}

}  // namespace
}  // namespace moe
