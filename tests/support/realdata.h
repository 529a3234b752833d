// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace moe::testing {

/// The public models and texts that some tests read: environment variable MOE_REALDATA, by default
/// ../shared/realdata beside the sources. Need not exist.
inline std::filesystem::path realdata() {
  const char* folder = std::getenv("MOE_REALDATA");
  return folder != nullptr ? std::filesystem::path(folder)
                           : std::filesystem::path(MOE_SOURCE_DIR) / "../shared/realdata";
}

}  // namespace moe::testing

/// Ends the test as skipped when real data `relative` ("models/tinystories-656k") is missing. The
/// using test includes gtest.
#define MOE_SKIP_WITHOUT_REALDATA(relative)                                                    \
  do {                                                                                         \
    if (!std::filesystem::exists(::moe::testing::realdata() / (relative)))                     \
      GTEST_SKIP() << "no real data at " << (::moe::testing::realdata() / (relative)).string() \
                   << ": set MOE_REALDATA";                                                    \
  } while (0)
