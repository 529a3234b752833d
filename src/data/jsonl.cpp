// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/text_reader.h"

namespace moe {
namespace {

using nlohmann::json;

/// nlohmann's messages begin with "[json.exception.parse_error.101] ".
std::string reason_of(const json::exception& e) {
  const std::string_view text = e.what();
  const std::size_t bracket = text.find("] ");
  return std::string(bracket == text.npos ? text : text.substr(bracket + 2));
}

json parse_object(std::string_view line, const std::string& where) {
  json object;
  try {
    object = json::parse(line);
  } catch (const json::exception& e) {
    throw InputError(str(where, ": not valid JSON: ", reason_of(e)));
  }
  MOE_REQUIRE(object.is_object(), where, ": a JSON ", object.type_name(),
              " where an object is expected");
  return object;
}

json take_field(json&& object, const std::string& field, const std::string& where) {
  const auto it = object.find(field);
  MOE_REQUIRE(it != object.end(), where, ": field '", field,
              "' is missing (choose another with --field)");
  return std::move(*it);
}

std::string take_text(json&& object, const std::string& field, const std::string& where) {
  json value = take_field(std::move(object), field, where);
  MOE_REQUIRE(value.is_string(), where, ": field '", field, "' is a ", value.type_name(),
              ", not text");
  return std::move(value.get_ref<std::string&>());
}

}  // namespace

std::string parse_text(std::string_view line, const std::string& field, const std::string& where) {
  return take_text(parse_object(line, where), field, where);
}

LabelledText parse_labelled_text(std::string_view line, const std::string& field,
                                 const std::string& label_path, const std::string& where) {
  json object = parse_object(line, where);
  const json* at = &object;
  for (std::size_t begin = 0; begin <= label_path.size();) {
    const std::size_t dot = std::min(label_path.find('.', begin), label_path.size());
    const auto it = at->is_object() ? at->find(label_path.substr(begin, dot - begin)) : at->end();
    MOE_REQUIRE(it != at->end(), where, ": the set name, field '", label_path,
                "', is missing (choose another with --set-field)");
    at = &*it;
    begin = dot + 1;
  }
  MOE_REQUIRE(at->is_string(), where, ": the set name, field '", label_path, "', is a ",
              at->type_name(), ", not text");
  LabelledText result{.text = {}, .label = at->get<std::string>()};
  result.text = take_text(std::move(object), field, where);
  return result;
}

std::vector<std::int32_t> parse_ids(std::string_view line, const std::string& field,
                                    std::int64_t vocabulary_size, const std::string& where) {
  const json value = take_field(parse_object(line, where), field, where);
  MOE_REQUIRE(value.is_array(), where, ": field '", field, "' is a ", value.type_name(),
              ", not a list of token ids");
  std::vector<std::int32_t> ids;
  ids.reserve(value.size());
  for (const json& id : value) {
    MOE_REQUIRE(id.is_number_integer(), where, ": entry ", ids.size(), " of '", field,
                "' is no token id");
    const bool inside = id.is_number_unsigned() &&
                        id.get<std::uint64_t>() < static_cast<std::uint64_t>(vocabulary_size);
    MOE_REQUIRE(inside, where, ": token id ", id.dump(), " at position ", ids.size(),
                " is beyond the vocabulary of ", vocabulary_size);
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

void check_utf8(std::string_view text, const std::string& where) {
  try {
    static_cast<void>(json(text).dump());
  } catch (const json::exception& e) {
    throw InputError(str(where, ": not valid UTF-8: ", reason_of(e)));
  }
}

}  // namespace moe
