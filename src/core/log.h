// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace moe {

/// Messages for people, on standard error, one line each. By default only rank 0 speaks.
void set_log_rank(int rank);
int log_rank();
void log_line(std::string_view text);

template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_rank() == 0) log_line(fmt::format(format, std::forward<Args>(args)...));
}

/// From any rank; the line names it.
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  const std::string text = fmt::format(format, std::forward<Args>(args)...);
  log_line(log_rank() == 0 ? "warning: " + text
                           : fmt::format("warning (rank {}): {}", log_rank(), text));
}

/// From rank 0 alone: for what is odd on every rank.
template <typename... Args>
void warn_once(fmt::format_string<Args...> format, Args&&... args) {
  if (log_rank() == 0) log_warning(format, std::forward<Args>(args)...);
}

}  // namespace moe
