// SPDX-License-Identifier: Apache-2.0
#include "hf/json_check.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "core/error.h"

namespace moe {
namespace {

constexpr std::size_t kMaxDepth = 16;

class StrictChecker : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return value() && open(); }
  bool end_array() override { return close(); }
  bool key(string_t& text) override {
    return keys_.back().insert(text).second || fail(str("key '", text, "' appears twice"));
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& error) override {
    const std::string what = error.what();
    const std::size_t skip = what.find("] ");
    return fail(str("is no valid JSON (byte ", position,
                    "): ", skip == std::string::npos ? what : what.substr(skip + 2)));
  }
  const std::string& problem() const { return problem_; }

 private:
  bool value() { return !keys_.empty() || fail("is no JSON object"); }
  bool open() {
    keys_.emplace_back();
    return keys_.size() <= kMaxDepth || fail(str("is nested deeper than ", kMaxDepth));
  }
  bool close() {
    keys_.pop_back();
    return true;
  }
  bool fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  std::vector<std::set<std::string>> keys_;
  std::string problem_;
};

}  // namespace

void require_strict_json(std::string_view text, const std::string& where) {
  StrictChecker checker;
  const bool good = nlohmann::json::sax_parse(text, &checker);
  MOE_REQUIRE(good, where, ": ", checker.problem());
}

std::string read_text_file(const std::string& path, std::int64_t limit) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  MOE_REQUIRE(file, path, ": cannot be opened");
  const std::int64_t size = file.tellg();
  MOE_REQUIRE(size >= 0, path, ": cannot be read (is it a folder?)");
  MOE_REQUIRE(size <= limit, path, ": has ", size, " bytes, more than the ", limit,
              " that such a file may have");
  std::string text(std::size_t(size), '\0');
  file.seekg(0);
  file.read(text.data(), size);
  MOE_REQUIRE(file, path, ": cannot be read");
  return text;
}

}  // namespace moe
