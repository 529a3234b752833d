// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace moe {

/// How the next token is drawn from the logits. Applied in this order, as Hugging Face's generate()
/// does; each of the last three looks at what the ones before it left.
struct SamplingOptions {
  /// Logits of tokens that stand in the text already, the prompt counts, are divided by this where
  /// they are positive and multiplied where negative (Keskar et al. 2019). 1: off.
  double repetition_penalty = 1;
  double temperature = 0;  // 0: the likeliest token, ties to the lowest id
  std::int64_t top_k = 0;  // only the k likeliest; 0: off
  /// Only the fewest of the likeliest whose probabilities reach this sum (Holtzman et al. 2020).
  double top_p = 1;
  double min_p = 0;  // only those at least this share as likely as the likeliest
  std::uint64_t seed = 42;

  /// Throws InputError naming the option that is out of range.
  void validate() const;
};

/// Draws tokens. Draw `index` of text `text` is a pure function of the seed, these two and the
/// logits, whatever else is drawn.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);
  /// logits: f32 or f64 [vocabulary], on the CPU. `seen`: the text so far.
  std::int32_t next(const Tensor& logits, std::span<const std::int32_t> seen, std::int64_t text,
                    std::int64_t index) const;

 private:
  struct Candidate {
    std::int32_t id;
    double probability;  // not normalised: the likeliest has 1
  };
  std::vector<Candidate> candidates(const std::vector<double>& logits) const;

  SamplingOptions options_;
};

}  // namespace moe
