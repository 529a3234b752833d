// SPDX-License-Identifier: Apache-2.0
#include "train/held_out_loss.h"

#include <algorithm>

#include "autograd/tape.h"
#include "comm/watchdog.h"

namespace moe {
namespace {

Batch padding_batch() {
  Batch b;
  b.tokens = Tensor::of<std::int32_t>({1, 1}, {-1});
  b.labels = Tensor::of<std::int32_t>({1, 1}, {-1});
  return b;
}

}  // namespace

Tensor sequence_losses(const Transformer& model, const HeldOut& data, std::int64_t sequences,
                       std::int64_t micro_batch, Communicator& world,
                       const std::function<void()>& alive) {
  set_phase("held-out loss");
  const NoTape no_recording;
  const std::int64_t total = std::min(sequences, data.sequences());
  // Every element has one rank that fills it in.
  Tensor sums = Tensor::zeros({std::max<std::int64_t>(total, 1), 2}, DType::f64);
  for (std::int64_t round = 0; round < total; round += micro_batch * world.size()) {
    const std::int64_t first = round + world.rank() * micro_batch;
    const std::int64_t n = std::clamp<std::int64_t>(total - first, 0, micro_batch);
    const Batch batch = n > 0 ? data.load(first, n) : padding_batch();
    ForwardContext context;
    context.document_starts = batch.document_starts;
    const ModelLoss loss = model.loss(batch.tokens, batch.labels, 1, context);
    const Tensor losses = loss.token_loss.to(Device::cpu);
    const std::int64_t length = batch.labels.cols();
    for_accumulator(losses.dtype(), [&]<class A>(A) {
      for (std::int64_t s = 0; s < n; ++s)
        for (std::int64_t t = s * length; t < (s + 1) * length; ++t) {
          sums.data<double>()[2 * (first + s)] += double(losses.data<A>()[t]);
          sums.data<double>()[2 * (first + s) + 1] += batch.labels.data<std::int32_t>()[t] >= 0;
        }
    });
    alive();
  }
  world.all_reduce(sums, ReduceOp::sum).wait();
  return sums;
}

HeldOutLoss held_out_loss(const Transformer& model, const HeldOut& data, std::int64_t sequences,
                          std::int64_t micro_batch, Communicator& world,
                          const std::function<void()>& alive) {
  const Tensor sums = sequence_losses(model, data, sequences, micro_batch, world, alive);
  HeldOutLoss result;
  double sum = 0;
  for (std::int64_t s = 0; s < sums.rows(); ++s) {
    const double* of_sequence = sums.data<double>() + 2 * s;
    sum += of_sequence[0];
    result.tokens += std::int64_t(of_sequence[1]);
  }
  result.loss = result.tokens > 0 ? sum / double(result.tokens) : 0;
  return result;
}

}  // namespace moe
