// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "split/text_stream.h"

namespace moe {

/// The losses of a text by document, of all ranks.
struct DocumentLosses {
  struct Document {
    double loss = 0;  // summed over its labels
    double labels = 0;
  };
  std::map<std::int64_t, Document> documents;  // by number

  double labels() const;
  /// Nats a label.
  double mean() const;
};

/// A mean and the half width of its 95 % interval.
struct WithInterval {
  double value = 0, half_width = 0;
};

/// The mean of a's losses minus b's of the same documents, nats a label. The interval takes
/// documents for independent draws: 1.96 standard errors of a ratio of sums (Cochran 1977, §2.11).
WithInterval paired_difference(const DocumentLosses& a, const DocumentLosses& b);

/// The mean over several models of one text's losses.
DocumentLosses mean_of(const std::vector<DocumentLosses>& models);

/// What streams of one text that have passed all layers are worth.
class TextLosses {
 public:
  /// All must outlive it.
  TextLosses(const ModelFolder& dense, const CalibrationText& text, Communicator& world);

  /// Of the text's labels. Collective.
  DocumentLosses losses(const TextStream& stream) const;
  /// Mean over the text's labels of KL(parent || stream), nats. Collective.
  double divergence(const TextStream& parent, const TextStream& stream) const;

 private:
  /// What the head is given: f32 [tokens, hidden].
  Tensor head_input(const TextStream& stream) const;

  const CalibrationText& text_;
  Communicator& world_;
  double eps_;
  Tensor norm_, head_;
  std::vector<std::int32_t> labels_;  // of each of this rank's tokens; negative: none
  std::vector<std::int64_t> document_of_;
};

}  // namespace moe
