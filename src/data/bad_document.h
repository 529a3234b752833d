// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/error.h"

namespace moe {

/// A document that cannot be used, and by what name documents like it are counted.
class BadDocument : public InputError {
 public:
  BadDocument(std::string kind, const std::string& message)
      : InputError(message), kind_(std::move(kind)) {}
  const std::string& kind() const { return kind_; }

 private:
  std::string kind_;
};

/// Throws BadDocument with the printed message unless the condition holds.
template <class... Args>
void require_good(bool condition, const char* kind, const Args&... message) {
  if (!condition) throw BadDocument(kind, str(message...));
}

}  // namespace moe
