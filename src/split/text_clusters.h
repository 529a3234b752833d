// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "comm/communicator.h"
#include "split/split_options.h"

namespace moe {

/// Clusters of the calibration text, one for each expert: for importance and for gates from
/// centres.
class TextClusters {
 public:
  /// All must outlive it.
  TextClusters(const SplitOptions& options, const ModelFolder& dense, const CalibrationText& text,
               Communicator& world);

  /// Of what a layer's FFN is given, all ranks' tokens; made once.
  const TokenClustering& of_inputs(std::int64_t layer, const Tensor& all_inputs);

  /// Scores of every layer's neurons (split/importance.h) for the clusters that are needed; nothing
  /// where none are. Collective.
  std::vector<Tensor> importance(CalibrationNeed need);

 private:
  std::vector<std::int32_t> document_labels();

  const SplitOptions& o_;
  const ModelFolder& dense_;
  const CalibrationText& text_;
  Communicator& world_;
  std::map<std::int64_t, TokenClustering> of_layer_;
};

}  // namespace moe
