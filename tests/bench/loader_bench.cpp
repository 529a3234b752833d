// SPDX-License-Identifier: Apache-2.0
// How fast batches come from shards in the page cache, on one thread, and how soon a run over very
// many shards can begin far into its data.
//   bench_loader [rounds] [folder for some 500 MB of shards; default: a temporary one]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "bench_support.h"
#include "core/error.h"
#include "core/rng.h"
#include "data/loader.h"
#include "data/token_writer.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLength = 4096, kBatch = 64;

/// Documents of 1 to 2 * mean tokens.
void write_shard(const fs::path& path, std::int64_t tokens, std::int64_t mean,
                 std::int64_t vocabulary) {
  TokenWriter writer({.domain = path.stem().string(), .vocabulary_size = vocabulary},
                     path.parent_path());
  const Philox random(1, RandomPurpose::test);
  std::vector<std::int32_t> document;
  for (std::uint64_t draw = 0; writer.tokens() < tokens;) {
    document.resize(1 + random.below(draw++, std::uint64_t(2 * mean)));
    for (std::size_t i = 0; i < document.size(); ++i)
      document[i] = std::int32_t((i * 7919 + draw) % std::size_t(vocabulary));
    writer.append(document);
  }
  writer.write(path);
}

void bench_rate(const fs::path& folder, int rounds) {
  std::printf("%-34s %12s %14s\n", "tokens into batches, one thread", "M tokens/s", "padding");
  for (const std::int64_t vocabulary : {32000, 128256}) {
    const fs::path shard = folder / str("rate-", vocabulary, ".h5");
    write_shard(shard, 32 << 20, 600, vocabulary);
    for (const auto& [packing, masks] : {std::pair(Packing::concatenate, false),
                                         {Packing::concatenate, true},
                                         {Packing::best_fit, true}}) {
      const Loader loader({{"d", {shard}}}, kLength, 1, vocabulary, {packing, masks});
      MixtureState state = loader.mixture().initial_state();
      std::vector<double> rates;
      double inputs = 0, slots = 0;
      for (int r = 0; r < rounds * 16; ++r) {
        StepPlan plan;
        const double seconds = seconds_of([&] {
          plan = loader.plan(r, kBatch, state);
          (void)loader.load(plan, 0, kBatch);
        });
        state = plan.next;
        rates.push_back(double(plan.tokens) / seconds);
        inputs += double(plan.tokens);
        slots += double(kBatch * kLength);
      }
      std::printf("%-34s %12.0f %13.2f%%\n",
                  str(vocabulary <= 65536 ? "u16, " : "u32, ",
                      packing == Packing::best_fit ? "best_fit" : "concatenate",
                      masks ? ", document masks" : "")
                      .c_str(),
                  median(rates) / 1e6, 100 * (1 - inputs / slots));
    }
  }
}

void bench_packing(const fs::path& folder, int rounds) {
  const fs::path shard = folder / "documents.h5";
  write_shard(shard, 64 << 20, 60, 32000);
  std::vector<double> rates;
  for (int r = 0; r < rounds; ++r) {
    std::int64_t documents = 0;
    const double seconds = seconds_of([&] {
      const Sequences packed({shard}, kLength, 32000, {Packing::best_fit, true});
      documents = packed.stream().documents();
    });
    rates.push_back(double(documents) / seconds);
  }
  std::printf("best-fit packing: %.1f M documents/s\n", median(rates) / 1e6);
}

void bench_many(const fs::path& folder, int rounds) {
  constexpr std::int64_t kShards = 10000, kStep = 1000000;
  std::vector<DomainSource> sources(7);
  for (std::int64_t i = 0; i < kShards; ++i) {
    const auto d = std::size_t(i % 7);
    sources[d].name = str("domain", d);
    sources[d].files.push_back(folder / "many" / str("domain", d, "-", i, ".h5"));
    sources[d].weight = 1 + double(d);
  }
  fs::create_directory(folder / "many");
  write_shard(sources[0].files[0], 3000, 300, 32000);
  const auto manifest = [](const fs::path& shard) { return shard.string() + ".json"; };
  for (const DomainSource& source : sources)
    for (const fs::path& file : source.files) {
      if (file == sources[0].files[0]) continue;
      fs::copy_file(sources[0].files[0], file);
      fs::copy_file(manifest(sources[0].files[0]), manifest(file));
    }
  std::vector<double> open, first;
  for (int r = 0; r < rounds; ++r) {
    std::unique_ptr<Loader> loader;
    open.push_back(seconds_of([&] { loader = std::make_unique<Loader>(sources, 256, 1, 32000); }));
    MixtureState state = loader->mixture().initial_state();
    for (std::size_t d = 0; d < 7; ++d)
      state.consumed[d] = std::int64_t(double(kStep * 256) * state.weights[d]);
    first.push_back(
        seconds_of([&] { (void)loader->load(loader->plan(kStep, 256, state), 0, 256); }));
  }
  std::printf("%lld shards: open %.2f s, then the batch of step %lld %.3f s\n",
              static_cast<long long>(kShards), median(open), static_cast<long long>(kStep),
              median(first));
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 5;
  const std::filesystem::path base =
      argc > 2 ? std::filesystem::path(argv[2]) : std::filesystem::temp_directory_path();
  const std::filesystem::path folder = base / "bench_loader_shards";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  moe::bench_rate(folder, rounds);
  moe::bench_packing(folder, rounds);
  moe::bench_many(folder, rounds);
  std::filesystem::remove_all(folder);
}
