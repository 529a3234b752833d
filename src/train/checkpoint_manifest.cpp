// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_manifest.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "data/checksum.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr int kFormatVersion = 1;
constexpr std::string_view kHead = "{\"checksum\": \"", kMiddle = "\",";
constexpr std::size_t kHexDigits = 16;
constexpr std::size_t kBody = kHead.size() + kHexDigits + kMiddle.size();
/// More than any tensor has; products of dimensions below it do not overflow.
constexpr std::int64_t kMostElements = std::int64_t{1} << 50;

DType dtype_named(const std::string& text) {
  for (const DType t :
       {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8, DType::f16})
    if (text == name(t)) return t;
  throw InputError("unknown number type '" + text + "'");
}

std::uint64_t parse_hex(const std::string& text) {
  MOE_REQUIRE(
      text.size() == kHexDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos,
      "'", text, "' is no checksum");
  return std::stoull(text, nullptr, 16);
}

std::int64_t count(const json& object, const char* key) {
  const auto& value = object.at(key);
  MOE_REQUIRE(value.is_number_integer() && value.get<std::int64_t>() >= 0, key,
              " must be a count, is ", value.dump());
  return value.get<std::int64_t>();
}

void check_shape(const ManifestTensor& t) {
  MOE_REQUIRE(!t.shape.empty(), t.name, " has no dimensions");
  std::int64_t elements = 1;
  for (const std::int64_t n : t.shape) {
    MOE_REQUIRE(n >= 0 && n <= kMostElements / std::max<std::int64_t>(elements, 1), t.name,
                " has the shape ", join(t.shape));
    elements = std::max<std::int64_t>(elements, 1) * n;
  }
}

json to_json(const Manifest& m) {
  json files = json::array(), tensors = json::array();
  for (const ManifestFile& f : m.files)
    files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"checksum", hex(f.checksum)}});
  for (const ManifestTensor& t : m.tensors) {
    json parts = json::array();
    for (const ManifestPart& p : t.parts)
      parts.push_back({{"file", p.file},
                       {"first_row", p.first_row},
                       {"rows", p.rows},
                       {"checksum", hex(p.checksum)}});
    tensors.push_back(
        {{"name", t.name}, {"dtype", name(t.dtype)}, {"shape", t.shape}, {"parts", parts}});
  }
  return {{"format", kFormatVersion}, {"step", m.step}, {"files", files}, {"tensors", tensors}};
}

Manifest from_json(const json& j) {
  const std::int64_t format = count(j, "format");
  MOE_REQUIRE(format == kFormatVersion, "format version ", format, ", this program reads ",
              kFormatVersion);
  Manifest m;
  m.step = count(j, "step");
  for (const json& f : j.at("files")) {
    ManifestFile file{f.at("name").get<std::string>(), count(f, "bytes"),
                      parse_hex(f.at("checksum").get<std::string>())};
    MOE_REQUIRE(
        !file.name.empty() && file.name.find('/') == std::string::npos && file.name[0] != '.', "'",
        file.name, "' is no name of a file");
    m.files.push_back(std::move(file));
  }
  std::set<std::string> names;
  for (const json& t : j.at("tensors")) {
    ManifestTensor tensor;
    tensor.name = t.at("name").get<std::string>();
    MOE_REQUIRE(names.insert(tensor.name).second, tensor.name, " is listed twice");
    tensor.dtype = dtype_named(t.at("dtype").get<std::string>());
    tensor.shape = t.at("shape").get<Shape>();
    check_shape(tensor);
    for (const json& p : t.at("parts")) {
      ManifestPart part{std::size_t(count(p, "file")), count(p, "first_row"), count(p, "rows"),
                        parse_hex(p.at("checksum").get<std::string>())};
      MOE_REQUIRE(part.file < m.files.size(), tensor.name, " lies in file number ", part.file,
                  " of ", m.files.size());
      MOE_REQUIRE(part.rows <= tensor.shape[0] && part.first_row <= tensor.shape[0] - part.rows,
                  tensor.name, " has rows ", part.first_row, " + ", part.rows, " of ",
                  tensor.shape[0]);
      tensor.parts.push_back(part);
    }
    std::stable_sort(tensor.parts.begin(), tensor.parts.end(),
                     [](const auto& a, const auto& b) { return a.first_row < b.first_row; });
    m.tensors.push_back(std::move(tensor));
  }
  return m;
}

}  // namespace

std::string to_text(const Manifest& manifest) {
  const std::string body = "\n\"manifest\": " + to_json(manifest).dump(1) + "}\n";
  return str(kHead, hex(checksum(body)), kMiddle, body);
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  const bool framed = text.size() > kBody && text.starts_with(kHead) &&
                      text.substr(kHead.size() + kHexDigits).starts_with(kMiddle);
  MOE_REQUIRE(framed, where, ": is no manifest of a checkpoint, or is damaged");
  const std::string_view body = text.substr(kBody);
  MOE_REQUIRE(text.substr(kHead.size(), kHexDigits) == hex(checksum(body)), where,
              ": its checksum differs: the file is damaged");
  try {
    return from_json(json::parse(text).at("manifest"));
  } catch (const json::exception& e) {
    throw InputError(str(where, ": ", e.what()));
  } catch (const InputError& e) {
    throw InputError(str(where, ": ", e.what()));
  }
}

void require_rows(const ManifestTensor& tensor, std::int64_t first, std::int64_t rows,
                  const std::string& where) {
  const std::int64_t end = first + rows;
  MOE_REQUIRE(first >= 0 && rows >= 0 && end <= tensor.shape[0], where, ": ", tensor.name, " has ",
              tensor.shape[0], " rows, rows ", first, " to ", end, " are wanted");
  std::int64_t next = first;
  for (const ManifestPart& p : tensor.parts) {
    const std::int64_t lo = std::max(p.first_row, first), hi = std::min(p.first_row + p.rows, end);
    if (lo >= hi) continue;
    MOE_REQUIRE(lo >= next, where, ": rows ", lo, " to ", std::min(next, hi), " of ", tensor.name,
                " are stored twice");
    MOE_REQUIRE(lo <= next, where, ": rows ", next, " to ", lo, " of ", tensor.name,
                " are missing");
    next = hi;
  }
  MOE_REQUIRE(next == end, where, ": rows ", next, " to ", end, " of ", tensor.name,
              " are missing");
}

Manifest merge_manifests(std::int64_t step, const std::vector<std::string>& reports) {
  Manifest whole;
  whole.step = step;
  std::map<std::string, std::size_t> index;
  for (std::size_t rank = 0; rank < reports.size(); ++rank) {
    Manifest part = parse_manifest(reports[rank], str("the report of rank ", rank));
    const std::size_t file = whole.files.size();
    whole.files.insert(whole.files.end(), part.files.begin(), part.files.end());
    for (ManifestTensor& t : part.tensors) {
      for (ManifestPart& p : t.parts) p.file = file;
      const auto [known, is_new] = index.try_emplace(t.name, whole.tensors.size());
      if (is_new) {
        whole.tensors.push_back(std::move(t));
        continue;
      }
      ManifestTensor& tensor = whole.tensors[known->second];
      MOE_CHECK(tensor.shape == t.shape && tensor.dtype == t.dtype, t.name, " is ",
                name(tensor.dtype), " ", join(tensor.shape), " on one rank and ", name(t.dtype),
                " ", join(t.shape), " on rank ", rank);
      tensor.parts.insert(tensor.parts.end(), t.parts.begin(), t.parts.end());
    }
  }
  for (ManifestTensor& t : whole.tensors) {
    std::stable_sort(t.parts.begin(), t.parts.end(),
                     [](const auto& a, const auto& b) { return a.first_row < b.first_row; });
    require_rows(t, 0, t.shape[0], "the ranks' rows");
  }
  return whole;
}

}  // namespace moe
