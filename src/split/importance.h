// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "split/calibration.h"

namespace moe {

/// The cluster of each of this rank's calibration tokens (in the order of without_padding) as layer
/// `layer` sees them: below `clusters`.
using TokenClusters = std::function<const std::vector<std::int32_t>&(std::int64_t layer)>;

/// How much the loss would feel each FFN neuron's absence, to first order, for each cluster of
/// tokens (LLaMA-MoE v1 and v2):
///   score[c, n] = mean over the cluster's tokens of |h_n dL/dh_n|,
/// h: the input of the down projection, L: the mean cross-entropy of the text. One f64
/// [clusters, neurons] for each layer, the same on every rank; a cluster without tokens scores 0.
///
/// Goes through the layers forward and backward with one layer's weights in memory, on as much text
/// at a time as `boundary_bytes` hold the layers' inputs of; no gradient of a weight is computed.
std::vector<Tensor> importance_scores(const ModelFolder& dense, const CalibrationText& text,
                                      const TokenClusters& clusters_of, std::int64_t clusters,
                                      Communicator& world,
                                      std::int64_t boundary_bytes = std::int64_t{2} << 30);

}  // namespace moe
