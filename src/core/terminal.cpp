// SPDX-License-Identifier: Apache-2.0
#include "core/terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>

namespace moe {
namespace {

constexpr int kUsualWidth = 80, kLeastWidth = 20;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int width_of(int descriptor) {
  winsize size = {};
  return ::ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

bool utf8_locale() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"})
    if (const std::string value = environment(name); !value.empty())
      return value.find("UTF-8") != std::string::npos || value.find("utf8") != std::string::npos;
  return false;
}

}  // namespace

bool live_terminal() {
  const std::string kind = environment("TERM");
  return ::isatty(STDERR_FILENO) == 1 && !kind.empty() && kind != "dumb";
}

int terminal_width() {
  int width = width_of(STDERR_FILENO);
  if (width == 0)
    if (const int own = ::open("/dev/tty", O_RDONLY | O_CLOEXEC | O_NOCTTY); own >= 0) {
      width = width_of(own);
      ::close(own);
    }
  return width == 0 ? kUsualWidth : std::max(width, kLeastWidth);
}

std::string cut_to_width(std::string_view text, std::size_t columns) {
  std::size_t end = 0;
  for (; end < text.size(); ++end) {
    const bool begins = (std::uint8_t(text[end]) & 0xc0) != 0x80;
    if (begins && columns-- == 0) break;
  }
  return std::string(text.substr(0, end));
}

std::string bars(std::span<const double> values, double most) {
  constexpr std::array kBars = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  if (!utf8_locale()) return {};
  std::string text;
  for (const double value : values) {
    const double share = most > 0 && value > 0 ? std::min(value / most, 1.0) : 0;
    text += kBars[std::size_t(std::lround(share * double(kBars.size() - 1)))];
  }
  return text;
}

}  // namespace moe
