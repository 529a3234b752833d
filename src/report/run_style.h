// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace moe {

/// What a page with charts of run_chart.h needs beside the styles of html_page.h.
extern const std::string_view kRunStyle;

/// Shows the values below the pointer and hides curves whose name is clicked; the page is whole
/// without it.
extern const std::string_view kRunScript;

}  // namespace moe
