// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "data/batch_reader.h"
#include "data/growing_file.h"
#include "data/quality.h"
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
  std::optional<QualityFilter> filter;
  bool deduplicate = false;       // only the first of documents with the same text is taken
  std::filesystem::path removed;  // gets what filter and deduplicate leave out; empty: nothing does
  bool force = false;             // replace that file
};

/// What became of one document.
enum class Fate { taken, empty, bad, unknown_set, filtered };

/// A document that was looked at.
struct Examined {
  Fate fate = Fate::taken;
  std::string domain = {};
  std::string text = {};
  std::string reason = {};  // of what is not taken: the message about a bad one, the unknown set
  std::string kind = {};    // of a bad one, where those like it are counted together
  std::string where = {};   // FILE:LINE, where the file of removed documents needs it
  std::int64_t bytes = 0;   // of the text
  bool truncated = false;   // taken without its end
  std::uint64_t hash = 0;   // of the text, to find duplicates by
};

/// What was left out, and why.
struct IntakeCounts {
  struct Removed {
    std::int64_t documents = 0, bytes = 0;
  };
  std::int64_t empty = 0;
  std::int64_t bad = 0;
  std::map<std::string, std::int64_t> bad_kinds;  // of those that have one
  std::int64_t truncated = 0;                     // taken without their end
  std::map<std::string, std::int64_t> unknown_sets;
  /// By domain and reason: the bound that was broken, or "duplicate".
  std::map<std::string, std::map<std::string, Removed>> removed;
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

  /// A document's text is not needed any more.
  void drop_text(Examined& document) const;

  /// Counts a document; true when it is to be kept. Names the first bad ones in the log. Throws
  /// InputError when there are more than max_bad.
  bool admit(const Examined& document);
  /// All documents of a batch were admitted.
  void end_batch();

  const IntakeCounts& counts() const { return counts_; }

  /// Begins, with files of its own in the folder; `state`: what save() of an earlier run gave
  /// there.
  void open(const std::filesystem::path& folder, const std::string& state = {});
  /// Syncs its files; what open() needs to go on from here.
  std::string save();
  /// Gives the file of removed documents its name.
  void publish();

 private:
  void read_text(const SourceDocument& document, const std::string& where, Examined& result) const;
  void remove(const Examined& document, const std::string& reason);

  IntakeOptions options_;
  IntakeCounts counts_;
  std::unordered_set<std::uint64_t> hashes_;
  std::optional<GrowingFile> hash_file_, removed_file_;
  std::filesystem::path removed_path_;
  std::string removed_lines_;  // of this batch
};

/// All that the documents taken depend on, as a JSON object: the inputs with sizes and times, too.
std::string describe(const IntakeOptions& options);

}  // namespace moe
