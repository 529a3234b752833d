// SPDX-License-Identifier: Apache-2.0
#include "ops/attention_spans.h"

#include <vector>

namespace moe::ops {
namespace {

// All but key_offsets. `over_rows`: the keys are the rows, else the tokens.
RoutedRows routed_rows(const Tensor& indices, const Permutation& p, std::int64_t sequences,
                       const Tensor& starts, bool over_rows) {
  const std::int64_t tokens = indices.rows(), experts = std::int64_t(p.counts.size());
  MOE_CHECK(p.slot_to_row.shape() == indices.shape(), "attention spans: ", join(indices.shape()),
            " choices, sorted ", join(p.slot_to_row.shape()));
  MOE_CHECK(sequences > 0 && tokens % sequences == 0, "attention spans: ", tokens, " tokens in ",
            sequences, " sequences");
  MOE_CHECK(!starts.defined() || starts.size() == tokens, "attention spans: ", tokens,
            " tokens, documents of ", starts.size());
  const Device device = indices.device();
  const auto made = [&](std::int64_t size) { return Tensor::empty({size}, DType::i32, device); };
  const std::int64_t rows = p.row_to_slot.size();
  RoutedRows r{{made(rows), made(rows), made(experts * sequences + 1), {}},
               over_rows ? 1 : experts,
               over_rows ? experts * sequences : sequences,
               made(rows)};
  Tensor counts = Tensor::empty({sequences, experts}, DType::i64, device);
  backend(device).count_experts(counts, indices);
  backend(device).segment_offsets(r.spans.query_offsets, counts);
  backend(device).attention_spans(r.spans.begin, r.spans.end, r.positions, p.row_to_slot,
                                  indices.cols(), starts, tokens / sequences,
                                  over_rows ? r.spans.query_offsets : Tensor());
  return r;
}

}  // namespace

RoutedRows rows_over_tokens(const Tensor& indices, const Permutation& permutation,
                            std::int64_t sequences, const Tensor& starts) {
  RoutedRows r = routed_rows(indices, permutation, sequences, starts, false);
  std::vector<std::int32_t> keys;
  for (std::int64_t s = 0; s <= sequences; ++s)
    keys.push_back(std::int32_t(s * (indices.rows() / sequences)));
  r.spans.key_offsets = Tensor::of({sequences + 1}, keys).to(indices.device());
  return r;
}

RoutedRows rows_over_rows(const Tensor& indices, const Permutation& permutation,
                          std::int64_t sequences, const Tensor& starts) {
  RoutedRows r = routed_rows(indices, permutation, sequences, starts, true);
  r.spans.key_offsets = r.spans.query_offsets;
  return r;
}

}  // namespace moe::ops
