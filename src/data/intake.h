// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/batch_reader.h"
#include "data/set_names.h"

namespace moe {

/// How raw documents are read and which of them are taken.
struct IntakeOptions {
  std::vector<std::filesystem::path> inputs;
  std::string field = "text";            // of a jsonl line
  std::optional<std::string> separator;  // parts .txt files into documents
  std::string domain;                    // of all documents, unless sets says it
  std::optional<SetNames> sets;
  bool skip_bad = false;      // count what cannot be used instead of stopping at the first
  std::int64_t max_bad = -1;  // with skip_bad: stop when there is more; -1: any number
};

/// What became of one document.
enum class Fate { taken, empty, bad, unknown_set };

/// A document that was looked at.
struct Examined {
  Fate fate = Fate::taken;
  std::string domain = {};
  std::string text = {};
  std::string reason = {};  // of what is not taken: the message about a bad one, the unknown set
};

/// What was left out, and why.
struct IntakeCounts {
  std::int64_t empty = 0;
  std::int64_t bad = 0;
  std::map<std::string, std::int64_t> unknown_sets;
};

/// Looks at raw documents (on many threads at once) and counts what became of them (in order).
class Intake {
 public:
  explicit Intake(IntakeOptions options) : options_(std::move(options)) {}

  const IntakeOptions& options() const { return options_; }
  BatchReader reader(std::size_t batch_bytes, InputPosition from) const;

  /// Reads a document's text and domain, or says why not. Throws InputError for what must stop the
  /// job. Safe from many threads.
  Examined examine(const SourceDocument& document) const;
  /// The same for readers of other things: `read` fills what is taken; what it throws as InputError
  /// is a bad document.
  Examined examine(const SourceDocument& document,
                   const std::function<void(const std::string& where, Examined&)>& read) const;

  /// Counts a document; true when it is to be kept. Names the first bad ones in the log. Throws
  /// InputError when there are more than max_bad.
  bool admit(const Examined& document);

  const IntakeCounts& counts() const { return counts_; }
  /// The counts as JSON, and back.
  std::string state() const;
  void restore(const std::string& state);

 private:
  void read_text(const SourceDocument& document, const std::string& where, Examined& result) const;

  IntakeOptions options_;
  IntakeCounts counts_;
};

/// All that the documents taken depend on, as a JSON object: the inputs with sizes and times, too.
std::string describe(const IntakeOptions& options);

}  // namespace moe
