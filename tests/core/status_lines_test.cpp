// SPDX-License-Identifier: Apache-2.0
#include "core/status_lines.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/log.h"
#include "core/terminal.h"

namespace moe {
namespace {

using testing::ElementsAre;

/// A terminal that knows what we send: rows, cursor up, erase the rest of a row, erase below.
struct Screen {
  std::vector<std::string> rows = {""};
  std::size_t row = 0, column = 0;

  explicit Screen(const std::string& bytes) {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (bytes[i] == '\n') {
        if (++row == rows.size()) rows.emplace_back();
        column = 0;
      } else if (bytes[i] == '\r') {
        column = 0;
      } else if (bytes.compare(i, 2, "\033[") == 0) {
        std::size_t n = 0;
        for (i += 2; bytes[i] >= '0' && bytes[i] <= '9'; ++i)
          n = 10 * n + std::size_t(bytes[i] - '0');
        if (bytes[i] == 'A') row -= n;
        if (bytes[i] == 'K' || bytes[i] == 'J') rows[row].resize(column);
        if (bytes[i] == 'J') rows.resize(row + 1);
        if (row >= rows.size()) throw std::runtime_error("above the screen");
      } else {
        rows[row].resize(std::max(rows[row].size(), column + 1), ' ');
        rows[row][column++] = bytes[i];
      }
    }
  }
};

TEST(StatusLines, StayBelowTheMessages) {
  testing::internal::CaptureStderr();
  log_line("before");
  show_status({"step 1", "a long line"});
  log_line("message one");
  show_status({"step 2", "short"});
  log_line("message two");
  show_status({"step 3"});
  leave_status();
  log_line("end");
  const Screen screen(testing::internal::GetCapturedStderr());
  EXPECT_THAT(screen.rows,
              ElementsAre("before", "message one", "message two", "step 3", "end", ""));
  EXPECT_EQ(screen.column, 0u);
}

TEST(StatusLines, LeaveTheCursorOnAFreeRowAtEveryMoment) {
  testing::internal::CaptureStderr();
  show_status({"a", "b", "c"});
  show_status({"d", "e", "f"});
  const std::string bytes = testing::internal::GetCapturedStderr();
  leave_status();
  const Screen screen(bytes);
  EXPECT_THAT(screen.rows, ElementsAre("d", "e", "f", ""));
  EXPECT_EQ(screen.row, 3u);
  EXPECT_TRUE(bytes.ends_with("\n"));
}

TEST(StatusLines, AreCutToTheTerminal) {
  testing::internal::CaptureStderr();
  show_status({std::string(500, 'x')});
  leave_status();
  const Screen screen(testing::internal::GetCapturedStderr());
  EXPECT_EQ(screen.rows[0].size(), std::size_t(terminal_width()) - 1);
}

TEST(StatusLines, MessagesWithoutThemArePlain) {
  testing::internal::CaptureStderr();
  log_line("one");
  log_line("two");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "one\ntwo\n");
}

TEST(Terminal, TextIsCutBetweenCharacters) {
  EXPECT_EQ(cut_to_width("abc", 5), "abc");
  EXPECT_EQ(cut_to_width("abc", 2), "ab");
  EXPECT_EQ(cut_to_width("▁▂▃", 2), "▁▂");
  EXPECT_EQ(cut_to_width("▁▂▃", 0), "");
}

TEST(Terminal, BarsNeedAUtf8Locale) {
  const std::vector<double> values = {0, 1, 2, 9, -1};
  setenv("LC_ALL", "C.UTF-8", 1);
  EXPECT_EQ(bars(values, 2), "▁▅██▁");
  EXPECT_EQ(bars(values, 0), "▁▁▁▁▁");
  setenv("LC_ALL", "C", 1);
  EXPECT_EQ(bars(values, 2), "");
  unsetenv("LC_ALL");
}

}  // namespace
}  // namespace moe
