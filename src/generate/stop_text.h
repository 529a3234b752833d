// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// Text that comes in pieces and ends before the first of some stop texts. What may still turn out
/// to be the beginning of one is held back.
class StopText {
 public:
  explicit StopText(std::vector<std::string> stops);

  /// The text that this piece makes certain. After a stop text nothing more comes.
  std::string push(std::string_view piece);
  /// A stop text was found.
  bool stopped() const { return stopped_; }
  /// What was held back, at the end.
  std::string finish();

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace moe
