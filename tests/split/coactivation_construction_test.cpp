// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "split/coactivation.h"
#include "split/split_context.h"

namespace moe {
namespace {

using test::random_tensor;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

// More tokens than are held at a time, more neurons than one thread's tile.
TEST(Coactivation, IsItsDefinition) {
  constexpr std::int64_t kTokens = 1100, kHidden = 3, kNeurons = 260;
  Tensor inputs = random_tensor({kTokens, kHidden}, DType::f32, 1);
  std::fill_n(inputs.data<float>() + 5 * kHidden, kHidden, 0.0f);
  const Tensor gate = random_tensor({kNeurons, kHidden}, DType::f32, 2);
  const Tensor up = random_tensor({kNeurons, kHidden}, DType::f32, 3);
  std::vector<double> expected(kNeurons * kNeurons, 0.0);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    std::vector<double> h(kNeurons);
    double square = 0;
    for (std::int64_t n = 0; n < kNeurons; ++n) {
      double g = 0, u = 0;
      for (std::int64_t d = 0; d < kHidden; ++d) {
        const double x = double(inputs.data<float>()[t * kHidden + d]);
        g += x * double(gate.data<float>()[n * kHidden + d]);
        u += x * double(up.data<float>()[n * kHidden + d]);
      }
      h[std::size_t(n)] = std::abs(g / (1 + std::exp(-g)) * u);
      square += h[std::size_t(n)] * h[std::size_t(n)];
    }
    if (square == 0) continue;
    for (std::size_t i = 0; i < kNeurons; ++i)
      for (std::size_t j = 0; j < kNeurons; ++j)
        if (i != j) expected[i * kNeurons + j] += h[i] * h[j] / square;
  }
  const Tensor w = coactivation(inputs, gate, up);
  EXPECT_TRUE(test::near(w, expected, 1e-5));
  for (std::int64_t i = 0; i < kNeurons; ++i)
    for (std::int64_t j = 0; j < i; ++j)
      ASSERT_EQ(w.data<float>()[i * kNeurons + j], w.data<float>()[j * kNeurons + i]);
}

TEST(Coactivation, SameBitsOnAnyNumberOfThreads) {
  const Tensor inputs = random_tensor({1500, 40}, DType::f32, 1);
  const Tensor gate = random_tensor({600, 40}, DType::f32, 2);
  const Tensor up = random_tensor({600, 40}, DType::f32, 3);
  test::expect_same_bits_on_any_threads(
      [&] { return std::vector<Tensor>{coactivation(inputs, gate, up)}; });
}

/// Symmetric weights [n, n] from the pairs that have any.
Tensor edges(std::int64_t n, const std::map<std::pair<int, int>, float>& pairs) {
  Tensor w = Tensor::zeros({n, n}, DType::f32);
  for (const auto& [pair, weight] : pairs)
    w.data<float>()[pair.first * n + pair.second] = w.data<float>()[pair.second * n + pair.first] =
        weight;
  return w;
}

// Part 0 holds 0, 1, 2, 3 and must give two away to part 1, which holds 4. To leave for part 1,
// 0 loses 5 - 0, 1 loses 5 + 2 - 1, 2 loses 2 + 1 - 4 = -1 and 3 loses 1 - 0 = 1: neuron 2 goes.
// Now 0 loses 5, 1 loses 5 - (1 + 2), 3 loses 0 - 1: neuron 3 goes.
TEST(MoveToSizes, MovesTheNeuronsThatLoseLeast) {
  const Tensor w =
      edges(5, {{{0, 1}, 5.f}, {{1, 2}, 2.f}, {{2, 3}, 1.f}, {{1, 4}, 1.f}, {{2, 4}, 4.f}});
  std::vector<std::int32_t> labels = {0, 0, 0, 0, 1};
  move_to_sizes(labels, w, {2, 3});
  EXPECT_THAT(labels, ElementsAre(0, 0, 1, 1, 1));
  EXPECT_DOUBLE_EQ(weight_within_parts(w, labels), 10.0 / 13);
}

TEST(MoveToSizes, EqualLossesMoveTheLowestNeuronToTheLowestPart) {
  std::vector<std::int32_t> labels = {1, 1, 1, 1};
  move_to_sizes(labels, Tensor::zeros({4, 4}, DType::f32), {1, 2, 1});
  EXPECT_THAT(labels, ElementsAre(0, 2, 1, 1));
}

// Part 0 is {0, 1, 2}, part 1 {3, 4, 5}; 3 + 1 of 12 is within parts. Going over, 2 gains 6 - 1
// (4 and 5 for 1), 3 gains 2 (1 for nobody): 11 is within parts then, all but the edge of 1 and 2.
TEST(ExchangeNeurons, SwapsWhoGainsMostTogether) {
  const Tensor w =
      edges(6, {{{0, 1}, 3.f}, {{1, 2}, 1.f}, {{2, 4}, 3.f}, {{2, 5}, 3.f}, {{1, 3}, 2.f}});
  std::vector<std::int32_t> labels = {0, 0, 0, 1, 1, 1};
  exchange_neurons(labels, w, 2);
  EXPECT_THAT(labels, ElementsAre(0, 0, 1, 0, 1, 1));
  EXPECT_DOUBLE_EQ(weight_within_parts(w, labels), 11.0 / 12);
}

// 0 and 2 would both rather be in the other part, but only because they want to be together.
TEST(ExchangeNeurons, CountsTheWeightBetweenTheTwo) {
  const Tensor w = edges(7, {{{0, 2}, 5.f}, {{0, 1}, 3.f}, {{2, 3}, 3.f}});
  std::vector<std::int32_t> labels = {0, 0, 1, 1, 1, 1, 1};
  exchange_neurons(labels, w, 2);
  EXPECT_THAT(labels, ElementsAre(0, 0, 1, 1, 1, 1, 1));
  EXPECT_DOUBLE_EQ(weight_within_parts(w, labels), 6.0 / 11);
}

// 2 belongs to 3 and 4, and part 0 has one neuron more than part 1.
TEST(ExchangeNeurons, PartsThatDifferByOneMayTradeSizes) {
  const Tensor w = edges(5, {{{0, 1}, 3.f}, {{2, 3}, 1.f}, {{2, 4}, 1.f}, {{3, 4}, 1.f}});
  std::vector<std::int32_t> labels = {0, 0, 0, 1, 1};
  exchange_neurons(labels, w, 2);
  EXPECT_THAT(labels, ElementsAre(0, 0, 1, 1, 1));
  labels = {0, 0, 0, 0, 1};
  exchange_neurons(labels, w, 2);
  EXPECT_THAT(sizes_of(partition_of_labels(labels, 2).experts), ElementsAre(4, 1))
      << "not by three";
}

TEST(CoactivationParts, UnconnectedNeuronsAreDividedToo) {
  for (const auto& sizes : {even_sizes(11, 1), even_sizes(11, 4), even_sizes(11, 11)}) {
    const auto labels = coactivation_parts(Tensor::zeros({11, 11}, DType::f32), sizes, 7);
    const Partition p = partition_of_labels(labels, std::int64_t(sizes.size()));
    EXPECT_EQ(sizes_of(p.experts), sizes);
  }
}

/// An FFN whose neurons fire together by blocks: every token turns one block on, and all neurons a
/// little. Neuron n is in block blocks[n].
struct Planted {
  explicit Planted(const std::vector<std::int64_t>& sizes) {
    std::vector<std::int32_t> sorted;
    for (std::size_t b = 0; b < sizes.size(); ++b)
      sorted.insert(sorted.end(), std::size_t(sizes[b]), std::int32_t(b));
    const std::int64_t neurons = std::int64_t(sorted.size()), hidden = std::int64_t(sizes.size());
    for (const std::int64_t i : permutation(neurons, Philox(5, RandomPurpose::test)))
      blocks.push_back(sorted[std::size_t(i)]);
    calibration.inputs = random_tensor({20 * hidden, hidden}, DType::f32, 1, 0.05);
    for (std::int64_t t = 0; t < 20 * hidden; ++t)
      calibration.inputs.data<float>()[t * hidden + t % hidden] += 2;
    gate = random_tensor({neurons, hidden}, DType::f32, 2, 0.3);
    up = random_tensor({neurons, hidden}, DType::f32, 3, 0.3);
    for (std::int64_t n = 0; n < neurons; ++n) {
      const std::int64_t own = n * hidden + blocks[std::size_t(n)];
      gate.data<float>()[own] += 3;
      up.data<float>()[own] += n % 2 == 0 ? 2 : -2;  // |h| counts, not its sign
    }
  }

  std::vector<std::int32_t> blocks;
  LayerCalibration calibration;
  Tensor gate, up;
};

TEST(CoactivationConstruction, RecoversBlocksThatFireTogether) {
  for (const std::int64_t experts : {2, 7, 8, 16}) {
    SCOPED_TRACE(str(experts, " experts"));
    const auto sizes = even_sizes(172, experts);
    const Planted planted(sizes);
    SplitContext context = {0, 42, 172, sizes};
    context.calibration = &planted.calibration;
    const LayerSplit split =
        make_construction("coactivation", {})->split(context, [&](std::string_view part) {
          return part == "gate" ? planted.gate : planted.up;
        });
    for (const auto& expert : split.partition.experts)
      for (const std::int64_t n : expert)
        EXPECT_EQ(planted.blocks[std::size_t(n)], planted.blocks[std::size_t(expert[0])])
            << "neuron " << n;
    EXPECT_EQ(sizes_of(split.partition.experts), sizes);
    const std::map<std::string, double> m(split.measures.begin(), split.measures.end());
    EXPECT_GT(m.at("weight_within"), 0.8);
    double pairs = 0;
    for (const std::int64_t size : sizes) pairs += double(size * (size - 1));
    EXPECT_DOUBLE_EQ(m.at("weight_within_random"), pairs / (172 * 171));
  }
}

TEST(CoactivationConstruction, CalibrationItCannotUseIsRefused) {
  LayerCalibration calibration = {random_tensor({4, 3}, DType::f32, 1), Tensor()};
  SplitContext context = {0, 42, 10, even_sizes(10, 2)};
  context.calibration = &calibration;
  const auto split = [&] {
    make_construction("coactivation", {})->split(context, test::random_weights(10, 3));
  };
  calibration.inputs.data<float>()[7] = NAN;
  EXPECT_THAT(split, ThrowsMessage<InputError>(HasSubstr("not finite")));
  calibration.inputs = Tensor::empty({0, 3}, DType::f32);
  EXPECT_THAT(split, ThrowsMessage<InputError>(HasSubstr("no tokens")));
}

}  // namespace
}  // namespace moe
