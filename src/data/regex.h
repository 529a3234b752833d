// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace moe {

/// A regular expression of PCRE2 over UTF-8, with Unicode's properties. White space (\s) is
/// Unicode's, as in the libraries that tokenizers were made with. Safe from many threads, each with
/// a Scratch.
class Regex {
 public:
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(Scratch&&) noexcept;

   private:
    friend class Regex;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  /// Throws InputError, beginning with `where`, at a pattern that is none, or that means something
  /// else here than there (\w and \b).
  Regex(const std::string& pattern, const std::string& where);

  struct Range {
    std::size_t begin, end;
  };
  /// The first match at or behind `from` in valid UTF-8; {npos, npos}: none. Throws InputError
  /// where the library gives up on this text.
  Range search(std::string_view text, std::size_t from, Scratch& scratch) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace moe
