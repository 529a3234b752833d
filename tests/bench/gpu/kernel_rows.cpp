// SPDX-License-Identifier: Apache-2.0
#include "kernel_rows.h"

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>

#include "core/cuda_device.h"
#include "core/rng.h"
#include "device_timer.h"
#include "kernels/backend.h"
#include "kernels/cuda/grouped_products.h"

namespace moe {
namespace {

constexpr std::int64_t kSequences = 4, kLength = 4096, kTokens = kSequences * kLength;
constexpr std::int64_t kDocument = 512;
constexpr std::int64_t kHidden = 4096, kHeads = 32, kHeadDim = 128, kVocabulary = 32000;
constexpr std::int64_t kExperts = 16, kTopK = 4, kNeurons = 688, kPairs = kTokens * kTopK;
constexpr DType kType = DType::bf16;

using Show = std::function<void(const KernelRow&)>;

double bytes_of(std::initializer_list<Tensor> tensors) {
  double bytes = 0;
  for (const Tensor& t : tensors) bytes += double(t.nbytes());
  return bytes;
}

Tensor blank(const Shape& shape, DType dtype = kType) {
  return Tensor::empty(shape, dtype, Device::cuda);
}

/// Each token's experts, all as likely, no expert twice.
Tensor random_choice() {
  std::vector<std::int32_t> chosen;
  const Philox random(1, RandomPurpose::test);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const auto first = std::int64_t(random.below(std::uint64_t(t), kExperts));
    for (std::int64_t j = 0; j < kTopK; ++j)
      chosen.push_back(std::int32_t((first + j * (kExperts / kTopK)) % kExperts));
  }
  return indices_on_device({kTokens, kTopK}, chosen);
}

void elementwise(Backend& b, const Show& show) {
  const Tensor x = random_on_device({kTokens, kHidden}, kType), dy = empty_like(x);
  const Tensor w = random_on_device({kTokens, kHidden}, kType);
  dy.copy_from(x);
  Tensor y = empty_like(x), z = empty_like(x), out = empty_like(x);
  Tensor wide = random_on_device({kTokens, kHidden}, DType::f32);
  Tensor number = random_on_device({1}, DType::f32), sum = random_on_device({1}, DType::f64);
  const std::vector<Philox> stream = {Philox(1, RandomPurpose::test)};
  show({"fill", bytes_of({y}), 0, [&] { b.fill(y, 1.5); }});
  show({"cast f32 to bf16", bytes_of({wide, y}), 0, [&] { b.cast(y, wide); }});
  show({"add", bytes_of({x, w, y}), 0, [&] { b.add(y, x, w); }});
  show({"add_into f32 += bf16", bytes_of({wide, wide, x}), 0, [&] { b.add_into(wide, x); }});
  show({"scale", bytes_of({y, y}), 0, [&] { b.scale(y, 1.0); }});
  show({"scale_by", bytes_of({y, y}), 0, [&] { b.scale_by(y, number); }});
  show({"multiply", bytes_of({x, w, y}), 0, [&] { b.multiply(y, x, w); }});
  show({"multiply_add", bytes_of({x, w, dy, y}), 0, [&] { b.multiply_add(y, x, w, dy); }});
  show({"tanh_forward", bytes_of({x, y}), 0, [&] { b.tanh_forward(y, x); }});
  show({"tanh_backward", bytes_of({dy, x, y}), 0, [&] { b.tanh_backward(y, dy, x); }});
  show({"softplus_forward", bytes_of({x, y}), 0, [&] { b.softplus_forward(y, x, 0.01); }});
  show({"softplus_backward", bytes_of({dy, x, y}), 0, [&] { b.softplus_backward(y, dy, x); }});
  show({"swiglu_forward", bytes_of({x, w, y}), 0, [&] { b.swiglu_forward(y, x, w); }});
  show({"swiglu_backward", bytes_of({x, w, dy, y, z, out}), 0,
        [&] { b.swiglu_backward(y, z, out, dy, x, w); }});
  show({"normal", bytes_of({wide}), 0, [&] { b.normal(wide, stream); }});
  show({"add_squared_norm", bytes_of({x}), 0, [&] { b.add_squared_norm(sum, x); }});
  show({"sum", bytes_of({wide}), 0, [&] { b.sum(number, wide); }});
}

void rows(Backend& b, const Show& show) {
  const Tensor x = random_on_device({kTokens, kHidden}, kType);
  const Tensor w = random_on_device({kHidden}, kType), dy = random_on_device(x.shape(), kType);
  Tensor y = empty_like(x), rstd = blank({kTokens}, DType::f32), dw = blank({kHidden}, DType::f32);
  show({"rmsnorm_forward", bytes_of({x, y}), 0, [&] { b.rmsnorm_forward(y, rstd, x, w, 1e-5); }});
  show({"rmsnorm_backward", bytes_of({x, dy, y}), 0,
        [&] { b.rmsnorm_backward(y, dw, dy, x, w, rstd); }});
  const Tensor cos = random_on_device({kLength, kHeadDim / 2}, DType::f32), sin = empty_like(cos);
  sin.copy_from(cos);
  show({"rope", bytes_of({x, y}), 0,
        [&] { b.rope(y, x, cos, sin, {}, kHeads, kLength, 0, false); }});

  std::vector<std::int32_t> words;
  const Philox random(2, RandomPurpose::test);
  for (std::int64_t t = 0; t < kTokens; ++t)
    words.push_back(std::int32_t(random.below(std::uint64_t(t), kVocabulary)));
  const Tensor ids = indices_on_device({kTokens}, words);
  const Tensor table = random_on_device({kVocabulary, kHidden}, kType);
  Tensor dtable = blank(table.shape(), DType::f32);
  show({"embedding_forward", bytes_of({y, y}), 0, [&] { b.embedding_forward(y, table, ids); }});
  show({"embedding_backward", bytes_of({dtable, dy}), 0,
        [&] { b.embedding_backward(dtable, dy, ids); }});

  const Tensor labels = ids.slice(0, kLength);
  Tensor logits = random_on_device({kLength, kVocabulary}, DType::f32);
  Tensor loss = blank({kLength}, DType::f32);
  show({"cross_entropy", bytes_of({logits}), 0, [&] { b.cross_entropy(loss, logits, labels, 0); }});
  show({"cross_entropy with gradient", bytes_of({logits, logits}), 0,
        [&] { b.cross_entropy(loss, logits, labels, 1); }});
}

void routing(Backend& b, const Show& show) {
  const Tensor logits = random_on_device({kTokens, kExperts}, DType::f32), valid;
  const Tensor noisy = random_on_device(logits.shape(), DType::f32);
  Tensor p = empty_like(logits), dlogits = empty_like(logits), dp = empty_like(logits);
  Tensor values = blank({kTokens, kTopK + 1}, DType::f32);
  Tensor top = blank({kTokens, kTopK + 1}, DType::i32),
         indices = blank({kTokens, kTopK}, DType::i32);
  Tensor weights = blank({kTokens, kTopK}, DType::f32), kept = empty_like(indices);
  show({"topk", bytes_of({logits, values, top}), 0, [&] { b.topk(values, top, logits, valid); }});
  show({"leading_columns", bytes_of({top, indices}), 0, [&] { b.leading_columns(indices, top); }});
  show({"softmax_forward", bytes_of({logits, p}), 0, [&] { b.softmax_forward(p, logits); }});
  show({"softmax_backward", bytes_of({logits, p, dlogits}), 0,
        [&] { b.softmax_backward(dlogits, logits, p); }});
  const auto form = RouterWeights::softmax_of_chosen;
  show({"router_weights_forward", bytes_of({logits, indices, weights}), 0,
        [&] { b.router_weights_forward(weights, logits, indices, form); }});
  show({"router_weights_backward", bytes_of({weights, weights, logits, indices, dlogits}), 0,
        [&] { b.router_weights_backward(dlogits, weights, weights, logits, indices, form); }});
  show({"scatter_columns", bytes_of({p, weights, indices}), 0,
        [&] { b.scatter_columns(p, weights, indices); }});
  show({"gather_columns", bytes_of({p, weights, indices}), 0,
        [&] { b.gather_columns(weights, p, indices); }});
  const Tensor capacities =
      Tensor::of<std::int64_t>({kSequences}, std::vector<std::int64_t>(kSequences, 1280))
          .to(Device::cuda);
  show({"drop_over_capacity", bytes_of({indices, weights, kept}), 0,
        [&] { b.drop_over_capacity(kept, indices, weights, capacities); }});
  Tensor counts = blank({kSequences, kExperts}, DType::i64);
  Tensor sums = blank({kSequences, kExperts}, DType::f32);
  show({"count_experts", bytes_of({indices}), 0, [&] { b.count_experts(counts, indices); }});
  show({"segment_sum", bytes_of({logits}), 0, [&] { b.segment_sum(sums, logits, valid); }});
  show({"segment_broadcast", bytes_of({p}), 0, [&] { b.segment_broadcast(p, sums, valid); }});
  Tensor sigma = empty_like(logits), load = empty_like(logits), dsigma = empty_like(logits);
  b.fill(sigma, 0.5);
  show({"noisy_load_forward", bytes_of({logits, noisy, sigma, load, values, top}), 0,
        [&] { b.noisy_load_forward(load, logits, noisy, sigma, values, top, false); }});
  show({"noisy_load_backward", bytes_of({logits, noisy, sigma, load, values, top, p, dp, dsigma}),
        0, [&] {
          b.noisy_load_backward(p, dp, dsigma, load, logits, noisy, sigma, values, top, false);
        }});
  Tensor loss = blank({1}, DType::f32), dsums = empty_like(sums);
  const Tensor segments = random_on_device({kSequences}, DType::f32);
  show({"cv_squared_forward", bytes_of({sums}), 0,
        [&] { b.cv_squared_forward(loss, sums, segments); }});
  show({"cv_squared_backward", bytes_of({sums, dsums}), 0,
        [&] { b.cv_squared_backward(dsums, sums, segments); }});
  show({"switch_loss_forward", bytes_of({sums, counts}), 0,
        [&] { b.switch_loss_forward(loss, sums, counts, segments); }});
  show({"switch_loss_backward", bytes_of({sums, counts, dsums}), 0,
        [&] { b.switch_loss_backward(dsums, sums, counts, segments); }});
  show({"z_loss_forward", bytes_of({logits}), 0,
        [&] { b.z_loss_forward(loss, logits, valid, 1e-3); }});
  show({"z_loss_backward", bytes_of({logits, dlogits}), 0,
        [&] { b.z_loss_backward(dlogits, logits, valid, 1e-3); }});
}

void permutation(Backend& b, const Show& show) {
  const Tensor indices = random_choice(), order;
  Tensor counts = blank({kExperts}, DType::i64), slot_to_row = empty_like(indices);
  Tensor row_to_slot = blank({kPairs}, DType::i32);
  show({"sort_by_expert", bytes_of({indices, slot_to_row, row_to_slot}), 0,
        [&] { b.sort_by_expert(counts, slot_to_row, row_to_slot, indices, order); }});
  const Tensor x = random_on_device({kTokens, kHidden}, kType), dy = empty_like(x);
  dy.copy_from(x);
  Tensor sorted = blank({kPairs, kHidden}), drows = empty_like(sorted), y = empty_like(x);
  const Tensor weights = random_on_device({kTokens, kTopK}, DType::f32);
  Tensor dweights = empty_like(weights);
  show({"gather_rows", bytes_of({x, sorted}), 0,
        [&] { b.gather_rows(sorted, x, row_to_slot, kTopK); }});
  show({"combine_forward", bytes_of({sorted, y}), 0,
        [&] { b.combine_forward(y, sorted, weights, slot_to_row, 4); }});
  show({"combine_backward", bytes_of({sorted, dy, drows}), 0,
        [&] { b.combine_backward(drows, dweights, dy, sorted, weights, slot_to_row, 4); }});
}

void optimiser(Backend& b, const Show& show) {
  const Shape shape = {std::int64_t{64} << 20};
  Tensor weight = random_on_device(shape, kType), master = random_on_device(shape, DType::f32);
  Tensor m = random_on_device(shape, DType::f32), v = empty_like(m);
  b.multiply(v, m, m);
  const Tensor gradient = random_on_device(shape, DType::f32);
  const AdamWStep step = {1e-4, 0.9, 0.95, 1e-8, 0.1, 1.0, 0.5, 0.5};
  show({"adamw", bytes_of({weight, master, master, m, m, v, v, gradient}), 0,
        [&] { b.adamw(weight, master, m, v, gradient, step); }});
}

void products(Backend& b, const Show& show) {
  const Tensor x = random_on_device({kTokens, kHidden}, kType);
  const Tensor w = random_on_device({kHidden, kHidden}, kType);
  Tensor y = empty_like(x), dw = blank({kHidden, kHidden}, DType::f32);
  const double flops = 2.0 * kTokens * kHidden * kHidden;
  show({"gemm forward", 0, flops, [&] { b.gemm(y, x, false, w, true, 0); }});
  show({"gemm input gradient", 0, flops, [&] { b.gemm(y, x, false, w, false, 0); }});
  show({"gemm weight gradient, f32 +=", 0, flops, [&] { b.gemm(dw, x, true, y, false, 1); }});
}

/// By the backend's own choice, and by the kernel for Hopper where there is one.
void grouped_products(Backend& b, GroupedProducts* hopper, const std::string& kind,
                      const ExpertLoads& loads, const Show& show) {
  const std::vector<std::int64_t> rows = row_offsets(loads, kPairs);
  std::vector<std::int64_t> neurons = {0};
  for (std::int64_t e = 0; e < kExperts; ++e) neurons.push_back(neurons.back() + kNeurons);
  const ExpertGroups groups{rows, neurons};
  Tensor x = random_on_device({kPairs, kHidden}, kType);
  const Tensor w = random_on_device({neurons.back(), kHidden}, kType);
  Tensor hidden = random_on_device({groups.hidden_size()}, kType);
  Tensor dw = random_on_device(w.shape(), DType::f32);
  const double flops = 2.0 * kPairs * kNeurons * kHidden;
  show({"grouped up, " + kind, 0, flops, [&] { b.grouped_gemm_up(hidden, x, w, groups); }});
  show({"grouped down, " + kind, 0, flops, [&] { b.grouped_gemm_down(x, hidden, w, groups, 0); }});
  show({"grouped weight, " + kind, 0, flops,
        [&] { b.grouped_gemm_weight(dw, hidden, x, groups, 1); }});
  if (hopper == nullptr) return;
  show({"hopper up, " + kind, 0, flops, [&] { hopper->up(hidden, x, w, groups); }});
  show({"hopper down, " + kind, 0, flops, [&] { hopper->down(x, hidden, w, groups, 0); }});
  show({"hopper weight, " + kind, 0, flops, [&] { hopper->weight(dw, hidden, x, groups, 1); }});
}

void attention(Backend& b, const Show& show) {
  const AttentionShape shape = {kSequences, kLength, kLength, kHeads, kHeads, kHeadDim};
  const Tensor q = random_on_device({kTokens, kHidden}, kType),
               k = random_on_device(q.shape(), kType), v = random_on_device(q.shape(), kType),
               dout = random_on_device(q.shape(), kType);
  Tensor out = empty_like(q), lse = blank({kSequences, kHeads, kLength}, DType::f32);
  Tensor dq = empty_like(q), dk = empty_like(k), dv = empty_like(v);
  // The causal half of the scores; a product of 128 for each.
  const double product = 2.0 * kSequences * kHeads * kHeadDim * kLength * (kLength + 1) / 2;
  // Of documents too: the same scores are counted, so the rate shows what the mask itself costs.
  Tensor documents = Tensor::empty({kSequences, kLength}, DType::i32);
  for (std::int64_t i = 0; i < documents.size(); ++i)
    documents.data<std::int32_t>()[i] = std::int32_t(i % kLength / kDocument * kDocument);
  for (const auto& [kind, starts] :
       {std::pair(std::string(), Tensor()), {", documents", documents.to(Device::cuda)}}) {
    show({"attention_forward" + kind, 0, 2 * product,
          [&, &starts = starts] { b.attention_forward(out, lse, q, k, v, starts, shape); }});
    show({"attention_backward" + kind, 0, 5 * product, [&, &starts = starts] {
            b.attention_backward(dq, dk, dv, dout, q, k, v, out, lse, starts, shape);
          }});
  }
}

}  // namespace

void each_kernel(const ExpertLoads& trace, const Show& show) {
  Backend& b = backend(Device::cuda);
  elementwise(b, show);
  rows(b, show);
  routing(b, show);
  permutation(b, show);
  optimiser(b, show);
  products(b, show);
  std::unique_ptr<GroupedProducts> hopper;
  if (cuda::compute_capability() == 90)
    hopper = hopper_grouped_products(cuda::compute_stream(), cuda::processors());
  grouped_products(b, hopper.get(), "balanced", balanced_loads(kExperts), show);
  grouped_products(b, hopper.get(), "skew 4", one_hot_load(kExperts, 4), show);
  if (!trace.empty()) grouped_products(b, hopper.get(), "traced", trace, show);
  attention(b, show);
}

}  // namespace moe
