// SPDX-License-Identifier: Apache-2.0
#include "train/run_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/readable.h"
#include "optim/buckets.h"
#include "train/run_setup.h"
#include "train/step_metrics.h"

namespace moe {
namespace {

std::int64_t bytes(DType type) { return std::int64_t(size_of(type)); }

std::int64_t sum(const std::vector<std::int64_t>& v) {
  return std::accumulate(v.begin(), v.end(), std::int64_t{0});
}

BucketPlan bucket_plan(const TrainConfig& c, const ParameterLayout& layout,
                       const GridPosition& position) {
  return {layout, position, accumulator(c.model.dtype), std::int64_t(c.parallel.bucket_mb * 1e6),
          c.parallel.zero};
}

RankMemory memory_of(const TrainConfig& c, const ModelConfig& m, const GridPosition& position,
                     std::int64_t micro_tokens, std::int64_t received) {
  const ParameterLayout layout(m, position.expert_rank(), position.ep, c.train.freeze);
  const DType type = c.model.dtype, acc = accumulator(type);
  const std::int64_t elements =
      layout.elements(Placement::replicated) + layout.elements(Placement::expert);
  RankMemory memory;
  memory.weights = elements * bytes(type) + c.data.sequence_length * m.head_dim * bytes(acc);
  memory.gradients = elements * bytes(acc);
  const BucketPlan plan = bucket_plan(c, layout, position);
  if (c.parallel.gradient_dtype != acc)
    for (const Bucket& b : plan.buckets())
      if (!b.parts.empty()) memory.gradients += b.size * bytes(c.parallel.gradient_dtype);
  const std::int64_t state = (type == acc ? 2 : 3) * bytes(acc);
  const bool copies = c.train.async_checkpoints && c.train.checkpoint_every > 0;
  for (const OwnedRows& o : plan.owned()) {
    const std::int64_t cols = layout.all()[o.parameter].cols();
    memory.optimizer += o.rows * cols * state;
    const Placement placement = plan.buckets()[o.bucket].placement;
    const std::int64_t saved =
        plan.sharded()
            ? o.rows
            : share_of(o.rows, position.holder_rank(placement), position.holders(placement)).count;
    if (copies) memory.snapshot += saved * cols * 3 * bytes(acc);
  }
  for (const HeldParameter& p : layout.all()) {
    if (p.trained || !p.spec.trained) continue;
    const Placement placement = p.spec.placement;
    const std::int64_t saved =
        p.cols() *
        share_of(p.rows(), position.holder_rank(placement), position.holders(placement)).count;
    memory.weights += p.size() * bytes(type);
    if (type != acc) memory.optimizer += saved * bytes(acc);
    if (copies) memory.snapshot += saved * bytes(acc);
  }
  memory.activations =
      activation_bytes(c, m, micro_tokens, received, position.expert_rank(), position.ep);
  return memory;
}

bool trains(const TrainConfig& c, const char* family) {
  return std::ranges::find(c.train.freeze, family) == c.train.freeze.end();
}

/// Activations of one layer.
struct LayerBytes {
  std::int64_t kept = 0;     // for backward
  std::int64_t working = 0;  // in backward, beside what was kept
};

/// What a router keeps: per token and expert logits, probabilities, weights by expert; with noise
/// its scale, its input, the sample and the noisy logits; a few numbers for each choice.
std::int64_t gate_bytes(const RouterConfig& r, std::int64_t tokens, std::int64_t number) {
  const std::int64_t per_expert = 3 + (r.gate_noise ? 5 : 0) + (r.gate == GateKind::mlp ? 2 : 0);
  return tokens * (r.experts * per_expert + r.top_k * 6) * number;
}

/// What one layer's attention keeps between its norm and the residual connection.
std::int64_t attention_bytes(const TrainConfig& c, const ModelConfig& m, std::int64_t layer,
                             std::int64_t tokens) {
  const std::int64_t s = bytes(c.model.dtype), a = bytes(accumulator(c.model.dtype));
  const std::int64_t d = m.head_dim;
  // Queries, keys, values, the result, log-sum-exps.
  if (!m.is_attention_moe_layer(layer))
    return tokens * ((2 * m.heads + 2 * m.kv_heads) * d * s + m.heads * a);
  const AttentionMoeConfig& moe = m.attention_moe;
  const std::int64_t rows = tokens * moe.top_k, heads = m.expert_heads();
  const std::int64_t key_rows = moe.kind == AttentionExpert::queries ? tokens : rows;
  const std::int64_t input = c.parallel.recompute == Recompute::cheap ? 0 : m.hidden_size * s;
  return rows * (input + 2 * heads * d * s + heads * a + m.hidden_size * s + 3 * 4) +
         key_rows * 2 * m.expert_kv_heads() * d * s + gate_bytes(moe, tokens, a);
}

LayerBytes layer_bytes(const TrainConfig& c, const ModelConfig& m, std::int64_t layer,
                       std::int64_t tokens, std::int64_t received, const Share& experts, int ep) {
  const std::int64_t s = bytes(c.model.dtype), a = bytes(accumulator(c.model.dtype));
  const std::int64_t row = m.hidden_size * s;
  const bool cheap = c.parallel.recompute == Recompute::cheap;
  const std::int64_t normed = cheap ? 0 : row;

  // Both norms' inputs and results.
  LayerBytes l;
  l.kept = tokens * (2 * row + 2 * normed + 2 * a) + attention_bytes(c, m, layer, tokens);
  if (!m.is_moe_layer(layer)) {
    l.kept += tokens * 2 * m.intermediate_size * s;
    l.working = tokens * (m.intermediate_size * s + 3 * row) +
                (trains(c, "ffn") ? 3 * m.intermediate_size * m.hidden_size * a : 0);
    return l;
  }

  const std::int64_t k = m.moe.top_k;
  l.kept += gate_bytes(m.moe, tokens, a);
  const std::vector<std::int64_t> sizes = m.layer_expert_sizes(layer);
  const auto own = sizes.begin() + experts.first;
  const std::int64_t own_neurons = std::accumulate(own, own + experts.count, std::int64_t{0});
  const std::int64_t neurons = experts.count == 0 ? 0 : own_neurons / experts.count;
  // Rows at their experts and what these made of them; each token's k results.
  const std::int64_t rows_kept = ep == 1 && cheap ? 0 : received * row;
  l.kept += rows_kept + received * 2 * neurons * s + tokens * k * row;
  l.working = received * (neurons * s + 2 * row) + tokens * (k + 1) * row +
              (trains(c, "experts") ? 3 * own_neurons * m.hidden_size * a : 0);
  const std::vector<std::int64_t> shared = m.layer_shared_sizes(layer);
  if (!shared.empty()) {
    const auto number = std::int64_t(shared.size());
    l.kept += tokens * 2 * sum(shared) * s;
    if (m.moe.shared_gate) l.kept += tokens * number * 2 * row;
  }
  return l;
}

/// Tokens whose logits exist at once.
std::int64_t logits_rows(const TrainConfig& c, const ModelConfig& m, std::int64_t tokens) {
  const std::int64_t a = bytes(accumulator(c.model.dtype));
  return std::min(tokens, std::max<std::int64_t>(16, (32 << 20) / (m.vocab_size * a)));
}

/// A teacher's weights, its hidden states and a chunk of its logits. What its forward pass takes
/// besides is gone when the student's begins.
std::int64_t teacher_bytes(const TrainConfig& c, const ModelConfig& teacher, std::int64_t tokens) {
  const std::int64_t s = bytes(c.model.dtype), a = bytes(accumulator(c.model.dtype));
  return count_parameters(teacher).total * s + c.data.sequence_length * teacher.head_dim * a +
         tokens * teacher.hidden_size * s +
         logits_rows(c, teacher, tokens) * teacher.vocab_size * a;
}

/// With the most experts per token that a step of the run has.
ModelConfig with_most_experts(const TrainConfig& c, ModelConfig m) {
  const ModelConfig first = model_in_step(c, m, 1);
  m.moe.top_k = std::max(m.moe.top_k, first.moe.top_k);
  m.attention_moe.top_k = std::max(m.attention_moe.top_k, first.attention_moe.top_k);
  return m;
}

}  // namespace

std::int64_t activation_bytes(const TrainConfig& c, const ModelConfig& m, std::int64_t tokens,
                              std::int64_t received, int expert_rank, int ep) {
  const std::int64_t s = bytes(c.model.dtype), a = bytes(accumulator(c.model.dtype));
  const std::int64_t row = m.hidden_size * s;
  const Share experts = m.is_moe() ? share_of(m.moe.experts, expert_rank, ep) : Share{0, 0};
  std::int64_t kept = tokens * row, working = 0;  // the last layer's result
  for (std::int64_t l = 0; l < m.layers; ++l) {
    const LayerBytes layer = layer_bytes(c, m, l, tokens, received, experts, ep);
    const bool whole = c.parallel.recompute != Recompute::block;
    kept += whole ? layer.kept : tokens * row;
    working = std::max(working, layer.working + (whole ? 0 : layer.kept));
  }
  // A chunk of logits, and the gradients of the head and of its input.
  const std::int64_t logits = logits_rows(c, m, tokens);
  const std::int64_t head = logits * m.vocab_size * (s == a ? a : a + s) +
                            (trains(c, "embeddings") ? m.vocab_size * m.hidden_size * a : 0) +
                            tokens * row;
  return kept + std::max(working, head);
}

RunPlan plan_run(const TrainConfig& c, const ModelConfig& model, int ranks) {
  const ModelConfig m = with_most_experts(c, model);
  const int ep = int(c.parallel.expert);
  require_grid(ranks, ep);
  const FrozenPlan frozen = require_trainable(c, m, ranks);
  const std::int64_t sequences = c.batch.global / ranks, micro = std::min(c.batch.micro, sequences);
  const std::int64_t micro_tokens = micro * c.data.sequence_length;
  const std::int64_t pairs = micro_tokens * (m.is_moe() ? m.moe.top_k : 0);

  RunPlan plan;
  plan.ranks = ranks;
  plan.ep = ep;
  const ParameterCounts count = count_parameters(model);
  plan.parameters = count.total;
  plan.activated = count.activated;
  plan.frozen = frozen;
  plan.tokens = c.batch.global * c.data.sequence_length;
  plan.micro_batches = (sequences + c.batch.micro - 1) / c.batch.micro;
  for (int e = 0; e < ep; ++e) {
    const std::int64_t received =
        m.is_moe() ? pairs * ep * share_of(m.moe.experts, e, ep).count / m.moe.experts : 0;
    plan.memory.push_back(memory_of(c, m, {e, ranks, ep}, micro_tokens, received));
  }

  plan.flops = step_flops(m, plan.tokens, c.data.sequence_length);
  if (!c.distill.teacher.empty()) {
    const ModelConfig teacher = open_teacher(c, m).config;
    plan.teacher_parameters = count_parameters(teacher).total;
    plan.teacher_flops = forward_flops(teacher, plan.tokens, c.data.sequence_length);
    for (RankMemory& memory : plan.memory) memory.teacher = teacher_bytes(c, teacher, micro_tokens);
  }

  const DType type = c.model.dtype, acc = accumulator(type);
  const auto add = [&](const char* name, const char* group, std::int64_t members,
                       std::int64_t calls, std::int64_t size) {
    if (members > 1 && calls > 0) plan.collectives.push_back({name, group, members, calls, size});
  };
  std::int64_t moe_layers = 0;
  for (std::int64_t l = 0; l < m.layers; ++l) moe_layers += m.is_moe_layer(l);
  const std::int64_t exchanges = moe_layers * plan.micro_batches;
  const std::int64_t again = c.parallel.recompute == Recompute::block ? 2 : 1;
  // Evenly spread rows: all but 1/ep of them go to another rank.
  const std::int64_t travelling = sequences * c.data.sequence_length *
                                  (m.is_moe() ? m.moe.top_k : 0) * moe_layers * (ep - 1) / ep *
                                  m.hidden_size * bytes(type);
  add("rows per expert", "expert", ep, exchanges * again,
      exchanges * again * m.moe.experts * 8 * (ep - 1) / ep);
  add("dispatch", "expert", ep, exchanges * again, travelling * again);
  add("combine", "expert", ep, exchanges * again, travelling * again);
  add("combine gradient", "expert", ep, exchanges, travelling);
  add("dispatch gradient", "expert", ep, exchanges, travelling);

  const ParameterLayout layout(m, 0, ep, c.train.freeze);
  const BucketPlan buckets = bucket_plan(c, layout, {0, ranks, ep});
  for (const Placement p : {Placement::replicated, Placement::expert}) {
    const bool world = p == Placement::replicated;
    const std::int64_t members = world ? ranks : ranks / ep;
    const std::int64_t parts = layout.elements(p) * (members - 1) / members;
    const std::int64_t number = std::count_if(buckets.buckets().begin(), buckets.buckets().end(),
                                              [p](const Bucket& b) { return b.placement == p; });
    const char* group = world ? "world" : "data";
    if (c.parallel.zero) {
      const DType sent = acc == DType::f64 ? acc : c.parallel.gradient_dtype;
      add(world ? "gradients (reduce-scatter)" : "expert gradients (reduce-scatter)", group,
          members, number, parts * bytes(sent));
      add(world ? "weights (all-gather)" : "expert weights (all-gather)", group, members, number,
          parts * bytes(type));
    } else {
      add(world ? "gradients (all-reduce)" : "expert gradients (all-reduce)", group, members,
          number, 2 * parts * bytes(acc));
    }
  }
  return plan;
}

std::string to_text(const RunPlan& plan) {
  const int dp = plan.ranks / plan.ep;
  std::string text =
      fmt::format("{} ranks: {} expert parallel x {} data parallel\n", plan.ranks, plan.ep, dp);
  const auto list = [](int first, int count, int stride) {
    std::string ranks;
    for (int i = 0; i < count; ++i) {
      if (i == 4 && count > 6) {
        ranks += fmt::format(", ... {}", first + (count - 1) * stride);
        break;
      }
      ranks += fmt::format("{}{}", i > 0 ? ", " : "", first + i * stride);
    }
    return ranks;
  };
  text += fmt::format("  expert groups ({}): ranks {}{}\n", dp, list(0, plan.ep, 1),
                      dp > 1 ? "; " + list(plan.ep, plan.ep, 1) + (dp > 2 ? "; ..." : "") : "");
  text +=
      fmt::format("  data groups ({}):   ranks {}{}\n", plan.ep, list(0, dp, plan.ep),
                  plan.ep > 1 ? "; " + list(1, dp, plan.ep) + (plan.ep > 2 ? "; ..." : "") : "");
  text +=
      fmt::format("{} parameters, {} activated per token\n",
                  readable_count(double(plan.parameters)), readable_count(double(plan.activated)));
  if (plan.frozen.frozen > 0) text += to_text(plan.frozen) + "\n";
  if (plan.teacher_parameters > 0)
    text += fmt::format(
        "teacher: {} parameters on every rank; it takes {}FLOP of a step's {}FLOP\n",
        readable_count(double(plan.teacher_parameters)), readable_count(plan.teacher_flops),
        readable_count(plan.flops + plan.teacher_flops));
  text += fmt::format("{} tokens a step, {} micro-batches per rank\n",
                      readable_count(double(plan.tokens)), plan.micro_batches);

  const auto by_total = [](const RankMemory& a, const RankMemory& b) {
    return a.total() < b.total();
  };
  const auto [least, most] = std::minmax_element(plan.memory.begin(), plan.memory.end(), by_total);
  text += fmt::format("\nmemory of a rank, MB        most      least\n");
  const auto line = [&](const char* name, std::int64_t a, std::int64_t b) {
    text += fmt::format("  {:<20} {:>9.1f}  {:>9.1f}\n", name, double(a) / 1e6, double(b) / 1e6);
  };
  line("weights", most->weights, least->weights);
  line("gradients", most->gradients, least->gradients);
  line("optimizer", most->optimizer, least->optimizer);
  line("activations (about)", most->activations, least->activations);
  if (plan.teacher_parameters > 0) line("teacher", most->teacher, least->teacher);
  line("snapshot", most->snapshot, least->snapshot);
  line("total", most->total(), least->total());
  text +=
      "  activations with balanced routing; an expert that draws more than its share adds its "
      "rows\n";

  if (plan.collectives.empty()) return text + "\nno collective moves data: one rank\n";
  text += fmt::format("\n{:<36} {:<7} {:>5} {:>12} {:>16}\n", "collective", "group", "ranks",
                      "calls a step", "MB sent by a rank");
  for (const PlannedCollective& c : plan.collectives)
    text += fmt::format("{:<36} {:<7} {:>5} {:>12} {:>16.2f}\n", c.name, c.group, c.members,
                        c.calls, double(c.bytes) / 1e6);
  return text;
}

}  // namespace moe
