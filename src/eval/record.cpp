// SPDX-License-Identifier: Apache-2.0
#include "eval/record.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "data/text_reader.h"

namespace moe {

namespace fs = std::filesystem;
using nlohmann::json;

struct Record::Fields {
  json object;

  /// Nothing where the path leads nowhere.
  const json* find(const std::string& path) const {
    const json* at = &object;
    for (std::size_t begin = 0; begin <= path.size();) {
      const std::size_t end = std::min(path.find('.', begin), path.size());
      const std::string key = path.substr(begin, end - begin);
      begin = end + 1;
      if (at->is_object()) {
        const auto it = at->find(key);
        if (it == at->end()) return nullptr;
        at = &*it;
        continue;
      }
      std::size_t i = 0;
      const auto [stop, error] = std::from_chars(key.data(), key.data() + key.size(), i);
      if (!at->is_array() || error != std::errc() || stop != key.data() + key.size() ||
          i >= at->size())
        return nullptr;
      at = &(*at)[i];
    }
    return at;
  }
};

namespace {

const json& found(const Record::Fields& fields, const std::string& path, const std::string& where) {
  const json* value = fields.find(path);
  MOE_REQUIRE(value != nullptr, where, ": field '", path, "' is missing");
  return *value;
}

std::string scalar(const json& value, const std::string& path, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  MOE_REQUIRE(value.is_number() || value.is_boolean(), where, ": field '", path, "' is ",
              value.is_null() ? "null" : str("a JSON ", value.type_name()), ", not text");
  return value.dump();
}

Record make_record(json object, const std::string& subset, std::string where) {
  if (!subset.empty()) object["subset"] = subset;
  return {std::make_shared<Record::Fields>(Record::Fields{std::move(object)}), std::move(where)};
}

json parse_json(const std::string& line, const std::string& where) {
  json object;
  try {
    object = json::parse(line);
  } catch (const json::exception& e) {
    const std::string_view text = e.what();  // "[json.exception.parse_error.101] ..."
    const std::size_t bracket = text.find("] ");
    throw InputError(
        str(where, ": not valid JSON: ", bracket == text.npos ? text : text.substr(bracket + 2)));
  }
  MOE_REQUIRE(object.is_object(), where, ": a JSON ", object.type_name(),
              " where an object is expected");
  return object;
}

/// Reads CSV rows; a quoted cell may hold commas, doubled quotes and newlines.
class CsvReader {
 public:
  explicit CsvReader(const fs::path& path) : path_(path), lines_(path) {}

  /// False at the end; blank lines between rows are passed over.
  bool next(std::vector<std::string>& cells) {
    std::string line;
    do {
      if (!lines_.next(line)) return false;
    } while (line.empty() || line == "\r");
    first_line_ = lines_.line_number();
    cells.assign(1, "");
    bool quoted = false;
    for (std::size_t i = 0;; ++i) {
      if (i >= line.size()) {
        if (!quoted) break;
        cells.back() += '\n';
        MOE_REQUIRE(lines_.next(line), where(), ": a quoted cell has no end");
        i = std::size_t(-1);
        continue;
      }
      const char c = line[i];
      if (quoted) {
        if (c != '"') {
          cells.back() += c;
        } else if (i + 1 < line.size() && line[i + 1] == '"') {
          cells.back() += line[++i];
        } else {
          quoted = false;
        }
      } else if (c == ',') {
        cells.emplace_back();
      } else if (c == '"' && cells.back().empty()) {
        quoted = true;
      } else if (c != '\r' || i + 1 < line.size()) {
        cells.back() += c;
      }
    }
    return true;
  }
  std::string where() const { return str(path_.string(), ":", first_line_); }

 private:
  fs::path path_;
  LineReader lines_;
  std::int64_t first_line_ = 0;
};

bool is_csv(fs::path path) {
  if (path.extension() == ".gz" || path.extension() == ".zst") path = path.stem();
  return path.extension() == ".csv";
}

std::vector<Record> read_csv(const fs::path& path, const std::vector<std::string>& columns,
                             const std::string& subset, std::int64_t limit) {
  MOE_REQUIRE(!columns.empty(), path.string(),
              ": a .csv file needs the names of its columns: give the task `columns`");
  CsvReader reader(path);
  std::vector<Record> records;
  for (std::vector<std::string> cells;
       std::int64_t(records.size()) < limit && reader.next(cells);) {
    MOE_REQUIRE(cells.size() == columns.size(), reader.where(), ": ", cells.size(),
                " cells in a row of ", columns.size(), " columns (", join(columns, ", "), ")");
    json object;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      check_utf8(cells[i], reader.where());
      object[columns[i]] = std::move(cells[i]);
    }
    records.push_back(make_record(std::move(object), subset, reader.where()));
  }
  return records;
}

}  // namespace

Record::Record(std::shared_ptr<const Fields> fields, std::string where)
    : fields_(std::move(fields)), where_(std::move(where)) {}

bool Record::has(const std::string& path) const { return fields_->find(path) != nullptr; }

std::string Record::text(const std::string& path) const {
  return scalar(found(*fields_, path, where_), path, where_);
}

std::vector<std::string> Record::texts(const std::string& path) const {
  const json& list = found(*fields_, path, where_);
  MOE_REQUIRE(list.is_array(), where_, ": field '", path, "' is a JSON ", list.type_name(),
              ", not a list");
  std::vector<std::string> result;
  for (const json& value : list) result.push_back(scalar(value, path, where_));
  return result;
}

std::int64_t Record::integer(const std::string& path) const {
  const json& value = found(*fields_, path, where_);
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  if (value.is_number_integer()) return value.get<std::int64_t>();
  const std::string text = scalar(value, path, where_);
  std::int64_t number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  MOE_REQUIRE(error == std::errc() && stop == text.data() + text.size(), where_, ": field '", path,
              "' is '", text, "', not a whole number");
  return number;
}

std::vector<Record> read_records(const fs::path& path, const std::vector<std::string>& columns,
                                 const std::string& subset, std::int64_t limit) {
  if (is_csv(path)) return read_csv(path, columns, subset, limit);
  LineReader lines(path);
  std::vector<Record> records;
  for (std::string line; std::int64_t(records.size()) < limit && lines.next(line);) {
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const std::string where = str(path.string(), ":", lines.line_number());
    records.push_back(make_record(parse_json(line, where), subset, where));
  }
  return records;
}

}  // namespace moe
