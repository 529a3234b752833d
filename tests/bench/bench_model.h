// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/rng.h"
#include "train/engine.h"

namespace moe {

/// The model of the training benchmarks: hidden 512, 8 layers, 8 experts of 256, 2 a token.
inline ModelConfig bench_model() {
  ModelConfig c;
  c.vocab_size = 8192;
  c.hidden_size = 512;
  c.intermediate_size = 2048;
  c.layers = 8;
  c.heads = c.kv_heads = 8;
  c.head_dim = 64;
  c.moe.experts = 8;
  c.moe.top_k = 2;
  c.moe.expert_sizes.assign(8, std::vector<std::int64_t>(8, 256));
  c.moe.score_scale.assign(8, 4);
  return c;
}

/// Random tokens of sequences [first, first + sequences), the same on every layout.
inline Batch bench_batch(std::int64_t first, std::int64_t sequences, std::int64_t length) {
  Batch batch;
  batch.tokens = Tensor::empty({sequences, length}, DType::i32);
  batch.labels = empty_like(batch.tokens);
  for (std::int64_t s = 0; s < sequences; ++s) {
    const Philox random(2, RandomPurpose::test, {std::uint64_t(first + s)});
    for (std::int64_t t = 0; t < length; ++t) {
      batch.tokens.data<std::int32_t>()[s * length + t] =
          std::int32_t(random.below(std::uint64_t(t), 8192));
      batch.labels.data<std::int32_t>()[s * length + t] =
          std::int32_t(random.below(std::uint64_t(length + t), 8192));
    }
    batch.sequence_ids.push_back(first + s);
    batch.domains.push_back(0);
  }
  return batch;
}

}  // namespace moe
