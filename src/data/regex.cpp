// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/regex.h"

#include <pcre2.h>

#include "core/error.h"

namespace moe {
namespace {

/// Unicode's property White_Space, for inside of brackets. PCRE2's own \s has U+180E besides.
constexpr std::string_view kWhiteSpace =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

/// The pattern as PCRE2 has to be given it.
std::string translate(const std::string& pattern, const std::string& where) {
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    if (c != '\\' || i + 1 == pattern.size()) {
      out += c;
      continue;
    }
    const char escaped = pattern[++i];
    MOE_REQUIRE(std::string_view("wWbBhH").find(escaped) == std::string_view::npos &&
                    !(escaped == 'S' && in_class),
                where, ": the pattern ", pattern, " has \\", escaped,
                in_class ? " in brackets" : "", ", which is not supported");
    if (escaped == 's')
      out += in_class ? std::string(kWhiteSpace) : str('[', kWhiteSpace, ']');
    else if (escaped == 'S')
      out += str("[^", kWhiteSpace, ']');
    else
      out += {'\\', escaped};
  }
  return out;
}

std::string message_of(int code) {
  PCRE2_UCHAR message[256];
  pcre2_get_error_message(code, message, sizeof message);
  return reinterpret_cast<const char*>(message);
}

}  // namespace

struct Regex::Scratch::Impl {
  struct Free {
    void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
    void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
    void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
  };
  std::unique_ptr<pcre2_match_data, Free> data{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_jit_stack, Free> stack{pcre2_jit_stack_create(32 << 10, 8 << 20, nullptr)};
  std::unique_ptr<pcre2_match_context, Free> context{pcre2_match_context_create(nullptr)};
};

Regex::Scratch::Scratch() : impl_(std::make_unique<Impl>()) {
  MOE_CHECK(impl_->data && impl_->context, "PCRE2 has no memory");
  // Without a stack of its own (no JIT here) it runs on the thread's.
  if (impl_->stack) pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
}
Regex::Scratch::~Scratch() = default;
Regex::Scratch::Scratch(Scratch&&) noexcept = default;

struct Regex::Impl {
  Impl(pcre2_code* compiled, std::string place) : code(compiled), where(std::move(place)) {}
  ~Impl() { pcre2_code_free(code); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  pcre2_code* code;
  std::string where;
};

Regex::Regex(const std::string& pattern, const std::string& where) {
  const std::string translated = translate(pattern, where);
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr);
  MOE_REQUIRE(code != nullptr, where, ": the pattern ", pattern, " is none: ", message_of(error));
  impl_ = std::make_shared<const Impl>(code, where);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it fails, the interpreter serves
}

Regex::Range Regex::search(std::string_view text, std::size_t from, Scratch& scratch) const {
  pcre2_match_data* data = scratch.impl_->data.get();
  const int found = pcre2_match(impl_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                from, PCRE2_NO_UTF_CHECK, data, scratch.impl_->context.get());
  if (found == PCRE2_ERROR_NOMATCH) return {std::string_view::npos, std::string_view::npos};
  MOE_REQUIRE(found >= 0, impl_->where, ": the pattern cannot be searched for in a text of ",
              text.size(), " bytes: ", message_of(found));
  const PCRE2_SIZE* match = pcre2_get_ovector_pointer(data);
  return {match[0], match[1]};
}

}  // namespace moe
