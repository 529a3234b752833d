// SPDX-License-Identifier: Apache-2.0
// How long training stands still for a checkpoint, against a copy of the state in memory; and the
// rate of the save, against dd with fsync. bench_checkpoint FOLDER [REPETITIONS]; medians.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "bench_model.h"
#include "config/model_json.h"
#include "core/error.h"
#include "train/checkpoint_saver.h"
#include "train/training_state.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

void append(const fs::path& file, const Tensor& t) {
  std::ofstream out(file, std::ios::binary | std::ios::app);
  out.write(reinterpret_cast<const char*>(t.bytes()), std::streamsize(t.nbytes()));
  MOE_CHECK(out, file.string(), ": cannot be written");
}

void run(const fs::path& folder, int repetitions) {
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  const ModelConfig model = bench_model();
  Engine engine(model, {}, grid, initial_weights(model, 1));
  const std::vector<TensorRows> state = state_to_save(engine);
  std::vector<Tensor> copies;
  double bytes = 0;
  for (const TensorRows& r : state) {
    copies.push_back(r.value.clone());
    bytes += double(r.value.nbytes());
  }
  const CheckpointTexts texts{"{}", model_config_to_json(model), ""};
  CheckpointSaver saver(folder / "bench-checkpoints", {.last = 1}, *world);
  saver.reserve(state);
  // The same bytes for dd: disks may be quick with zeros.
  const fs::path source = folder / "bench-source", target = folder / "bench-dd";
  for (const Tensor& t : copies) append(source, t);
  const std::string dd =
      str("dd if='", source.string(), "' of='", target.string(), "' bs=4M conv=fsync 2> /dev/null");

  std::vector<double> copy, still, save, plain;
  const auto copy_state = [&] {
    for (std::size_t t = 0; t < state.size(); ++t) copies[t].copy_from(state[t].value);
  };
  for (int i = 0; i < repetitions; ++i) {
    copy_state();  // after the disk has been busy the first copy is slower than the next
    copy.push_back(seconds_of(copy_state));
    saver.begin(i, state, texts);
    std::optional<SaveResult> result;
    while (!(result = saver.poll())) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    MOE_CHECK(result->failure.empty(), result->failure);
    still.push_back(result->seconds_still);
    save.push_back(result->seconds);
    plain.push_back(seconds_of([&] { MOE_CHECK(std::system(dd.c_str()) == 0, dd); }));
  }
  fs::remove_all(folder / "bench-checkpoints");
  fs::remove(source);
  fs::remove(target);
  std::printf("state of %.0f MB, medians of %d\n", bytes / 1e6, repetitions);
  std::printf("training stood still %.1f ms, copy in memory %.1f ms: ratio %.2f\n",
              1e3 * median(still), 1e3 * median(copy), median(still) / median(copy));
  std::printf("saved at %.0f MB/s, dd with fsync at %.0f MB/s: ratio %.2f\n",
              bytes / median(save) / 1e6, bytes / median(plain) / 1e6,
              median(plain) / median(save));
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_checkpoint FOLDER [REPETITIONS]\n");
    return 2;
  }
  moe::run(argv[1], argc > 2 ? std::atoi(argv[2]) : 5);
}
