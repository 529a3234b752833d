// SPDX-License-Identifier: Apache-2.0
#include "core/error.h"

namespace moe {

void fail_check(const char* file, int line, const char* what, const std::string& message) {
  throw Error(
      str(message, message.empty() ? "" : " ", "[", what, " failed at ", file, ":", line, "]"));
}

}  // namespace moe
