// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe {

/// How documents are laid into sequences.
enum class Packing : std::uint8_t {
  concatenate,  // one after the other, cut at every multiple of the length
  best_fit,     // each whole where it fits, longer ones cut, the pieces put together tightly
};

struct PackingOptions {
  Packing packing = Packing::concatenate;
  /// Documents do not see each other: neither attention nor labels cross from one to the next, and
  /// positions count from each one's beginning.
  bool document_masks = false;
};

/// How the shares of the domains follow their held-out losses: at each evaluation
///   weight_d <- weight_d * exp(rate * (loss_d - reference_loss_d)), normalised,
///   weight_d <- (1 - smoothing) * weight_d + smoothing / domains.
/// (Sheared-LLaMA: Xia et al. 2023)
struct MixtureOptions {
  bool dynamic = false;  // else they stay
  double rate = 1;
  bool clip = false;  // a domain below its reference loss counts as one that is at it
  double smoothing = 0;
};

}  // namespace moe
