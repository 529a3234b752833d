// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/text_reader.h"

namespace moe {

/// A place in a list of input files: so many documents of input number `input` have been read.
struct InputPosition {
  std::size_t input = 0;
  std::int64_t documents = 0;
};

/// A document as its file holds it, and where.
struct SourceDocument {
  std::size_t input = 0;  // index of its file
  bool plain_text = false;
  RawDocument raw = {};
  std::vector<std::int32_t> ids = {};  // instead of content, out of a token shard
  std::string damage = {};  // why the rest of the file cannot be read; then there is no document
};

/// Some documents, in order.
struct SourceBatch {
  std::vector<SourceDocument> documents;
  InputPosition end;            // behind them
  std::int64_t bytes_read = 0;  // of all inputs, up to there
};

/// The documents of text files, front to back, in batches. What a batch holds depends only on where
/// it begins.
class BatchReader {
 public:
  struct Options {
    std::vector<std::filesystem::path> inputs;
    std::optional<std::string> separator;  // parts .txt files into documents
    std::size_t batch_bytes = 1 << 20;
    /// A file that is damaged gives a document that says so instead of an InputError.
    bool pass_over_damage = false;
  };
  explicit BatchReader(Options options, InputPosition from = {});

  /// Throws InputError, naming file and line, for an input that cannot be read.
  bool next(SourceBatch& batch);

  /// Of all inputs as they lie on disk; those that cannot be found count nothing.
  static std::int64_t bytes_of(const std::vector<std::filesystem::path>& inputs);

 private:
  bool open_input();
  void close_input(std::int64_t bytes);

  Options options_;
  InputPosition at_;
  std::int64_t to_skip_;
  std::optional<DocumentReader> reader_;
  std::int64_t finished_bytes_ = 0;
};

}  // namespace moe
