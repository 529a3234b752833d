// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/token_writer.h"
#include "data/tokenizer.h"

namespace moe {

/// How many documents go to the held-out shard: a count, or a fraction of all.
struct HeldOutSize {
  std::int64_t count = 0;
  double fraction = 0;  // when count is 0
};
/// "200" or "0.01". Throws InputError.
HeldOutSize parse_held_out(const std::string& text);

struct BuildOptions {
  std::vector<std::filesystem::path> inputs;
  bool tokenized = false;                // inputs hold {"input_ids":[...]}, not text
  const Tokenizer* tokenizer = nullptr;  // needed for text
  std::int64_t vocabulary_size = 0;      // 0: the tokenizer's
  std::string domain;
  std::string field;                     // empty: "text", or "input_ids" when tokenized
  std::optional<std::string> separator;  // parts .txt files into documents
  bool bos = false, eos = false;         // put around every document
  bool skip_bad = false;                 // count unusable lines instead of stopping at the first
  std::filesystem::path output;
  std::optional<HeldOutSize> held_out;
  std::filesystem::path held_out_output;
  std::uint64_t seed = 42;  // chooses the held-out documents
  bool force = false;       // replace existing shards
  int threads = 0;          // 0: all cores
};

struct BuildReport {
  TokenWriter::Written written{0, 0}, held_out{0, 0};
  std::int64_t empty = 0;    // documents without text, left out
  std::int64_t skipped = 0;  // unusable lines, left out (skip_bad)
  double seconds = 0;
};

/// Hears the bytes of input read and the tokens made so far.
using BuildProgress = std::function<void(std::int64_t bytes, std::int64_t tokens)>;

/// Writes every document of the inputs, in order, to the output shard or to the held-out one: each
/// to exactly one of them. The bytes written do not depend on the number of threads. Throws
/// InputError for input that cannot be used, naming file and line; nothing is written then.
BuildReport build_shards(const BuildOptions& options, const BuildProgress& progress = {});

/// A seeded choice of `count` out of `total` documents: bit i says whether document i is held out.
std::vector<bool> choose_held_out(std::int64_t total, std::int64_t count, std::uint64_t seed);

}  // namespace moe
