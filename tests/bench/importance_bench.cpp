// SPDX-License-Identifier: Apache-2.0
// How fast importance scores are made, beside a forward and backward pass of the same dense model
// over the same text with all its weight gradients. Both alternate; medians.
//   bench_importance [rounds]
#include <cstdio>
#include <cstdlib>

#include "bench_support.h"
#include "nn/transformer.h"
#include "split/calibration_support.h"
#include "split/importance.h"

namespace moe {
namespace {

void run(int rounds) {
  ModelConfig c;
  c.vocab_size = 8192;
  c.hidden_size = 512;
  c.intermediate_size = 1376;
  c.layers = 8;
  c.heads = c.kv_heads = 8;
  c.head_dim = 64;
  const test::TestFolder folder;
  const ModelFolder dense(test::write_dense(folder, c));
  CalibrationOptions options;
  options.shards = {test::write_shard(folder, c, std::vector<std::int64_t>(32, 513))};
  options.tokens = 32 * 512;
  const auto world = single_rank();
  const CalibrationText text = load_calibration(options, dense, 1, *world);
  const std::vector<std::int32_t> cluster(std::size_t(text.tokens), 0);

  const ProcessGrid grid(*world, 1);
  ParameterStore store(c, DType::f32);
  store.load([&](const std::string& name, std::int64_t first, std::int64_t count) {
    return dense.read(name, first, count, DType::f32);
  });
  const Transformer model(c, store, grid);
  std::vector<double> scoring, training;
  for (int r = 0; r <= rounds; ++r) {  // the first is warm-up
    const double a = seconds_of([&] {
      (void)importance_scores(
          dense, text, [&](std::int64_t) -> const std::vector<std::int32_t>& { return cluster; }, 8,
          *world);
    });
    const double b = seconds_of([&] {
      for (const Batch& batch : text.batches) {
        Tape tape;
        tape.backward(
            model.loss(batch.tokens, batch.labels, 1.0 / double(text.all_labels), {}).total);
      }
    });
    for (Parameter& p : store.all()) p.variable.slot->grad = {};
    if (r == 0) continue;
    scoring.push_back(a);
    training.push_back(b);
  }
  const double tokens = double(text.tokens);
  std::printf("importance %.0f tokens/s, forward and backward %.0f tokens/s: %.2f x\n",
              tokens / median(scoring), tokens / median(training),
              median(training) / median(scoring));
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) { moe::run(argc > 1 ? std::atoi(argv[1]) : 5); }
