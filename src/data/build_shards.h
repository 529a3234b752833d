// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/chat_encoder.h"
#include "data/intake.h"
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
  const Tokenizer* from = nullptr;       // inputs are token shards that this one made
  const Tokenizer* tokenizer = nullptr;  // needed for text
  const ChatEncoder* chat = nullptr;     // inputs hold conversations, of which it makes ids
  std::int64_t max_tokens = 0;           // of a conversation; 0: any number
  bool truncate = false;                 // longer ones lose their end; else they are left out
  std::int64_t vocabulary_size = 0;      // 0: the tokenizer's
  std::string domain;
  std::optional<SetNames> sets;          // instead of domain: each document's set says it
  std::string field;                     // empty: "text", or "input_ids" when tokenized
  std::optional<std::string> separator;  // parts .txt files into documents
  bool bos = false, eos = false;         // put around every document
  std::int64_t cut_documents = 0;        // parts documents of more ids than this; 0: none
  bool skip_bad = false;                 // count unusable lines instead of stopping at the first
  std::int64_t max_bad = -1;             // with skip_bad: how many at most; -1: any number
  std::optional<QualityFilter> filter;   // of text
  bool deduplicate = false;              // only the first of documents with the same text
  std::filesystem::path removed;         // gets what those two leave out; empty: nothing does
  /// A shard X.h5; with shard_tokens shards X-00000.h5, X-00001.h5, ...; with sets a folder, which
  /// gets DOMAIN.h5 or DOMAIN-00000.h5, ... for each domain.
  std::filesystem::path output;
  std::int64_t shard_tokens = 0;  // a shard ends with the document that reaches so many; 0: never
  std::optional<HeldOutSize> held_out;    // of each domain
  std::filesystem::path held_out_output;  // with sets: not used, DOMAIN-held-out.h5
  std::uint64_t seed = 42;                // chooses the held-out documents
  bool force = false;                     // replace existing shards
  int threads = 0;                        // 0: all cores
  double save_every = 30;                 // seconds of work that a kill may cost
};

struct BuildReport {
  struct Domain {
    std::string name;
    std::int64_t documents = 0, tokens = 0;  // held-out ones too
    std::int64_t text_bytes = 0;             // of their text; 0 when tokenized
  };
  struct Shard {
    std::filesystem::path path;
    std::string domain;
    bool held_out = false;
    std::int64_t documents = 0, tokens = 0;
    std::int64_t learned = 0;  // tokens of conversations
  };
  std::vector<Domain> domains;  // in the order in which the inputs first have them
  std::vector<Shard> shards;
  TokenWriter::Written written, held_out;  // sums over shards
  IntakeCounts left_out;
  double seconds = 0;
};

/// Hears the bytes of input read and the tokens made so far; first, where an earlier run stopped.
using BuildProgress = std::function<void(std::int64_t bytes, std::int64_t tokens)>;

/// Writes every document of the inputs, in order, to a shard of its domain or to the held-out one:
/// each to exactly one of them. The bytes written do not depend on the number of threads. What is
/// done is saved in a folder beside the output; after a kill the same call goes on from there, to
/// the same bytes. Throws InputError for input that cannot be used, naming file and line; no shard
/// is written then.
BuildReport build_shards(const BuildOptions& options, const BuildProgress& progress = {});

/// A seeded choice of `count` out of `total` documents: bit i says whether document i is held out.
std::vector<bool> choose_held_out(std::int64_t total, std::int64_t count, std::uint64_t seed);

}  // namespace moe
