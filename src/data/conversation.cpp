// SPDX-License-Identifier: Apache-2.0
#include "data/conversation.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/bad_document.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr const char* kBroken = "broken JSON";
constexpr const char* kUnknown = "no conversation";
constexpr const char* kField = "bad field";

/// What ShareGPT and its kin call the roles.
std::string role_named(std::string name) {
  static const std::map<std::string, std::string> kNames = {
      {"human", "user"}, {"gpt", "assistant"}, {"chatgpt", "assistant"}, {"model", "assistant"}};
  const auto found = kNames.find(name);
  return found == kNames.end() ? name : found->second;
}

std::string text_of(const json& object, const std::string& key, const std::string& where) {
  const json& value = object.at(key);
  require_good(value.is_string(), kField, where, ": '", key, "' is ", value.type_name(),
               ", not text");
  return value.get<std::string>();
}

/// The first of the keys that the object has.
std::optional<std::string> key_of(const json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys)
    if (object.contains(key)) return key;
  return std::nullopt;
}

ChatMessage turn_of(const json& turn, const std::string& where) {
  require_good(turn.is_object(), kField, where, ": ", turn.type_name(),
               ", not an object of a role and a content");
  const auto role = key_of(turn, {"role", "from"}), content = key_of(turn, {"content", "value"});
  require_good(role && content, kField, where, ": 'role' and 'content' (or 'from' and 'value') ",
               role ? "lack the second" : "lack the first");
  return {role_named(text_of(turn, *role, where)), text_of(turn, *content, where)};
}

}  // namespace

Conversation parse_conversation(std::string_view line, const std::string& where) {
  json object;
  try {
    object = json::parse(line);
  } catch (const json::exception& e) {
    const std::string_view what = e.what();  // begins with "[json.exception...] "
    throw BadDocument(kBroken, str(where, ": not valid JSON: ", what.substr(what.find("] ") + 2)));
  }
  require_good(object.is_object(), kUnknown, where, ": a JSON ", object.type_name(),
               " where an object with a conversation is expected");
  Conversation result;
  if (const auto key = key_of(object, {"messages", "conversations"})) {
    const json& turns = object[*key];
    require_good(turns.is_array(), kField, where, ": '", *key, "' is ", turns.type_name(),
                 ", not a list of turns");
    for (std::size_t i = 0; i < turns.size(); ++i)
      result.messages.push_back(turn_of(turns[i], str(where, ": ", *key, "[", i, "]")));
    return result;
  }
  const auto instruction = key_of(object, {"instruction", "prompt"});
  const auto output = instruction && *instruction == "instruction"
                          ? key_of(object, {"output"})
                          : key_of(object, {"response", "completion"});
  require_good(instruction && output, kUnknown, where,
               ": no 'messages', no 'conversations', no 'instruction' with 'output', no 'prompt' "
               "with 'response' or 'completion'");
  result.messages = {{"user", text_of(object, *instruction, where)},
                     {"assistant", text_of(object, *output, where)}};
  if (*instruction == "instruction" && object.contains("input"))
    result.input = text_of(object, "input", where);
  return result;
}

}  // namespace moe
