// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "kernels/cuda/cudnn_target.h"
#include "kernels/cuda/tensor_graph.h"

namespace moe {

/// A kernel of cuDNN's for a graph.
class CudnnPlan {
 public:
  /// The first of the kernels which cuDNN proposes that does not carry its note for results that
  /// vary. (Kernels of attention never carry it: there the form of the graph decides.) Null when
  /// there is none: `refusal` then says why. Takes up to a second. Throws Error when cuDNN fails in
  /// any other way.
  static std::unique_ptr<CudnnPlan> make(const TensorGraph& graph, const CudnnTarget& target,
                                         std::string& refusal);
  ~CudnnPlan();

  std::size_t workspace_bytes() const;

  /// Puts it on the handle's stream. `arguments`: the graph's, in their order there, aligned to 16
  /// bytes; the workspace to 256.
  void run(cudnnContext* handle, std::span<void* const> arguments, void* workspace) const;

 private:
  struct Parts;
  explicit CudnnPlan(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace moe
