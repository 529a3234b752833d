// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/parameter_families.h"
#include "config/train_config.h"

namespace moe {

/// Bytes that the tensors of one rank take, by the kinds of core/memory.h.
struct RankMemory {
  std::int64_t weights = 0;      // and the tables of rotary positions
  std::int64_t gradients = 0;    // and, where they travel as bf16, all buckets on their way at once
  std::int64_t optimizer = 0;    // masters of bf16 weights and both moments, of the rows it owns;
                                 // of frozen ones what bf16 drops
  std::int64_t activations = 0;  // estimate of the peak, routing balanced
  std::int64_t teacher = 0;   // weights of the model to learn from, and what it made of the tokens
  std::int64_t snapshot = 0;  // copy that checkpoints are written from while training goes on
  std::int64_t total() const {
    return weights + gradients + optimizer + activations + teacher + snapshot;
  }
};

/// A collective of a step and what a rank sends in it, routing balanced.
struct PlannedCollective {
  std::string name, group;
  std::int64_t members = 1;
  std::int64_t calls = 0;  // per step
  std::int64_t bytes = 0;  // sent by a rank, per step
};

/// What a run takes, from its configuration and its models' shapes alone: no weights are read, no
/// memory is taken, no other rank is needed. Where the experts per token change (router.top_k_from)
/// it is of the step with the most.
struct RunPlan {
  int ranks = 1, ep = 1;
  std::int64_t parameters = 0, activated = 0;
  std::int64_t teacher_parameters = 0;  // 0: no teacher
  double flops = 0, teacher_flops = 0;  // of a step, on activated parameters
  FrozenPlan frozen;
  std::int64_t tokens = 0, micro_batches = 0;  // of a step; of a rank and step
  std::vector<RankMemory> memory;              // by expert rank, of the data group's first rank
  std::vector<PlannedCollective> collectives;
};

/// Throws InputError when the ranks do not suit the configuration.
RunPlan plan_run(const TrainConfig& config, const ModelConfig& model, int ranks);

/// Activations at their peak for micro-batches of `tokens` tokens on an expert rank, of which
/// `received` (token, slot) rows reach its experts in each layer: what backward keeps of all
/// layers, and the larger of the output head's and one layer's backward working memory.
std::int64_t activation_bytes(const TrainConfig& config, const ModelConfig& model,
                              std::int64_t tokens, std::int64_t received, int expert_rank, int ep);

/// The plan for people: ranks and groups, parameters, memory, collectives.
std::string to_text(const RunPlan& plan);

}  // namespace moe
