// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace moe::term {

// What the numbers of a split report are, in the words that all its forms use.
inline constexpr const char* kError = "|dense - mixture| / |dense| of the FFN's output";
inline constexpr const char* kLeastError = "with the best scale";
inline constexpr const char* kRecall = "share of the activations' magnitude in the experts chosen";
inline constexpr const char* kBestRecall = "in the best choice";
inline constexpr const char* kLoadMax = "busiest expert over the mean";
inline constexpr const char* kOverlap = "mean Jaccard similarity of two experts";
inline constexpr const char* kGate = "calibration tokens routed to the cluster they are in";

}  // namespace moe::term
