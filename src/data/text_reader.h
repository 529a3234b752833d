// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/json_array.h"

namespace moe {

/// The lines of a file, one after the other in constant memory; gzip and zstd are unpacked on the
/// way (told by their first bytes). Throws InputError, naming file and line, for a compressed file
/// that is damaged or ends too early.
class LineReader {
 public:
  explicit LineReader(const std::filesystem::path& path);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  /// The next line without its newline; false at the end.
  bool next(std::string& line);
  /// Of the line returned last, from 1.
  std::int64_t line_number() const;
  /// Bytes of the file (as it lies on disk) read so far.
  std::int64_t bytes_read() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A document as its file holds it.
struct RawDocument {
  std::string content;    // a line of JSON, or the text itself
  std::int64_t line = 0;  // where it begins
};

/// The documents of a .txt file (plain text: the whole file is one document, or several that are
/// parted by lines equal to `separator`; newlines at a document's end are dropped) or of any other
/// file (jsonl: one document a line; blank lines are passed over; or, where a '[' comes first, a
/// JSON array: its elements are the documents). ".gz" and ".zst" behind either.
class DocumentReader {
 public:
  DocumentReader(const std::filesystem::path& path, std::optional<std::string> separator);

  bool next(RawDocument& document);
  bool plain_text() const { return plain_text_; }
  std::int64_t bytes_read() const { return lines_.bytes_read(); }

 private:
  LineReader lines_;
  JsonArrayParts array_;
  std::optional<std::string> separator_;
  bool plain_text_;
  enum { unknown, lines, elements } form_ = unknown;
};

/// The text of a jsonl line: `line` must be a JSON object whose `field` is a string. Throws
/// InputError beginning with `where`.
std::string parse_text(std::string_view line, const std::string& field, const std::string& where);

/// A text, and the name of the set that it is from.
struct LabelledText {
  std::string text, label;
};
/// The text of a jsonl line as parse_text gives it, and the string at `label_path`: keys with dots
/// between them ("meta.redpajama_set_name"). Throws InputError beginning with `where`.
LabelledText parse_labelled_text(std::string_view line, const std::string& field,
                                 const std::string& label_path, const std::string& where);

/// The token ids of a jsonl line: `line` must be a JSON object whose `field` is a list of whole
/// numbers from 0 to vocabulary_size - 1. Throws InputError beginning with `where`.
std::vector<std::int32_t> parse_ids(std::string_view line, const std::string& field,
                                    std::int64_t vocabulary_size, const std::string& where);

/// Throws InputError beginning with `where` unless the text is valid UTF-8.
void check_utf8(std::string_view text, const std::string& where);

}  // namespace moe
