// SPDX-License-Identifier: Apache-2.0
#include "core/status_lines.h"

#include <fmt/format.h>

#include <cstdio>
#include <mutex>

#include "core/terminal.h"

namespace moe {
namespace {

constexpr const char* kEraseRest = "\033[K";   // of the row
constexpr const char* kEraseBelow = "\033[J";  // from here to the end of the screen

struct Shown {
  std::mutex mutex;
  std::string text;  // the lines with their ends
  std::size_t rows = 0;

  std::string to_first_row() const { return rows == 0 ? "" : fmt::format("\033[{}A\r", rows); }
};

/// Never destroyed: threads may have something to say until the very end.
Shown& shown() {
  static Shown& only = *new Shown;
  return only;
}

/// One write, so that what ranks and threads say does not mix and nothing flickers.
void write_out(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stderr); }

}  // namespace

void write_message(std::string_view text) {
  Shown& s = shown();
  const std::lock_guard lock(s.mutex);
  const std::string line = std::string(text) + "\n";
  write_out(s.rows == 0 ? line : s.to_first_row() + kEraseBelow + line + s.text);
}

void show_status(const std::vector<std::string>& lines) {
  const auto width = std::size_t(terminal_width()) - 1;
  Shown& s = shown();
  const std::lock_guard lock(s.mutex);
  std::string text;
  for (const std::string& line : lines) text += cut_to_width(line, width) + kEraseRest + "\n";
  write_out(s.to_first_row() + text + (lines.size() < s.rows ? kEraseBelow : ""));
  s.text = text;
  s.rows = lines.size();
}

void leave_status() {
  Shown& s = shown();
  const std::lock_guard lock(s.mutex);
  s.text.clear();
  s.rows = 0;
}

}  // namespace moe
