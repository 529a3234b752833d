// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace moe {

/// Throws InputError, starting with `where`, unless the text is one JSON object without duplicate
/// keys, nested no deeper than 16. JSON libraries let the last of two equal keys win silently.
void require_strict_json(std::string_view text, const std::string& where);

/// The contents of a small text file; throws InputError when it cannot be read or is larger than
/// `limit` bytes.
std::string read_text_file(const std::string& path, std::int64_t limit);

}  // namespace moe
