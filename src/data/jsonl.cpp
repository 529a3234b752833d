// SPDX-License-Identifier: Apache-2.0
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

json parse_field(std::string_view line, const std::string& field, const std::string& where) {
  json object;
  try {
    object = json::parse(line);
  } catch (const json::exception& e) {
    throw InputError(str(where, ": not valid JSON: ", reason_of(e)));
  }
  MOE_REQUIRE(object.is_object(), where, ": a JSON ", object.type_name(),
              " where an object is expected");
  const auto it = object.find(field);
  MOE_REQUIRE(it != object.end(), where, ": field '", field,
              "' is missing (choose another with --field)");
  return std::move(*it);
}

}  // namespace

std::string parse_text(std::string_view line, const std::string& field, const std::string& where) {
  json value = parse_field(line, field, where);
  MOE_REQUIRE(value.is_string(), where, ": field '", field, "' is a ", value.type_name(),
              ", not text");
  return std::move(value.get_ref<std::string&>());
}

std::vector<std::int32_t> parse_ids(std::string_view line, const std::string& field,
                                    std::int64_t vocabulary_size, const std::string& where) {
  const json value = parse_field(line, field, where);
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
