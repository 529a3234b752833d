// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace moe {

class LineReader;

/// Parts a JSON array that lies over any number of lines into the texts of its elements, which are
/// not looked into. Memory: an element, and a line.
class JsonArrayParts {
 public:
  /// `lines` gives the array's text, line by line; the file it reads is called `name` in messages.
  JsonArrayParts(LineReader& lines, std::string name) : lines_(lines), name_(std::move(name)) {}

  /// `line` is the first of the file that is not blank, as read already. True: an array begins
  /// there, and next() gives its elements.
  bool begins(const std::string& line);

  /// The text of the next element, and the line that it begins on; false at the array's end. Throws
  /// InputError for an array that does not end, and for anything behind its end.
  bool next(std::string& element, std::int64_t& line_number);

 private:
  bool refill();

  LineReader& lines_;
  std::string name_;
  std::string line_;
  std::size_t at_ = 0;
  bool ended_ = false;
};

}  // namespace moe
