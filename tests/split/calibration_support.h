// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/rng.h"
#include "data/token_writer.h"
#include "hf/model_folder.h"
#include "nn/parameter_store.h"
#include "support/test_folder.h"

namespace moe::test {

/// A small dense LLaMA with weights large enough that layers do something.
inline ModelConfig small_dense(std::int64_t layers = 2) {
  ModelConfig c;
  c.vocab_size = 23;
  c.hidden_size = 16;
  c.intermediate_size = 20;
  c.layers = layers;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.max_positions = 64;
  c.initializer_range = 0.5;
  return c;
}

inline std::filesystem::path write_dense(const TestFolder& folder, const ModelConfig& config,
                                         const std::string& name = "dense") {
  WriteOptions write;
  write.format = ModelFormat::llama;
  write.dtype = DType::f32;
  (void)write_model(folder / name, config, write, initial_weights(config, 11));
  return folder / name;
}

/// A shard of documents of the given lengths, ids at random, the first one BOS.
inline std::filesystem::path write_shard(const TestFolder& folder, const ModelConfig& config,
                                         const std::vector<std::int64_t>& lengths,
                                         const std::string& name = "text.h5",
                                         const std::string& tokenizer_hash = "",
                                         std::uint64_t seed = 3) {
  TokenFileInfo info;
  info.domain = "test";
  info.vocabulary_size = config.vocab_size;
  info.tokenizer_hash = tokenizer_hash;
  info.bos_id = std::int32_t(config.bos_token);
  TokenWriter writer(info, folder.path());
  const Philox random(seed, RandomPurpose::test);
  std::uint64_t n = 0;
  for (const std::int64_t length : lengths) {
    std::vector<std::int32_t> ids = {std::int32_t(config.bos_token)};
    while (std::int64_t(ids.size()) < length)
      ids.push_back(std::int32_t(random.below(n++, std::uint64_t(config.vocab_size))));
    writer.append(ids);
  }
  (void)writer.write(folder / name);
  return folder / name;
}

}  // namespace moe::test
