// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace moe {

/// One entry of a data set: named fields, nested ones by dotted paths ("choices.text",
/// "endings.0"). Readers throw InputError beginning with where() for a field that is missing or of
/// another kind.
class Record {
 public:
  struct Fields;
  Record(std::shared_ptr<const Fields> fields, std::string where);

  /// "sciq.jsonl:12": where it begins.
  const std::string& where() const { return where_; }
  bool has(const std::string& path) const;
  /// Text as it is, numbers and truth values as JSON writes them.
  std::string text(const std::string& path) const;
  /// A list of the above.
  std::vector<std::string> texts(const std::string& path) const;
  /// A whole number, or a truth value as 0 or 1.
  std::int64_t integer(const std::string& path) const;

 private:
  std::shared_ptr<const Fields> fields_;
  std::string where_;
};

/// The records of a jsonl file (.gz and .zst too; blank lines are passed over) or, where its name
/// ends in .csv (or .csv.gz, ...), of a CSV file (RFC 4180; no line of headings), whose columns are
/// named by `columns`. At most `limit`. `subset`, where it is not empty, becomes the field "subset"
/// of every record. Throws InputError naming file and line.
std::vector<Record> read_records(const std::filesystem::path& path,
                                 const std::vector<std::string>& columns,
                                 const std::string& subset = "", std::int64_t limit = INT64_MAX);

}  // namespace moe
