// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "generate/generator.h"

namespace moe {

/// A table of the experts that each token of a text chose, the one with the largest weight first:
/// a line a token, a column a layer with experts. `ids`: the text, of which the first tokens have
/// been routed; `pieces`: what they stand for, or nothing.
std::string routing_table(const TextRouting& routing, std::span<const std::int32_t> ids,
                          const std::vector<std::string>& pieces);

/// {"layers":[0,2],"experts":[layer][token][k],"weights":[layer][token][k]} as JSON.
std::string routing_json(const TextRouting& routing);

}  // namespace moe
