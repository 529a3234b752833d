// SPDX-License-Identifier: Apache-2.0
#include "train/step_metrics.h"

#include "core/memory.h"
#include "train/router_metrics.h"

namespace moe {

StepMetrics metrics_of(const StepResult& r, const TrainConfig& config, const ModelConfig& model,
                       Device device, double seconds) {
  StepMetrics m;
  m.loss = r.loss;
  m.teacher_kl = r.teacher_kl;
  for (std::size_t d = 0; d < r.domain_loss.size(); ++d)
    m.domain_loss[config.data.train[d].domain] = r.domain_loss[d];
  describe_routing(r.routing, m);
  describe_routing(r.attention_routing, m.attention);
  m.grad_norm = r.grad_norm;
  const std::int64_t step_tokens = config.batch.global * config.data.sequence_length;
  m.step_seconds = seconds;
  m.tokens_per_second = double(step_tokens) / seconds;
  m.flops_per_second = step_flops(model, step_tokens, config.data.sequence_length) / seconds;
  m.phase_seconds = r.seconds;
  m.exposed_comm_by_phase = r.exposed_seconds;
  m.exposed_comm_seconds = 0;
  for (const auto& [phase, waited] : r.exposed_seconds) m.exposed_comm_seconds += waited;
  m.memory_bytes = peak_memory(device);
  return m;
}

std::map<std::string, std::int64_t> peak_memory(Device device) {
  const MemoryAccount memory = memory_account(device);
  std::map<std::string, std::int64_t> bytes;
  for (std::size_t k = 0; k < kMemoryKindNames.size(); ++k)
    bytes[kMemoryKindNames[k]] = memory.peak[k];
  constexpr auto kSnapshot = std::size_t(MemoryKind::snapshot);
  bytes[kMemoryKindNames[kSnapshot]] = memory_account().peak[kSnapshot];
  bytes["total"] = memory.peak_total;
  return bytes;
}

double step_flops(const ModelConfig& c, std::int64_t tokens, std::int64_t length) {
  const double multiplied = double(count_parameters(c).activated) -
                            (c.tie_embeddings ? 0 : double(c.vocab_size) * double(c.hidden_size));
  double layers = 0;  // of dense attention
  for (std::int64_t l = 0; l < c.layers; ++l) {
    if (!c.is_attention_moe_layer(l)) {
      ++layers;
      continue;
    }
    const double share = double(c.attention_moe.top_k) / double(c.attention_moe.experts);
    layers += c.attention_moe.kind == AttentionExpert::queries ? share : share * share;
  }
  const double attention = 6 * layers * double(length) * double(c.heads) * double(c.head_dim);
  return double(tokens) * (6 * multiplied + attention);
}

}  // namespace moe
