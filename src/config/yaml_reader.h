// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace moe {

// A configuration struct lists its keys once, as ConfigFields that point at its members. Reading,
// writing, --set overrides and the table in configs/README.md all follow from that list.

struct ConfigField;

/// The keys of one struct, in the order in which they are written.
struct ConfigSection {
  std::vector<ConfigField> fields;
};

/// A member that takes one of a few names. get() is empty for an unset optional.
struct ConfigChoice {
  std::vector<std::string> names;
  std::function<std::optional<std::size_t>()> get;
  std::function<void(std::size_t)> set;
};

/// A list of structs. `example` is the section of an element with its defaults.
struct ConfigList {
  std::function<std::size_t()> size;
  std::function<void(std::size_t)> resize;
  std::function<ConfigSection(std::size_t)> at;
  std::function<ConfigSection()> example;
};

struct ConfigField {
  std::string key;
  std::variant<std::int64_t*, double*, bool*, std::string*, std::vector<std::string>*,
               std::optional<std::int64_t>*, std::optional<double>*, std::optional<bool>*,
               ConfigChoice, ConfigList, ConfigSection>
      target;
  std::string doc;  // one line, for the table and for messages about a missing key
  bool required = false;
  /// Of a section that overrides one with the same keys: none of them is required, and the table
  /// does not list them again.
  bool overrides = false;
};

template <class Enum>
ConfigChoice config_choice(Enum& member,
                           std::initializer_list<std::pair<const char*, Enum>> values) {
  std::vector<std::string> names;
  std::vector<Enum> of;
  for (const auto& [text, value] : values) names.push_back(text), of.push_back(value);
  return {names,
          [&member, of]() -> std::optional<std::size_t> {
            for (std::size_t i = 0; i < of.size(); ++i)
              if (of[i] == member) return i;
            return std::nullopt;
          },
          [&member, of](std::size_t i) { member = of[i]; }};
}

/// Elements of the list begin as `initial`.
template <class T>
ConfigList config_list(std::vector<T>& member, ConfigSection (*keys)(T&), T initial = {}) {
  const auto element = std::make_shared<T>(std::move(initial));
  return {[&member] { return member.size(); },
          [&member, element](std::size_t n) { member.resize(n, *element); },
          [&member, keys](std::size_t i) { return keys(member[i]); },
          [keys, element] { return keys(*element); }};
}

/// Reads one YAML document into the members that `into` points at; what the text does not mention
/// stays as it is. Then each override "a.b=value" is read as YAML into its key; elements of lists
/// are named by number (data.train.0.weight=2), and a whole list may be given in flow style.
///
/// Throws InputError, as "NAME:LINE: a.b: reason" or "--set a.b=c: reason", for bad YAML, unknown
/// keys (with the nearest known one), duplicates, values of the wrong type, and required keys that
/// are missing (unless they are `ignored`). Numbers and true / false are plain scalars; numbers are
/// finite and decimal.
enum class Required : std::uint8_t { checked, ignored };
void read_yaml(const std::string& text, const std::string& name,
               std::span<const std::string> overrides, const ConfigSection& into,
               Required required = Required::checked);

/// The section as YAML: every key, except optionals that are not set. read_yaml gives the same
/// values back, to the last bit.
std::string write_yaml(const ConfigSection& section);

/// One row of the table in configs/README.md. Elements of lists have N in their key.
struct ConfigKey {
  std::string key, type, initial, doc;
};
std::vector<ConfigKey> describe(const ConfigSection& section);

}  // namespace moe
