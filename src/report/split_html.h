// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace moe {

/// The file of a split model's folder that holds split_report_html.
inline constexpr const char* kSplitPictures = "split.html";

/// A page with pictures of a split, from the text of its split.json: losses by number of chosen
/// experts, quality by layer, the experts' load. Throws InputError when the text is no such report.
std::string split_report_html(const std::string& split_json);

}  // namespace moe
