// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace moe {

/// A failed run: a broken contract or a system that did not do what it must. Programs exit with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Input from outside that cannot be used. The message names the file, line or tensor at fault and
/// what to do about it. Programs exit with 2.
class InputError : public Error {
 public:
  using Error::Error;
};

/// The arguments printed one after the other.
template <typename... Args>
std::string str(const Args&... args) {
  std::ostringstream out;
  ((out << args), ...);
  return out.str();
}

/// "2x3x4", for messages about shapes.
template <typename Range>
std::string join(const Range& range, const char* separator = "x") {
  std::ostringstream out;
  const char* between = "";
  for (const auto& item : range) {
    out << between << item;
    between = separator;
  }
  return out.str();
}

[[noreturn]] void fail_check(const char* file, int line, const char* what,
                             const std::string& message);

}  // namespace moe

/// Checks a contract between parts of the program, in every build type; throws Error with the
/// place. The message is built only on failure.
#define MOE_CHECK(condition, ...)                                                                 \
  do {                                                                                            \
    if (!(condition)) ::moe::fail_check(__FILE__, __LINE__, #condition, ::moe::str(__VA_ARGS__)); \
  } while (0)

/// Checks what came from outside (a file, an option, a configuration); throws InputError with the
/// message alone, because the reader is the user.
#define MOE_REQUIRE(condition, ...)                                     \
  do {                                                                  \
    if (!(condition)) throw ::moe::InputError(::moe::str(__VA_ARGS__)); \
  } while (0)
