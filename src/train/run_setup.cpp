// SPDX-License-Identifier: Apache-2.0
#include "train/run_setup.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "data/shard_files.h"
#include "train/selfcheck.h"

namespace moe {

EngineOptions engine_options(const TrainConfig& c, Device device, const Teacher& teacher) {
  EngineOptions o;
  o.device = device;
  o.dtype = c.model.dtype;
  o.seed = std::uint64_t(c.run.seed);
  o.micro_batch = c.batch.micro;
  o.bucket_part_bytes = std::int64_t(c.parallel.bucket_mb * 1e6);
  o.zero = c.parallel.zero;
  o.gradient_transport = c.parallel.gradient_dtype;
  o.recompute = c.parallel.recompute;
  o.freeze = c.train.freeze;
  o.domains = std::int64_t(c.data.train.size());
  o.optimizer = c.optimizer;
  o.router = c.router;
  o.attention_router = c.attention_router;
  o.teacher = teacher.model;
  o.distill = c.distill;
  return o;
}

namespace {

bool has_family(const ModelConfig& model, ParameterFamily family) {
  return std::ranges::any_of(model_parameters(model), [family](const ParameterSpec& p) {
    return family_of(p.name) == family;
  });
}

}  // namespace

FrozenPlan require_trainable(const TrainConfig& c, const ModelConfig& model, int ranks) {
  MOE_REQUIRE(c.batch.global % ranks == 0, "batch.global is ", c.batch.global, " sequences, which ",
              ranks, " ranks cannot share evenly: choose a multiple of the number of ranks");
  MOE_REQUIRE(c.data.sequence_length <= model.max_positions, "data.sequence_length is ",
              c.data.sequence_length, ", beyond the model's ", model.max_positions, " positions");
  for (std::size_t f = 0; f < c.optimizer.rates.size(); ++f)
    MOE_REQUIRE(c.optimizer.rates[f] == 1 || has_family(model, ParameterFamily(f)),
                "optimizer.rates.", kParameterFamilyNames[f],
                ": the model has no parameters of this family");
  if (!c.distill.teacher.empty()) (void)open_teacher(c, model);
  return plan_frozen(c.train.freeze, model);
}

void report_selfcheck(const TrainConfig& c, const EngineOptions& options, const ProcessGrid& grid,
                      const ModelConfig& model, const ParameterRows& weights) {
  const SelfcheckResult r = selfcheck(model, options, grid, weights, c.data.sequence_length,
                                      c.data.packing.document_masks);
  log_info(
      "selfcheck: {} values and tensors of {} sequences of {} agree with one process; "
      "largest relative difference {:.2g} ({})",
      r.tensors, r.sequences, r.length, r.worst, r.worst_tensor);
}

RunData open_data(const TrainConfig& c, const ModelConfig& model) {
  std::vector<DomainSource> sources;
  for (const auto& d : c.data.train)
    sources.push_back({d.domain, shard_files(d.files), d.weight, d.max_epochs});
  RunData data{Loader(sources, c.data.sequence_length, std::uint64_t(c.run.seed), model.vocab_size,
                      c.data.packing),
               {}};
  for (const auto& d : c.data.held_out)
    data.held_out.push_back(
        {d.domain, HeldOut::windows(shard_files(d.files), c.data.sequence_length, model.vocab_size,
                                    c.data.packing.document_masks)});
  return data;
}

}  // namespace moe
