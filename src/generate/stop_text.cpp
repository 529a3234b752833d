// SPDX-License-Identifier: Apache-2.0
#include "generate/stop_text.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace moe {

StopText::StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) MOE_REQUIRE(!stop.empty(), "an empty stop text");
}

std::string StopText::push(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  std::size_t first = held_.npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != held_.npos) {
    stopped_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  // The longest end that begins a stop text stays.
  std::size_t keep = 0;
  for (const std::string& stop : stops_)
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
      if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopText::finish() { return std::exchange(held_, {}); }

}  // namespace moe
