// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer_steps.h"

#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr const char* kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// One component, with its place in the file for messages.
class Component {
 public:
  Component(const json& value, std::string where) : value_(value), where_(std::move(where)) {
    MOE_REQUIRE(value_.is_object(), where_, ": a JSON ", value_.type_name(),
                " where an object is expected");
    type_ = text("type");
    where_ += str(" (", type_, ")");
  }

  const std::string& type() const { return type_; }
  const std::string& where() const { return where_; }

  std::string text(const char* key) const {
    const json& value = at(key);
    MOE_REQUIRE(value.is_string(), where_, ": '", key, "' is a ", value.type_name(), ", not text");
    return value.get<std::string>();
  }

  std::string text(const char* key, const char* otherwise) const {
    return value_.contains(key) ? text(key) : otherwise;
  }

  bool flag(const char* key, bool otherwise) const {
    if (!value_.contains(key)) return otherwise;
    const json& value = value_.at(key);
    MOE_REQUIRE(value.is_boolean(), where_, ": '", key, "' is a ", value.type_name(),
                ", not true or false");
    return value.get<bool>();
  }

  std::int64_t number(const char* key) const {
    const json& value = at(key);
    MOE_REQUIRE(value.is_number_integer(), where_, ": '", key, "' is a ", value.type_name(),
                ", not a whole number");
    return value.get<std::int64_t>();
  }

  std::vector<Component> list(const char* key) const {
    const json& value = at(key);
    MOE_REQUIRE(value.is_array(), where_, ": '", key, "' is a ", value.type_name(), ", not a list");
    std::vector<Component> components;
    for (std::size_t i = 0; i < value.size(); ++i)
      components.emplace_back(value[i], str(where_, ' ', key, '[', i, ']'));
    return components;
  }

  /// {"String": ...} or {"Regex": ...}: the text, and whether it is a regular expression.
  std::pair<std::string, bool> pattern() const {
    const json& value = at("pattern");
    for (const char* kind : {"String", "Regex"})
      if (value.is_object() && value.contains(kind) && value.at(kind).is_string()) {
        const auto found = value.at(kind).get<std::string>();
        MOE_REQUIRE(!found.empty(), where_, ": the pattern is empty");
        return {found, kind == std::string_view("Regex")};
      }
    throw InputError(str(where_, ": 'pattern' is neither a String nor a Regex"));
  }

  [[noreturn]] void refuse(const std::string& what = "is not supported") const {
    throw InputError(str(where_, ": ", what));
  }

 private:
  const json& at(const char* key) const {
    const auto found = value_.find(key);
    MOE_REQUIRE(found != value_.end(), where_, ": '", key, "' is missing");
    return *found;
  }

  const json& value_;
  std::string where_;
  std::string type_;
};

std::string quoted(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c)))
      pattern += '\\';
    pattern += c;
  }
  return pattern;
}

void read_normalizer(const Component& c, std::vector<TextNormalizer::Step>& steps) {
  static const std::map<std::string, TextNormalizer::Form> forms = {
      {"NFC", TextNormalizer::Form::nfc},
      {"NFD", TextNormalizer::Form::nfd},
      {"NFKC", TextNormalizer::Form::nfkc},
      {"NFKD", TextNormalizer::Form::nfkd}};
  if (c.type() == "Sequence") {
    for (const Component& inner : c.list("normalizers")) read_normalizer(inner, steps);
  } else if (c.type() == "Prepend") {
    steps.push_back(TextNormalizer::Prepend{c.text("prepend")});
  } else if (c.type() == "Strip") {
    steps.push_back(TextNormalizer::Strip{c.flag("strip_left", true), c.flag("strip_right", true)});
  } else if (c.type() == "Replace") {
    auto [from, regex] = c.pattern();
    if (regex)
      steps.push_back(TextNormalizer::ReplacePattern{Regex(from, c.where()), c.text("content")});
    else
      steps.push_back(TextNormalizer::Replace{from, c.text("content")});
  } else if (const auto form = forms.find(c.type()); form != forms.end()) {
    steps.push_back(form->second);
  } else {
    c.refuse();
  }
}

Split::Behavior read_behavior(const Component& c, const char* otherwise) {
  static const std::map<std::string, Split::Behavior> behaviors = {
      {"Isolated", Split::Behavior::isolated},
      {"Removed", Split::Behavior::removed},
      {"MergedWithPrevious", Split::Behavior::with_previous},
      {"MergedWithNext", Split::Behavior::with_next},
      {"Contiguous", Split::Behavior::contiguous}};
  const std::string name = c.text("behavior", otherwise);
  const auto found = behaviors.find(name);
  if (found == behaviors.end()) c.refuse(str("behavior '", name, "' is not supported"));
  return found->second;
}

void read_pre_tokenizer(const Component& c, TokenizerSteps& steps) {
  if (steps.byte_level) c.refuse("nothing may follow a ByteLevel here");
  const auto split = [&](const std::string& pattern, Split::Behavior behavior,
                         bool invert = false) {
    steps.splits.push_back({Regex(pattern, c.where()), behavior, invert});
  };
  // What is put before each word is computed before there are words, or not at all.
  const auto prepend = [&](const std::string& text, bool only_at_beginning) {
    if (!steps.splits.empty()) c.refuse("is supported only before what splits the text");
    steps.preparation.push_back(TextNormalizer::Prepend{text, true, only_at_beginning});
  };
  if (c.type() == "Sequence") {
    for (const Component& inner : c.list("pretokenizers")) read_pre_tokenizer(inner, steps);
  } else if (c.type() == "Split") {
    const auto [pattern, regex] = c.pattern();
    split(regex ? pattern : quoted(pattern), read_behavior(c, ""), c.flag("invert", false));
  } else if (c.type() == "ByteLevel") {
    if (c.flag("add_prefix_space", true)) prepend(" ", false);
    if (c.flag("use_regex", true)) split(kGpt2Words, Split::Behavior::isolated);
    steps.byte_level = true;
  } else if (c.type() == "Metaspace") {
    const std::string space = c.text("replacement");
    if (!steps.splits.empty()) c.refuse("is supported only before what splits the text");
    steps.preparation.push_back(TextNormalizer::Replace{" ", space});
    const std::string scheme =
        c.text("prepend_scheme", c.flag("add_prefix_space", true) ? "always" : "never");
    if (scheme != "never" && scheme != "always" && scheme != "first")
      c.refuse(str("prepend_scheme '", scheme, "' is not supported"));
    if (scheme != "never") prepend(space, scheme == "first");
    if (c.flag("split", true)) split(quoted(space), Split::Behavior::with_next);
  } else if (c.type() == "Digits") {
    split(R"(\p{N})", c.flag("individual_digits", false) ? Split::Behavior::isolated
                                                         : Split::Behavior::contiguous);
  } else if (c.type() == "Punctuation") {
    split(R"([\p{P}$+<=>^`|~])", read_behavior(c, "Isolated"));
  } else if (c.type() == "WhitespaceSplit") {
    split(R"(\s)", Split::Behavior::removed);
  } else {
    c.refuse();
  }
}

void read_decoder(const Component& c, TokenizerSteps& steps) {
  if (c.type() == "Sequence") {
    for (const Component& inner : c.list("decoders")) read_decoder(inner, steps);
  } else if (c.type() == "Replace") {
    const auto [from, regex] = c.pattern();
    if (regex || steps.decoded) c.refuse("only one, of plain text, is supported");
    steps.decoded = TextNormalizer::Replace{from, c.text("content")};
  } else if (c.type() == "Metaspace") {
    if (steps.decoded) c.refuse("only one component that replaces is supported");
    steps.decoded = TextNormalizer::Replace{c.text("replacement"), " "};
    steps.drops_first_space =
        c.text("prepend_scheme", c.flag("add_prefix_space", true) ? "always" : "never") != "never";
  } else if (c.type() == "Strip") {
    if (c.text("content") != " " || c.number("start") > 1 || c.number("stop") != 0)
      c.refuse("only of one space at the beginning is supported");
    steps.drops_first_space = c.number("start") == 1;
  } else if (c.type() == "ByteLevel") {
    if (!steps.byte_level) c.refuse("needs a ByteLevel pre_tokenizer");
  } else if (c.type() == "ByteFallback") {
    steps.decodes_bytes = true;
  } else if (c.type() != "Fuse") {
    c.refuse();
  }
}

}  // namespace

TokenizerSteps read_tokenizer_steps(const std::string& normalizer, const std::string& pre_tokenizer,
                                    const std::string& decoder, const std::string& file) {
  TokenizerSteps steps;
  const json normalizing = json::parse(normalizer);
  const json cutting = json::parse(pre_tokenizer);
  const json decoding = json::parse(decoder);
  if (!normalizing.is_null())
    read_normalizer(Component(normalizing, file + ": normalizer"), steps.normalizer);
  if (!cutting.is_null()) read_pre_tokenizer(Component(cutting, file + ": pre_tokenizer"), steps);
  MOE_REQUIRE(!decoding.is_null(), file, ": decoder: there is none, so ids cannot become text");
  read_decoder(Component(decoding, file + ": decoder"), steps);
  return steps;
}

}  // namespace moe
