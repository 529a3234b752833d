// SPDX-License-Identifier: Apache-2.0
#include "ops/expert_exchange.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "comm/process_grid.h"
#include "comm/watchdog.h"
#include "kernels/backend.h"
#include "ops/experts.h"

namespace moe::ops {
namespace {

using Counts = std::vector<std::int64_t>;

std::int64_t sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

Counts offsets_of(const Counts& counts) {
  Counts offsets(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), offsets.begin() + 1);
  return offsets;
}

/// Experts of chunk c on member p, as numbers of the layer.
Share experts_of(const ExpertChunks& all, std::int64_t c, int p) {
  const Share own = share_of(all.experts, p, all.members);
  const Share part = share_of(own.count, int(c), int(all.chunks));
  return {own.first + part.first, part.count};
}

/// One chunk as this rank sees it.
struct Chunk {
  std::int64_t first_row = 0;  // of what this rank sends
  Counts send, recv;           // rows to and from each member
  std::int64_t first_neuron = 0, neurons = 0;
  Tensor by_expert, by_member;        // the arriving row of each sorted row, and the inverse
  std::optional<ExpertPass> experts;  // none: this rank has no expert in this chunk
  Tensor input;                       // its rows

  /// Rows arrive by member, each member's by expert; experts want theirs together.
  Tensor grouped(const Tensor& rows) const { return gathered(rows, by_expert); }
  Tensor ungrouped(const Tensor& rows) const { return gathered(rows, by_member); }

 private:
  static Tensor gathered(const Tensor& rows, const Tensor& index) {
    if (!index.defined()) return rows;
    Tensor y = empty_like(rows);
    backend(rows.device()).gather_rows(y, rows, index, 1);
    return y;
  }
};

/// arriving: [member][expert of the chunk].
void set_order(Chunk& chunk, const Counts& arriving, int members, std::int64_t experts,
               Device device) {
  if (experts <= 1) return;  // by member is by expert
  const Counts first = offsets_of(arriving);
  Tensor by_expert = Tensor::empty({first.back()}, DType::i32), by_member = empty_like(by_expert);
  std::int32_t at = 0;
  for (std::int64_t e = 0; e < experts; ++e)
    for (int p = 0; p < members; ++p) {
      const auto block = std::size_t(p * experts + e);
      for (std::int64_t i = first[block]; i < first[block + 1]; ++i, ++at) {
        by_expert.data<std::int32_t>()[at] = std::int32_t(i);
        by_member.data<std::int32_t>()[i] = at;
      }
    }
  chunk.by_expert = by_expert.to(device);
  chunk.by_member = by_member.to(device);
}

std::vector<Chunk> plan(const ExpertChunks& all, const ExchangeCounts& counts,
                        const ExpertMatrices& weights, const Counts& neuron_offsets, int rank) {
  const Share own = share_of(all.experts, rank, all.members);
  std::vector<Chunk> chunks;
  std::int64_t first_row = 0;
  for (std::int64_t c = 0; c < all.chunks; ++c) {
    Chunk& chunk = chunks.emplace_back();
    chunk.first_row = first_row;
    const Share here = experts_of(all, c, rank);
    const std::int64_t first = here.first - own.first;
    Counts arriving, rows(std::size_t(here.count), 0);
    for (int p = 0; p < all.members; ++p) {
      const Share there = experts_of(all, c, p);
      const auto sent = counts.sent.begin() + there.first;
      chunk.send.push_back(std::accumulate(sent, sent + there.count, std::int64_t{0}));
      std::int64_t from_p = 0;
      for (std::int64_t e = 0; e < here.count; ++e) {
        const std::int64_t n = counts.arriving[std::size_t(p * own.count + first + e)];
        arriving.push_back(n);
        rows[std::size_t(e)] += n;
        from_p += n;
      }
      chunk.recv.push_back(from_p);
    }
    first_row += sum(chunk.send);
    if (here.count == 0) continue;
    const auto begin = neuron_offsets.begin() + first;
    chunk.first_neuron = *begin;
    chunk.neurons = begin[here.count] - *begin;
    Counts neurons(begin, begin + here.count + 1);
    for (std::int64_t& n : neurons) n -= chunk.first_neuron;
    chunk.experts.emplace(weights.slice(chunk.first_neuron, chunk.neurons), offsets_of(rows),
                          std::move(neurons), own.count);
    set_order(chunk, arriving, all.members, here.count, weights.gate.device());
  }
  return chunks;
}

/// The chunks of one exchange on their way: out to the experts, through `compute`, and back.
struct Journey {
  std::vector<Chunk>& chunks;
  Communicator& group;
  std::int32_t layer;
  const char *out_phase, *compute_phase, *back_phase;

  /// x: this rank's rows; returns what came back for them. compute(chunk, rows): the rows to send
  /// back, after which `afterwards(chunk)` runs while they travel.
  template <class Compute, class Afterwards>
  Tensor run(const Tensor& x, Compute compute, Afterwards afterwards) const {
    std::vector<Tensor> arrived;
    std::vector<Pending> out, back;
    set_phase(out_phase, layer);
    for (const Chunk& c : chunks) {
      arrived.push_back(Tensor::empty({sum(c.recv), x.cols()}, x.dtype(), x.device()));
      out.push_back(group.all_to_all(arrived.back(), c.recv, x.slice(c.first_row, sum(c.send)),
                                     c.send, RowCounts::known));
    }
    Tensor result = empty_like(x);
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      Chunk& c = chunks[i];
      set_phase(out_phase, layer);
      out[i].wait();
      set_phase(compute_phase, layer);
      Tensor rows = std::exchange(arrived[i], {});
      if (c.experts) rows = c.ungrouped(compute(c, c.grouped(rows)));
      back.push_back(group.all_to_all(result.slice(c.first_row, sum(c.send)), c.send, rows, c.recv,
                                      RowCounts::known));
      rows = {};
      if (c.experts) afterwards(c);
    }
    set_phase(back_phase, layer);
    for (Pending& p : back) p.wait();
    return result;
  }
};

}  // namespace

ExpertChunks::ExpertChunks(std::int64_t all, int group, std::int64_t wanted)
    : experts(all), members(group), chunks(std::min(wanted, share_of(all, 0, group).count)) {
  MOE_CHECK(chunks >= 1, "an exchange of ", experts, " experts in ", wanted, " chunks");
}

Tensor ExpertChunks::order() const {
  std::vector<std::int32_t> order;
  for (std::int64_t c = 0; c < chunks; ++c)
    for (int p = 0; p < members; ++p) {
      const Share part = experts_of(*this, c, p);
      for (std::int64_t e = 0; e < part.count; ++e) order.push_back(std::int32_t(part.first + e));
    }
  return Tensor::of<std::int32_t>({experts}, order);
}

ExchangeCounts exchange_counts(std::vector<std::int64_t> sent, Communicator& group) {
  const auto experts = std::int64_t(sent.size());
  const std::int64_t own = share_of(experts, group.rank(), group.size()).count;
  Counts send, recv(std::size_t(group.size()), own);
  for (int p = 0; p < group.size(); ++p) send.push_back(share_of(experts, p, group.size()).count);
  Tensor out = Tensor::empty({own * group.size(), 1}, DType::i64);
  group.all_to_all(out, recv, Tensor::of<std::int64_t>({experts, 1}, sent), send).wait();
  return {std::move(sent), {out.data<std::int64_t>(), out.data<std::int64_t>() + out.size()}};
}

Variable exchange_experts(const Variable& x, const Variable& gate, const Variable& up,
                          const Variable& down, const std::vector<std::int64_t>& neuron_offsets,
                          const ExpertChunks& all, const ExchangeCounts& counts,
                          Communicator& group, std::int32_t layer) {
  MOE_CHECK(sum(counts.sent) == x.value.rows(), "exchange_experts: counts of ", sum(counts.sent),
            " rows for ", x.value.rows());
  const ExpertMatrices weights{gate.value, up.value, down.value};
  std::vector<Chunk> chunks = plan(all, counts, weights, neuron_offsets, group.rank());
  Tensor y = Journey{chunks, group, layer, "dispatch", "experts", "combine"}.run(
      x.value,
      [wants_dw = gate.wants_gradient()](Chunk& c, const Tensor& rows) {
        if (wants_dw) c.input = rows;
        return c.experts->forward(rows);
      },
      [](Chunk&) {});
  return record(
      "exchange_experts", {x, gate, up, down}, std::move(y),
      [chunks = std::move(chunks), &group, layer, w = gate.value,
       wants_dw = gate.wants_gradient()](std::span<const Tensor> dy) mutable {
        ExpertMatrices dw;
        if (wants_dw) dw = gradients_like(w);
        const Journey journey{
            chunks, group, layer, "combine gradient", "experts backward", "dispatch gradient"};
        Tensor dx = journey.run(
            dy[0], [](Chunk& c, const Tensor& rows) { return c.experts->input_gradient(rows); },
            [&](Chunk& c) {
              if (!wants_dw) return;
              ExpertMatrices part = dw.slice(c.first_neuron, c.neurons);
              c.experts->weight_gradients(part, std::exchange(c.input, {}));
            });
        set_phase("backward");
        return std::vector<Tensor>{dx, dw.gate, dw.up, dw.down};
      });
}

}  // namespace moe::ops
