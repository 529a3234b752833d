// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench_support.h"
#include "core/parallel.h"
#include "nn/transformer.h"

// bench_decode [f32|bf16] [tokens a measurement] [measurements] [texts]
// What a token of generation costs: a model of random weights, hidden 1024, 8 layers of 8 experts
// of 704 of which 2 serve a token, with a cache. Beside it the time in which the same threads read
// as many bytes as the weights that serve a token, right before, because a busy neighbour changes
// both. Aim: a ratio of at most 1.5 for one text.

namespace moe {
namespace {

constexpr std::int64_t kPrompt = 64;

ModelConfig decode_model() {
  ModelConfig c;
  c.vocab_size = 16384;
  c.hidden_size = 1024;
  c.intermediate_size = 8 * 704;
  c.layers = 8;
  c.heads = c.kv_heads = 16;
  c.head_dim = 64;
  c.moe.experts = 8;
  c.moe.top_k = 2;
  c.moe.expert_sizes.assign(8, std::vector<std::int64_t>(8, 704));
  c.moe.score_scale.assign(8, 4);
  return c;
}

/// Of the weights that one token meets: all but the embedding and the experts that do not serve it.
std::int64_t active_bytes(const ModelConfig& c, const ParameterStore& store) {
  std::int64_t bytes = 0;
  for (const Parameter& p : store.all()) {
    const auto size = std::int64_t(p.variable.value.nbytes());
    if (p.name() == "embed.weight") continue;
    bytes += p.spec.placement == Placement::expert ? size * c.moe.top_k / c.moe.experts : size;
  }
  return bytes;
}

/// Reads every byte once, on all compute threads.
std::uint64_t read_all(const std::vector<std::uint64_t>& memory) {
  constexpr std::int64_t kChunk = 1 << 15;
  const auto n = std::int64_t(memory.size());
  std::vector<std::uint64_t> sums(std::size_t((n + kChunk - 1) / kChunk));
  parallel_for(n, kChunk, [&](std::int64_t begin, std::int64_t end) {
    std::uint64_t sum = 0;
    for (std::int64_t i = begin; i < end; ++i) sum ^= memory[std::size_t(i)];
    sums[std::size_t(begin / kChunk)] = sum;
  });
  std::uint64_t all = 0;
  for (const std::uint64_t s : sums) all ^= s;
  return all;
}

void run(DType dtype, std::int64_t tokens, int measurements, std::int64_t texts) {
  const ModelConfig config = decode_model();
  const std::unique_ptr<Communicator> world = single_rank();
  const ProcessGrid grid(*world, 1);
  ParameterStore store(config, dtype);
  store.load(initial_weights(config, 1));
  const Transformer model(config, store, grid);

  const std::int64_t length = kPrompt + tokens * (measurements + 1);
  std::vector<KvCache> caches;
  for (std::int64_t t = 0; t < texts; ++t) caches.emplace_back(config, dtype, Device::cpu, length);
  std::vector<KvCache*> pointers;
  for (KvCache& cache : caches) pointers.push_back(&cache);
  const auto pass = [&](std::int64_t count) {
    Tensor ids = Tensor::empty({texts, count}, DType::i32);
    for (std::int64_t i = 0; i < ids.size(); ++i)
      ids.data<std::int32_t>()[i] = std::int32_t((i * 7919 + caches[0].length * 31) % 16384);
    std::vector<std::int32_t> places;
    for (std::int64_t t = 0; t < texts; ++t) places.push_back(std::int32_t((t + 1) * count - 1));
    return model.logits_at(ids, places, {}, pointers);
  };
  (void)pass(kPrompt);
  (void)pass(1);

  const std::int64_t bytes = active_bytes(config, store);
  std::vector<std::uint64_t> memory(std::size_t(bytes / 8), 1);
  std::vector<double> ratios, rates, times;
  std::uint64_t seen = 0;
  for (int m = 0; m < measurements; ++m) {
    double reading = 0, decoding = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      reading += seconds_of([&] { seen ^= read_all(memory); });
      decoding += seconds_of([&] { (void)pass(1); });
    }
    ratios.push_back(decoding / reading);
    rates.push_back(double(bytes * tokens) / reading);
    times.push_back(decoding / double(tokens));
  }
  fmt::print(
      "{} on {} threads, {} texts: a token reads {} MB, {:.2f} ms; reading alone {:.1f} GB/s "
      "({:.2f} ms); ratio {:.2f} (median of {}){}\n",
      name(dtype), compute_threads(), texts, bytes / 1000000, 1e3 * median(times),
      1e-9 * median(rates), 1e3 * double(bytes) / median(rates), median(ratios), measurements,
      seen == 1 ? " " : "");
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  const auto argument = [&](int i, long otherwise) {
    return argc > i ? std::strtol(argv[i], nullptr, 10) : otherwise;
  };
  const bool bf16 = argc > 1 && std::string(argv[1]) == "bf16";
  moe::run(bf16 ? moe::DType::bf16 : moe::DType::f32, argument(2, 4), int(argument(3, 9)),
           argument(4, 1));
}
