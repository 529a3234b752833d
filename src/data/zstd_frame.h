// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace moe {

/// The bytes as one zstd frame. Frames behind each other are a zstd file of all their bytes.
std::string zstd_frame(std::string_view bytes);

}  // namespace moe
