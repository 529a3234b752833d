// SPDX-License-Identifier: Apache-2.0
#include "generate/generator.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"

namespace moe {
namespace {

std::vector<double> as_f64(const Tensor& logits) {
  const Tensor row = logits.to(Device::cpu);
  std::vector<double> values;
  for_accumulator(row.dtype(),
                  [&]<class A>(A) { values.assign(row.data<A>(), row.data<A>() + row.size()); });
  return values;
}

/// Inverse-transform sampling from softmax(logits / temperature) with u in [0, 1).
std::int32_t sample(const std::vector<double>& logits, double temperature, double u) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (temperature <= 0) return std::int32_t(best - logits.begin());
  double total = 0;
  for (const double l : logits) total += std::exp((l - *best) / temperature);
  double left = u * total;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    left -= std::exp((logits[i] - *best) / temperature);
    if (left < 0) return std::int32_t(i);
  }
  return std::int32_t(best - logits.begin());
}

}  // namespace

std::vector<std::int32_t> generate(const Transformer& model, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options,
                                   const std::function<void(std::int32_t)>& on_token) {
  const ModelConfig& c = model.config();
  MOE_REQUIRE(!prompt.empty(), "an empty prompt: give at least the BOS token");
  for (const std::int32_t id : prompt)
    MOE_REQUIRE(id >= 0 && id < c.vocab_size, "prompt token ", id,
                " lies beyond the vocabulary of ", c.vocab_size);
  const std::int64_t capacity =
      std::min<std::int64_t>(c.max_positions, std::int64_t(prompt.size()) + options.max_tokens);
  MOE_REQUIRE(std::int64_t(prompt.size()) <= c.max_positions, "a prompt of ", prompt.size(),
              " tokens exceeds the model's ", c.max_positions, " positions");
  std::vector<KvCache> caches(std::size_t(c.layers));
  for (KvCache& cache : caches) {
    cache.keys = Tensor::empty({capacity, c.kv_heads * c.head_dim}, model.dtype());
    cache.values = empty_like(cache.keys);
  }

  const Philox random(options.seed, RandomPurpose::sampling);
  std::vector<std::int32_t> next(prompt.begin(), prompt.end()), out;
  std::int64_t position = 0;
  while (std::int64_t(out.size()) < options.max_tokens) {
    ForwardContext context;
    context.first_position = position;
    const std::int64_t n = std::int64_t(next.size());
    const Tensor logits =
        model.next_logits(Tensor::of<std::int32_t>({1, n}, next), context, &caches);
    position += n;
    const std::int32_t id =
        sample(as_f64(logits), options.temperature, random.uniform(std::uint64_t(out.size())));
    out.push_back(id);
    if (on_token) on_token(id);
    const bool stop = std::find(options.stop.begin(), options.stop.end(), id) != options.stop.end();
    if (stop || position >= capacity) break;
    next = {id};
  }
  return out;
}

}  // namespace moe
