// SPDX-License-Identifier: Apache-2.0
#include "eval/template.h"

#include <cctype>

#include "core/error.h"

namespace moe {
namespace {

constexpr std::string_view kWhitespace = " \t\n\r\f\v";

std::string trim(const std::string& text) {
  const std::size_t first = text.find_first_not_of(kWhitespace);
  if (first == text.npos) return "";
  return text.substr(first, text.find_last_not_of(kWhitespace) + 1 - first);
}

void replace_all(std::string& text, std::string_view what, std::string_view by) {
  for (std::size_t at = 0; (at = text.find(what, at)) != text.npos; at += by.size())
    text.replace(at, what.size(), by);
}

std::string capitalize(std::string text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    text[i] = static_cast<char>(i == 0 ? std::toupper(c) : std::tolower(c));
  }
  return text;
}

std::string without_wikihow_marks(const std::string& raw) {
  std::string text = trim(raw);
  replace_all(text, " [title]", ". ");
  for (std::size_t open = 0; (open = text.find('[', open)) != text.npos;) {
    const std::size_t close = text.find(']', open);
    if (close == text.npos) break;
    text.erase(open, close + 1 - open);
  }
  replace_all(text, "  ", " ");
  return text;
}

/// What "{expression}" stands for.
std::string value_of(const std::string& expression, const Record& record) {
  std::size_t begin = 0, end = std::min(expression.find('|'), expression.size());
  const std::string field = expression.substr(0, end);
  std::string text = record.text(field);
  while (end < expression.size()) {
    begin = end + 1;
    end = std::min(expression.find('|', begin), expression.size());
    text = filter_text(expression.substr(begin, end - begin), text, record.where());
  }
  return text;
}

}  // namespace

std::string filter_text(const std::string& filter, const std::string& text,
                        const std::string& where) {
  const std::size_t space = filter.find(' ');
  const std::string name = filter.substr(0, space);
  const std::string argument = space == filter.npos ? "" : filter.substr(space + 1);
  if (name == "before" || name == "after") {
    MOE_REQUIRE(!argument.empty(), "filter '", name, "' needs the text to look for, as in '", name,
                " _'");
    const std::size_t at = text.find(argument);
    MOE_REQUIRE(at != text.npos, where, ": '", text, "' has no '", argument, "'");
    return name == "before" ? text.substr(0, at) : text.substr(at + argument.size());
  }
  MOE_REQUIRE(argument.empty(), "filter '", name, "' takes nothing behind it, not '", argument,
              "'");
  if (name == "trim") return trim(text);
  if (name == "capitalize") return capitalize(text);
  if (name == "wikihow") return without_wikihow_marks(text);
  if (name == "spaces") {
    std::string spaced = text;
    replace_all(spaced, "_", " ");
    return spaced;
  }
  const std::size_t last = text.rfind(' ');
  if (name == "but_last_word") return last == text.npos ? "" : text.substr(0, last);
  if (name == "last_word") return last == text.npos ? text : text.substr(last + 1);
  throw InputError(str("unknown filter '", name, "': use trim, capitalize, spaces, before X, ",
                       "after X, but_last_word, last_word or wikihow"));
}

std::string fill_template(const std::string& text, const Record& record) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c != '{' && c != '}') {
      out += c;
    } else if (i + 1 < text.size() && text[i + 1] == c) {
      out += text[++i];
    } else {
      const std::size_t end = text.find('}', i);
      MOE_REQUIRE(c == '{' && end != text.npos, "template '", text, "': a ", c,
                  " without its other half (", c, c, " stands for ", c, ")");
      out += value_of(text.substr(i + 1, end - i - 1), record);
      i = end;
    }
  }
  return out;
}

}  // namespace moe
