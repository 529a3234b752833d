// SPDX-License-Identifier: Apache-2.0
#include "generate/sampler.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moe {
namespace {

const std::vector<double> kProbabilities = {0.1, 0.4, 0.05, 0.25, 0.2};

Tensor logits_of(const std::vector<double>& probabilities) {
  std::vector<double> l;
  for (const double p : probabilities) l.push_back(std::log(p) + 3);
  return Tensor::of<double>({1, std::int64_t(l.size())}, l);
}

/// Shares of the ids in many draws.
std::vector<double> shares(const SamplingOptions& options) {
  constexpr int kDraws = 20000;
  const Sampler sampler(options);
  std::vector<int> drawn(kProbabilities.size(), 0);
  const Tensor logits = logits_of(kProbabilities);
  for (int i = 0; i < kDraws; ++i) ++drawn[std::size_t(sampler.next(logits, {}, 0, i))];
  std::vector<double> share;
  for (const int n : drawn) share.push_back(double(n) / kDraws);
  return share;
}

/// The probabilities of `kept`, normalised, are what is drawn: within five standard deviations, and
/// nothing else at all.
void expect_shares(const std::vector<double>& got, const std::vector<double>& kept) {
  double total = 0;
  for (const double p : kept) total += p;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const double p = kept[i] / total;
    if (p == 0)
      EXPECT_EQ(got[i], 0) << i;
    else
      EXPECT_NEAR(got[i], p, 5 * std::sqrt(p * (1 - p) / 20000)) << i;
  }
}

SamplingOptions hot() {
  SamplingOptions o;
  o.temperature = 1;
  return o;
}

TEST(Sampler, DrawsBySoftmaxOfLogitsOverTemperature) {
  SamplingOptions o = hot();
  expect_shares(shares(o), kProbabilities);
  o.temperature = 0.5;
  std::vector<double> squared;
  for (const double p : kProbabilities) squared.push_back(p * p);
  expect_shares(shares(o), squared);
}

TEST(Sampler, KeepsOnlyTheLikeliest) {
  SamplingOptions o = hot();
  o.top_k = 2;
  expect_shares(shares(o), {0, 0.4, 0, 0.25, 0});
  o.top_k = 100;
  expect_shares(shares(o), kProbabilities);
}

TEST(Sampler, KeepsTheFewestThatReachTopP) {
  SamplingOptions o = hot();
  o.top_p = 0.6;  // 0.4 + 0.25
  expect_shares(shares(o), {0, 0.4, 0, 0.25, 0});
  o.top_p = 0.7;  // and 0.2
  expect_shares(shares(o), {0, 0.4, 0, 0.25, 0.2});
  o.top_p = 1e-9;
  expect_shares(shares(o), {0, 1, 0, 0, 0});
  o.top_p = 0.6;
  o.top_k = 3;  // then 0.6 of 0.85 is 0.51: two again
  expect_shares(shares(o), {0, 0.4, 0, 0.25, 0});
  o.top_p = 0.45;  // of 0.85: 0.3825, the first alone
  expect_shares(shares(o), {0, 1, 0, 0, 0});
}

TEST(Sampler, KeepsWhatIsAShareAsLikelyAsTheLikeliest) {
  SamplingOptions o = hot();
  o.min_p = 0.4;  // 0.16 at least
  expect_shares(shares(o), {0, 0.4, 0, 0.25, 0.2});
  o.min_p = 1;
  expect_shares(shares(o), {0, 1, 0, 0, 0});
}

TEST(Sampler, MakesSeenTokensLessLikelyWhateverTheSignOfTheirLogit) {
  SamplingOptions o;
  o.repetition_penalty = 2;
  const Sampler sampler(o);
  const Tensor logits = Tensor::of<float>({1, 3}, {3.f, 2.f, -1.f});
  EXPECT_EQ(sampler.next(logits, {}, 0, 0), 0);
  EXPECT_EQ(sampler.next(logits, std::vector{0, 0}, 0, 0), 1);  // 1.5 against 2: counted once
  EXPECT_EQ(sampler.next(logits, std::vector{0, 1}, 0, 0), 0);
  const Tensor negative = Tensor::of<float>({1, 2}, {-1.f, -1.5f});
  EXPECT_EQ(sampler.next(negative, std::vector{0}, 0, 0), 1);
}

TEST(Sampler, TakesTheLowestOfTheLikeliestWithoutTemperature) {
  const Tensor logits = Tensor::of<float>({1, 4}, {1, 5, 5, 0});
  EXPECT_EQ(Sampler({}).next(logits, {}, 0, 0), 1);
}

TEST(Sampler, DrawsAnewForEveryTokenAndTextAndTheSameForTheSame) {
  const Sampler sampler(hot());
  const Tensor logits = logits_of(kProbabilities);
  const auto row = [&](std::int64_t text) {
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 40; ++i) ids.push_back(sampler.next(logits, {}, text, i));
    return ids;
  };
  EXPECT_EQ(row(3), row(3));
  EXPECT_NE(row(3), row(4));
}

TEST(Sampler, NamesTheOptionThatIsOutOfRange) {
  const auto said = [](auto change) -> std::string {
    SamplingOptions o;
    change(o);
    try {
      const Sampler sampler(o);
    } catch (const InputError& e) {
      return e.what();
    }
    return "nothing";
  };
  EXPECT_NE(said([](auto& o) { o.top_p = 0; }).find("top-p of 0"), std::string::npos);
  EXPECT_NE(said([](auto& o) { o.min_p = 1.1; }).find("min-p of 1.1"), std::string::npos);
  EXPECT_NE(said([](auto& o) { o.top_k = -1; }).find("top-k of -1"), std::string::npos);
  EXPECT_NE(said([](auto& o) { o.repetition_penalty = 0; }).find("penalty of 0"),
            std::string::npos);
  EXPECT_NE(said([](auto& o) { o.temperature = -1; }).find("temperature of -1"), std::string::npos);
}

}  // namespace
}  // namespace moe
