// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe {

/// How the rows of tokens travel to their experts and back (docs/parallelism.md).
struct ExchangeOptions {
  std::int64_t chunks = 2;  // parts of a rank's experts whose rows travel while others compute
};

}  // namespace moe
