// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "core/rng.h"
#include "kernels/backend.h"

// Rates of the heavy CPU kernels, each beside the yardstick: an f32 product of 2048 x 2048 matrices
// on the same threads, run right before each measurement, because a busy neighbour changes rates
// manifold. `of_yardstick` is the median of the ratios of the two rates.

namespace moe {
namespace {

Tensor random_tensor(const Shape& shape, DType dtype) {
  Tensor wide = Tensor::empty(shape, DType::f32);
  const Philox random(1, RandomPurpose::test);
  for (std::int64_t i = 0; i < wide.size(); ++i)
    wide.data<float>()[i] = float(random.uniform(std::uint64_t(i)) - 0.5);
  Tensor t = Tensor::empty(shape, dtype);
  cpu_backend().cast(t, wide);
  return t;
}

// Seconds of one call, over as many calls as take about 20 ms.
template <class F>
double seconds(F&& f) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double elapsed = 0;
  int calls = 0;
  do {
    f();
    ++calls;
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (elapsed < 0.02);
  return elapsed / calls;
}

double yardstick_rate() {
  constexpr std::int64_t kSize = 2048;
  static const Tensor a = random_tensor({kSize, kSize}, DType::f32);
  static const Tensor b = random_tensor({kSize, kSize}, DType::f32);
  static Tensor c = Tensor::empty({kSize, kSize}, DType::f32);
  const auto product = [] { cpu_backend().gemm(c, a, false, b, false, 0); };
  return 2.0 * kSize * kSize * kSize / seconds(product);
}

template <class F>
void measure(benchmark::State& state, double flops, F&& kernel) {
  kernel();
  std::vector<double> ratios;
  for (auto _ : state) {
    const double rate = yardstick_rate(), time = seconds(kernel);
    state.SetIterationTime(time);
    ratios.push_back(flops / time / rate);
  }
  std::nth_element(ratios.begin(), ratios.begin() + std::ptrdiff_t(ratios.size() / 2),
                   ratios.end());
  state.counters["of_yardstick"] = ratios[ratios.size() / 2];
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

// The types by name() and the number of a benchmark's argument.
DType type_of(const benchmark::State& state) { return DType(state.range(0)); }
const std::vector<std::int64_t> kFast = {std::int64_t(DType::f32), std::int64_t(DType::bf16)};
const std::vector<std::int64_t> kAll = {std::int64_t(DType::f32), std::int64_t(DType::bf16),
                                        std::int64_t(DType::f64)};

// Arguments: type, m, n, k, and the operand that is transposed: 0 none, 1 a, 2 b.
void Gemm(benchmark::State& state) {
  const DType type = type_of(state);
  const std::int64_t m = state.range(1), n = state.range(2), k = state.range(3);
  const bool transpose_a = state.range(4) == 1, transpose_b = state.range(4) == 2;
  const Tensor a = random_tensor(transpose_a ? Shape{k, m} : Shape{m, k}, type);
  const Tensor b = random_tensor(transpose_b ? Shape{n, k} : Shape{k, n}, type);
  Tensor c = Tensor::empty({m, n}, transpose_a ? accumulator(type) : type);
  state.SetLabel(name(type));
  measure(state, 2.0 * double(m * n * k),
          [&] { cpu_backend().gemm(c, a, transpose_a, b, transpose_b, 0); });
}
BENCHMARK(Gemm)
    ->ArgNames({"type", "m", "n", "k", "transposed"})
    ->ArgsProduct({kAll, {2048}, {512}, {512}, {0, 1, 2}})
    ->ArgsProduct({kFast, {2048}, {8192}, {512}, {2}})
    ->ArgsProduct({kFast, {512}, {8192}, {2048}, {1}})
    ->UseManualTime()
    ->Iterations(9);

// Arguments: type, experts, rows of an expert (a third more for the first, a third less for the
// last), and the product: 0 up, 1 down, 2 weight gradient. Width 512, 256 neurons an expert.
void GroupedGemm(benchmark::State& state) {
  constexpr std::int64_t kWidth = 512, kNeurons = 256;
  const DType type = type_of(state);
  const std::int64_t experts = state.range(1), mean_rows = state.range(2);
  std::vector<std::int64_t> rows = {0}, neurons = {0};
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int64_t uneven = e == 0 ? mean_rows / 3 : e == experts - 1 ? -mean_rows / 3 : 0;
    rows.push_back(rows.back() + mean_rows + uneven);
    neurons.push_back(neurons.back() + kNeurons);
  }
  const ExpertGroups groups{rows, neurons};
  Tensor x = random_tensor({rows.back(), kWidth}, type);
  Tensor hidden = random_tensor({groups.hidden_size()}, type);
  const Tensor w = random_tensor({neurons.back(), kWidth}, type);
  Tensor dw = Tensor::empty({neurons.back(), kWidth}, accumulator(type));
  static constexpr const char* kProducts[] = {" up", " down", " weight"};
  const std::int64_t product = state.range(3);
  state.SetLabel(std::string(name(type)) + kProducts[product]);
  measure(state, 2.0 * double(rows.back()) * kWidth * kNeurons, [&] {
    if (product == 0) cpu_backend().grouped_gemm_up(hidden, x, w, groups);
    if (product == 1) cpu_backend().grouped_gemm_down(x, hidden, w, groups, 0);
    if (product == 2) cpu_backend().grouped_gemm_weight(dw, hidden, x, groups, 0);
  });
}
BENCHMARK(GroupedGemm)
    ->ArgNames({"type", "experts", "rows", "product"})
    ->ArgsProduct({kFast, {8}, {16, 64, 512}, {0, 1, 2}})
    ->UseManualTime()
    ->Iterations(9);

// Arguments: type, length of queries, length of keys, length of the documents (0: a row is one
// document), and the pass: 0 forward, 1 backward,
// 2 both. Batch 4, 8 heads of 64. Only the scores that count are counted.
void Attention(benchmark::State& state) {
  const DType type = type_of(state);
  const std::int64_t length = state.range(1), keys = state.range(2), pass = state.range(4);
  const std::int64_t document = state.range(3) > 0 ? state.range(3) : keys;
  const AttentionShape shape = {4, length, keys, 8, 8, 64};
  const Shape q_shape = {4 * length, 512}, kv_shape = {4 * keys, 512};
  const Tensor q = random_tensor(q_shape, type), dout = random_tensor(q_shape, type);
  const Tensor k = random_tensor(kv_shape, type), v = random_tensor(kv_shape, type);
  Tensor out = empty_like(q), lse = Tensor::empty({4, 8, length}, accumulator(type));
  Tensor dq = empty_like(q), dk = empty_like(k), dv = empty_like(k);
  Tensor starts = state.range(3) > 0 ? Tensor::empty({4, length}, DType::i32) : Tensor();
  double scores = 0;
  for (std::int64_t i = 0; i < 4 * length; ++i) {
    const std::int64_t position = i % length + keys - length,
                       start = position / document * document;
    if (starts.defined()) starts.data<std::int32_t>()[i] = std::int32_t(start);
    scores += 8 * double(position - start + 1);
  }
  static constexpr const char* kPasses[] = {" forward", " backward", " both"};
  state.SetLabel(std::string(name(type)) + kPasses[pass]);
  cpu_backend().attention_forward(out, lse, q, k, v, starts, shape);
  const double products = pass == 0 ? 2 : pass == 1 ? 5 : 7;
  measure(state, products * scores * 2 * 64, [&] {
    if (pass != 1) cpu_backend().attention_forward(out, lse, q, k, v, starts, shape);
    if (pass != 0)
      cpu_backend().attention_backward(dq, dk, dv, dout, q, k, v, out, lse, starts, shape);
  });
}
BENCHMARK(Attention)
    ->ArgNames({"type", "queries", "keys", "document", "pass"})
    ->ArgsProduct({kFast, {512}, {512}, {0}, {0, 1, 2}})
    ->ArgsProduct({kFast, {2048}, {2048}, {0, 256, 2048}, {0, 1, 2}})
    ->ArgsProduct({kFast, {1}, {2048}, {0}, {0}})
    ->UseManualTime()
    ->Iterations(9);

}  // namespace
}  // namespace moe
