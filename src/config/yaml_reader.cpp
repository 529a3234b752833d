// SPDX-License-Identifier: Apache-2.0
#include "config/yaml_reader.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <set>

#include "core/error.h"

namespace moe {
namespace {

std::string child(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replace = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
    }
  }
  return row.back();
}

std::string suggestion(const std::string& key, const ConfigSection& section) {
  const ConfigField* nearest = nullptr;
  std::size_t least = std::max<std::size_t>(2, key.size() / 3) + 1;
  for (const ConfigField& field : section.fields) {
    const std::size_t distance = edit_distance(key, field.key);
    if (distance < least) least = distance, nearest = &field;
  }
  return nearest ? " (did you mean " + nearest->key + "?)" : "";
}

std::string quoted_names(const ConfigChoice& choice) {
  std::string text;
  for (std::size_t i = 0; i < choice.names.size(); ++i)
    text += (i == 0 ? "" : i + 1 == choice.names.size() ? " or " : ", ") + choice.names[i];
  return text;
}

/// Reads the nodes of one source, a file or one --set, and remembers which keys it has seen.
class Reader {
 public:
  Reader(std::string source, bool has_lines, std::set<std::string>& seen)
      : source_(std::move(source)), has_lines_(has_lines), seen_(seen) {}

  [[noreturn]] void fail(const YAML::Node& node, const std::string& reason) const {
    // A value that is not there has no place of its own: its key's line is meant.
    fail(node.IsNull() ? key_line_ : node.Mark().line, reason);
  }
  [[noreturn]] void fail(int line, const std::string& reason) const {
    throw InputError(has_lines_ && line >= 0 ? str(source_, ":", line + 1, ": ", reason)
                                             : str(source_, ": ", reason));
  }

  YAML::Node parse(const std::string& text) const {
    try {
      const std::vector<YAML::Node> documents = YAML::LoadAll(text);
      if (documents.size() > 1) fail(documents[1], "a second YAML document");
      return documents.empty() ? YAML::Node() : documents[0];
    } catch (const YAML::Exception& e) {
      fail(e.mark.line, "bad YAML: " + e.msg);
    }
  }

  void section(const YAML::Node& node, const ConfigSection& section, const std::string& path) {
    if (node.IsNull()) return;
    if (!node.IsMap()) fail(node, (path.empty() ? "" : path + ": ") + "expected keys with values");
    std::set<std::string> here;
    for (const auto& entry : node) {
      const YAML::Node& name = entry.first;
      if (!name.IsScalar()) fail(name, child(path, "?") + ": a key must be a plain word");
      const std::string full = child(path, name.Scalar());
      if (!here.insert(name.Scalar()).second) fail(name, full + ": given twice");
      const auto field = std::find_if(section.fields.begin(), section.fields.end(),
                                      [&](const auto& f) { return f.key == name.Scalar(); });
      if (field == section.fields.end())
        fail(name, full + ": unknown key" + suggestion(name.Scalar(), section));
      key_line_ = name.Mark().line;
      read(entry.second, *field, full);
    }
  }

  void read(const YAML::Node& node, const ConfigField& field, const std::string& path) {
    seen_.insert(path);
    std::visit([&](const auto& target) { value(node, target, path); }, field.target);
  }

 private:
  [[noreturn]] void wrong(const YAML::Node& node, const std::string& path,
                          const std::string& expected) const {
    const std::string got = node.IsScalar()     ? "'" + node.Scalar() + "'"
                            : node.IsNull()     ? "nothing"
                            : node.IsSequence() ? "a list"
                                                : "keys with values";
    fail(node, path + ": expected " + expected + ", got " + got);
  }

  /// yaml-cpp gives quoted scalars the tag "!": those are text, never numbers.
  template <class T>
  T number(const YAML::Node& node, const std::string& path, const char* expected) const {
    T x{};
    if (!node.IsScalar() || node.Tag() == "!") wrong(node, path, expected);
    const std::string& text = node.Scalar();
    const char* first = text.data() + (text.starts_with('+') ? 1 : 0);
    const char* last = text.data() + text.size();
    const auto result = std::from_chars(first, last, x);
    if (result.ec == std::errc::result_out_of_range)
      wrong(node, path, str(expected, " that fits 64 bits"));
    if (result.ec != std::errc() || result.ptr != last) wrong(node, path, expected);
    if constexpr (std::is_floating_point_v<T>)
      if (!std::isfinite(x)) wrong(node, path, "a finite number");
    return x;
  }

  void value(const YAML::Node& node, std::int64_t* x, const std::string& path) {
    *x = number<std::int64_t>(node, path, "an integer");
  }
  void value(const YAML::Node& node, double* x, const std::string& path) {
    *x = number<double>(node, path, "a number");
  }
  void value(const YAML::Node& node, bool* x, const std::string& path) {
    const bool plain = node.IsScalar() && node.Tag() != "!";
    if (!plain || (node.Scalar() != "true" && node.Scalar() != "false"))
      wrong(node, path, "true or false");
    *x = node.Scalar() == "true";
  }
  void value(const YAML::Node& node, std::string* x, const std::string& path) {
    if (!node.IsScalar()) wrong(node, path, "text");
    *x = node.Scalar();
  }
  void value(const YAML::Node& node, std::vector<std::string>* x, const std::string& path) {
    if (!node.IsSequence()) wrong(node, path, "a list of texts");
    x->assign(node.size(), "");
    for (std::size_t i = 0; i < node.size(); ++i)
      value(node[i], &(*x)[i], child(path, std::to_string(i)));
  }
  template <class T>
  void value(const YAML::Node& node, std::optional<T>* x, const std::string& path) {
    if (node.IsNull()) {
      x->reset();
      return;
    }
    T given{};
    value(node, &given, path);
    *x = given;
  }
  void value(const YAML::Node& node, const ConfigChoice& choice, const std::string& path) {
    const auto found = node.IsScalar()
                           ? std::find(choice.names.begin(), choice.names.end(), node.Scalar())
                           : choice.names.end();
    if (found == choice.names.end()) wrong(node, path, quoted_names(choice));
    choice.set(std::size_t(found - choice.names.begin()));
  }
  void value(const YAML::Node& node, const ConfigList& list, const std::string& path) {
    if (!node.IsSequence()) wrong(node, path, "a list");
    std::erase_if(seen_, [&](const std::string& s) { return s.starts_with(path + "."); });
    list.resize(0);
    list.resize(node.size());
    for (std::size_t i = 0; i < node.size(); ++i) {
      const std::string element = child(path, std::to_string(i));
      if (!node[i].IsMap()) wrong(node[i], element, "keys with values");
      section(node[i], list.at(i), element);
    }
  }
  void value(const YAML::Node& node, const ConfigSection& target, const std::string& path) {
    section(node, target, path);
  }

  std::string source_;
  bool has_lines_;
  int key_line_ = -1;
  std::set<std::string>& seen_;
};

void apply_override(const std::string& text, const ConfigSection& root,
                    std::set<std::string>& seen) {
  Reader reader("--set " + text, false, seen);
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos) reader.fail(-1, "expected key=value");
  const std::string path = text.substr(0, equals), value = text.substr(equals + 1);

  ConfigField field{"", root, "", false};
  std::string at;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    begin = end + 1;
    if (const auto* list = std::get_if<ConfigList>(&field.target)) {
      std::size_t i = 0;
      const auto [stop, error] = std::from_chars(key.data(), key.data() + key.size(), i);
      if (error != std::errc() || stop != key.data() + key.size() || i >= list->size())
        reader.fail(-1, str(child(at, key), ": no such element, ", at, " has ", list->size()));
      field = {"", list->at(i), "", false};
    } else if (const auto* keys = std::get_if<ConfigSection>(&field.target)) {
      const auto found = std::find_if(keys->fields.begin(), keys->fields.end(),
                                      [&](const auto& f) { return f.key == key; });
      if (found == keys->fields.end())
        reader.fail(-1, child(at, key) + ": unknown key" + suggestion(key, *keys));
      field = ConfigField(*found);
    } else {
      reader.fail(-1, child(at, key) + ": unknown key (" + at + " is a single value)");
    }
    at = child(at, key);
  }

  YAML::Node node;
  const bool is_text = std::holds_alternative<std::string*>(field.target);
  if (is_text) {
    // Text from a command line needs no quotes: what is no YAML scalar is taken as it stands.
    try {
      node = YAML::Load(value);
    } catch (const YAML::Exception&) {
    }
    if (!node.IsScalar()) node = YAML::Node(value);
  } else {
    node = reader.parse(value);
  }
  reader.read(node, field, at);
}

void require_keys(const ConfigSection& section, const std::string& path, const std::string& name,
                  const std::set<std::string>& seen) {
  for (const ConfigField& field : section.fields) {
    const std::string full = child(path, field.key);
    MOE_REQUIRE(!field.required || seen.contains(full), name, ": ", full, ": missing (", field.doc,
                ")");
    if (field.overrides) continue;
    if (const auto* keys = std::get_if<ConfigSection>(&field.target))
      require_keys(*keys, full, name, seen);
    if (const auto* list = std::get_if<ConfigList>(&field.target))
      for (std::size_t i = 0; i < list->size(); ++i)
        require_keys(list->at(i), child(full, std::to_string(i)), name, seen);
  }
}

/// The YAML text of single values; empty for an optional that is not set.
struct ScalarText {
  std::string operator()(const std::int64_t* x) const { return fmt::format("{}", *x); }
  std::string operator()(const double* x) const { return fmt::format("{}", *x); }
  std::string operator()(const bool* x) const { return *x ? "true" : "false"; }
  template <class T>
  std::string operator()(const std::optional<T>* x) const {
    return *x ? (*this)(&**x) : "";
  }
  std::string operator()(const ConfigChoice& choice) const {
    const auto i = choice.get();
    return i ? choice.names[*i] : "";
  }
};

class Writer {
 public:
  void section(const ConfigSection& section) {
    out_ << YAML::BeginMap;
    for (const ConfigField& field : section.fields)
      std::visit([&](const auto& target) { entry(field.key, target); }, field.target);
    out_ << YAML::EndMap;
  }
  std::string text() const { return std::string(out_.c_str()) + "\n"; }

 private:
  void key(const std::string& name) { out_ << YAML::Key << name << YAML::Value; }
  void entry(const std::string& name, std::string* x) {
    key(name);
    out_ << YAML::DoubleQuoted << *x;
  }
  void entry(const std::string& name, std::vector<std::string>* list) {
    key(name);
    out_ << YAML::Flow << YAML::BeginSeq;
    for (const std::string& x : *list) out_ << YAML::DoubleQuoted << x;
    out_ << YAML::EndSeq;
  }
  void entry(const std::string& name, const ConfigList& list) {
    key(name);
    out_ << YAML::BeginSeq;
    for (std::size_t i = 0; i < list.size(); ++i) section(list.at(i));
    out_ << YAML::EndSeq;
  }
  void entry(const std::string& name, const ConfigSection& keys) {
    key(name);
    section(keys);
  }
  template <class T>
  void entry(const std::string& name, const T& single) {
    const std::string value = ScalarText{}(single);
    if (value.empty()) return;
    key(name);
    out_ << value;
  }

  YAML::Emitter out_;
};

struct TypeName {
  std::string operator()(const std::int64_t*) const { return "integer"; }
  std::string operator()(const double*) const { return "number"; }
  std::string operator()(const bool*) const { return "true or false"; }
  std::string operator()(const std::string*) const { return "text"; }
  std::string operator()(const std::vector<std::string>*) const { return "list of texts"; }
  template <class T>
  std::string operator()(const std::optional<T>*) const {
    return (*this)(static_cast<const T*>(nullptr));
  }
  std::string operator()(const ConfigChoice& choice) const { return quoted_names(choice); }
  std::string operator()(const ConfigList&) const { return "list"; }
  std::string operator()(const ConfigSection&) const { return ""; }
};

struct InitialText : ScalarText {
  using ScalarText::operator();
  std::string operator()(const std::string* x) const { return "\"" + *x + "\""; }
  std::string operator()(const std::vector<std::string>*) const { return "[]"; }
  std::string operator()(const ConfigList&) const { return "[]"; }
  std::string operator()(const ConfigSection&) const { return ""; }
};

void describe_into(const ConfigSection& section, const std::string& path,
                   std::vector<ConfigKey>& rows) {
  for (const ConfigField& field : section.fields) {
    const std::string full = child(path, field.key);
    if (field.overrides) {
      rows.push_back({full, "keys of " + field.key, "as there", field.doc});
      continue;
    }
    if (const auto* keys = std::get_if<ConfigSection>(&field.target)) {
      describe_into(*keys, full, rows);
      continue;
    }
    const std::string initial = std::visit(InitialText{}, field.target);
    rows.push_back({full, std::visit(TypeName{}, field.target),
                    field.required    ? "required"
                    : initial.empty() ? "unset"
                                      : initial,
                    field.doc});
    if (const auto* list = std::get_if<ConfigList>(&field.target))
      describe_into(list->example(), child(full, "N"), rows);
  }
}

}  // namespace

void read_yaml(const std::string& text, const std::string& name,
               std::span<const std::string> overrides, const ConfigSection& into,
               Required required) {
  std::set<std::string> seen;
  Reader file(name, true, seen);
  file.section(file.parse(text), into, "");
  for (const std::string& o : overrides) apply_override(o, into, seen);
  if (required == Required::checked) require_keys(into, "", name, seen);
}

std::string write_yaml(const ConfigSection& section) {
  Writer writer;
  writer.section(section);
  return writer.text();
}

std::vector<ConfigKey> describe(const ConfigSection& section) {
  std::vector<ConfigKey> rows;
  describe_into(section, "", rows);
  return rows;
}

}  // namespace moe
