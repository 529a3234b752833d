// SPDX-License-Identifier: Apache-2.0
// What a token costs that attends to a cache, against reading the weights it needs once: a plain
// sum over the same bytes on the same threads, in turn with it.
// Usage: bench_generate [rounds]
#include <omp.h>

#include <cstdio>
#include <cstdlib>

#include "bench_support.h"
#include "core/parallel.h"
#include "generate/generator.h"
#include "train/model_source.h"

namespace moe {
namespace {

constexpr std::int64_t kTokens = 8;  // a measurement

/// 150 M parameters, most of them in the feed-forward layers.
ModelConfig model_of(bool experts) {
  ModelConfig c;
  c.vocab_size = 8192;
  c.hidden_size = 1024;
  c.intermediate_size = 4096;
  c.layers = 8;
  c.heads = 16;
  c.kv_heads = 16;
  c.head_dim = 64;
  if (experts) {
    c.moe.experts = 8;
    c.moe.top_k = 2;
    c.moe.gate = GateKind::linear;
    c.moe.gate_noise = false;
    c.moe.expert_sizes.assign(8, std::vector<std::int64_t>(8, 512));
    c.moe.score_scale.assign(8, 4);
  }
  return c;
}

/// The weights that one token reads: all but the other rows of the embedding, and of the experts as
/// many as are chosen.
std::vector<Tensor> active_weights(const ModelConfig& c, const ParameterStore& parameters) {
  std::vector<Tensor> tensors;
  for (const Parameter& p : parameters.all()) {
    Tensor t = p.variable.value;
    if (p.name() == "embed.weight") continue;
    if (p.name().find(".experts.") != std::string::npos)
      t = t.slice(0, t.rows() * c.moe.top_k / c.moe.experts);
    tensors.push_back(t);
  }
  return tensors;
}

std::uint64_t sum(const Tensor& t) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(t.bytes());
  const auto n = std::int64_t(t.nbytes() / sizeof(std::uint64_t));
  std::vector<std::uint64_t> partial(static_cast<std::size_t>(omp_get_max_threads()));
#pragma omp parallel
  {
    std::uint64_t mine = 0;
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < n; ++i) mine += words[i];
    partial[std::size_t(omp_get_thread_num())] = mine;
  }
  std::uint64_t total = 0;
  for (const std::uint64_t p : partial) total += p;
  return total;
}

void measure(bool experts, DType dtype, int rounds) {
  const ModelConfig config = model_of(experts);
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  ParameterStore parameters(config, dtype);
  parameters.load(initial_weights(config, 1));
  const Transformer model(config, parameters, grid);
  const std::vector<Tensor> weights = active_weights(config, parameters);
  double bytes = 0;
  for (const Tensor& t : weights) bytes += double(t.nbytes());

  GenerateOptions options;
  options.max_tokens = kTokens + 1;  // the first comes with the prompt
  std::vector<double> token, read, ratio;
  std::uint64_t sink = 0;
  for (int round = -1; round < rounds; ++round) {  // one to warm up
    GenerateTimes times;
    generate_texts(model, {std::vector<std::int32_t>(32, 1)}, options, nullptr, &times);
    const double reading = seconds_of([&] {
      for (std::int64_t i = 0; i < kTokens; ++i)
        for (const Tensor& t : weights) sink += sum(t);
    });
    if (round < 0) continue;
    token.push_back(times.new_seconds / double(times.new_tokens));
    read.push_back(reading / double(kTokens));
    ratio.push_back(token.back() / read.back());
  }
  std::printf("%-6s %-5s %6.0f MB  token %7.2f ms  reading %7.2f ms (%4.1f GB/s)  ratio %.2f%s\n",
              experts ? "8/2" : "dense", name(dtype), bytes / 1e6, 1e3 * median(token),
              1e3 * median(read), bytes / median(read) / 1e9, median(ratio), sink == 1 ? " " : "");
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 9;
  std::printf("%d threads, medians of %d rounds of %lld tokens, ratio the median of the rounds'\n",
              omp_get_max_threads(), rounds, static_cast<long long>(moe::kTokens));
  for (const bool experts : {false, true})
    for (const moe::DType dtype : {moe::DType::f32, moe::DType::bf16})
      moe::measure(experts, dtype, rounds);
}
