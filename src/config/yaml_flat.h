// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace moe {

/// Every value of a YAML document under its whole key ("data.train.0.domain"), in its order; lists
/// of plain values are one value, "[a, b]". Knows no keys: for configurations of any version.
/// Throws InputError as "NAME:LINE: reason" for bad YAML.
std::vector<std::pair<std::string, std::string>> flat_yaml(const std::string& text,
                                                           const std::string& name);

}  // namespace moe
