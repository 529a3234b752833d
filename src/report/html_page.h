// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace moe {

/// Text as it may stand in HTML, between tags and in quoted attributes; control characters are
/// replaced.
std::string html_escape(std::string_view text);

/// A whole page that needs nothing else, light or dark as the reader's system is, with the styles
/// that svg_chart.h refers to and `more_style` behind them. The title is escaped here, `body` is
/// HTML.
std::string html_page(std::string_view title, std::string_view body,
                      std::string_view more_style = "");

/// <figure> of an SVG, or any HTML, with a heading above it and an explanation below; both escaped.
std::string html_figure(std::string_view heading, std::string_view content,
                        std::string_view explanation);

}  // namespace moe
