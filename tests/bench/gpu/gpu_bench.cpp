// SPDX-License-Identifier: Apache-2.0
// Every CUDA kernel beside its bound, the MoE layer and the training step of LLaMA-MoE-3.5B's
// shapes, on one device. Bounds are measured in the same run: a copy and a bf16 product of 8192^3.
//   bench_gpu [--sequences N] [--layers N] [--trace expert_counts.tsv]
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "core/cuda_device.h"
#include "device_timer.h"
#include "kernel_rows.h"
#include "model_rows.h"

namespace moe {
namespace {

struct Options {
  std::int64_t sequences = 1, layers = 0;
  std::string trace;
};

void show_kernels(const Options& options, const DeviceRates& rates) {
  std::printf("%-34s %10s %10s %10s\n", "kernel", "ms", "bound, ms", "of bound");
  const ExpertLoads trace =
      options.trace.empty() ? ExpertLoads{} : loads_of_trace(options.trace, 16);
  each_kernel(trace, [&](const KernelRow& row) {
    const double bound = row.bytes / rates.bytes_per_second + row.flops / rates.flops_per_second;
    const double seconds = device_seconds(row.run);
    std::printf("%-34s %10.4f %10.4f %8.0f %%\n", row.name.c_str(), 1e3 * seconds, 1e3 * bound,
                100 * bound / seconds);
    std::fflush(stdout);
  });
}

void show_models(const Options& options, const DeviceRates& rates) {
  std::printf("\n%-34s %10s %10s %10s %10s\n", "ours", "ms", "tokens/s", "of GEMM", "max/mean");
  const auto show = [&](const ModelRow& row) {
    std::printf("%-34s %10.2f %10.0f %8.1f %% %10.2f\n", row.name.c_str(), 1e3 * row.seconds,
                row.tokens / row.seconds, 100 * row.flops / row.seconds / rates.flops_per_second,
                row.skew);
    std::fflush(stdout);
  };
  each_layer(options.sequences, show);
  const std::int64_t layers =
      options.layers > 0 ? options.layers : layers_that_fit(options.sequences);
  each_step(layers, options.sequences, options.trace, show);
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  moe::Options options;
  CLI::App app("CUDA kernels beside their bounds; layers and steps of LLaMA-MoE-3.5B");
  app.add_option("--sequences", options.sequences, "sequences of 4096 in a micro-batch")
      ->check(CLI::PositiveNumber);
  app.add_option("--layers", options.layers, "of the training step; default: as many as fit");
  app.add_option("--trace", options.trace, "loads of experts, tab-separated");
  CLI11_PARSE(app, argc, argv);
  try {
    if (!moe::cuda_available()) {
      std::printf("nothing measured: %s\n", moe::cuda::why_unavailable().c_str());
      return 0;
    }
    const moe::DeviceRates rates = moe::measure_device_rates();
    std::printf("%s: copy %.2f TB/s, bf16 GEMM %.0f TFLOP/s\n\n", moe::cuda::device_name().c_str(),
                1e-12 * rates.bytes_per_second, 1e-12 * rates.flops_per_second);
    moe::show_kernels(options, rates);
    moe::show_models(options, rates);
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "bench_gpu: %s\n", failure.what());
    return 1;
  }
}
