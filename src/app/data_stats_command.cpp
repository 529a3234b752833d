// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/data_commands.h"
#include "core/readable.h"
#include "data/shard_statistics.h"
#include "data/token_file.h"

namespace moe {
namespace {

using nlohmann::ordered_json;

constexpr double kQuantiles[] = {0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99};
constexpr std::int64_t kBarWidth = 40;

struct StatsArguments {
  std::vector<std::string> shards;
  std::string tokenizer;
  int threads = 0;
  bool json = false;
};

double share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : double(part) / double(whole);
}

ordered_json to_json(const DomainStatistics& d) {
  ordered_json object = {{"domain", d.domain},
                         {"shards", d.shards},
                         {"documents", d.documents},
                         {"tokens", d.tokens},
                         {"learned_share_of_tokens", share(d.learned, d.tokens)},
                         {"file_bytes", d.file_bytes}};
  if (d.text_bytes) {
    object["text_bytes"] = *d.text_bytes;
    object["bytes_per_token"] = share(*d.text_bytes, d.tokens);
  }
  object["duplicate_documents"] = d.duplicates;
  object["documents_with_bos"] = d.with_bos;
  object["documents_with_eos"] = d.with_eos;
  object["bos_eos_share_of_tokens"] = share(d.with_bos + d.with_eos, d.tokens);
  ordered_json& lengths = object["document_tokens"];
  lengths = {{"mean", share(d.tokens, d.documents)},
             {"shortest", d.lengths.begin()->first},
             {"longest", d.lengths.rbegin()->first}};
  for (const double q : kQuantiles) lengths["quantiles"][fmt::format("{}", q)] = d.quantile(q);
  for (const auto& [from, count] : d.histogram())
    lengths["histogram"].push_back({{"from", from}, {"to", 2 * from - 1}, {"documents", count}});
  return object;
}

void print(const DomainStatistics& d) {
  fmt::print("{}: {} documents, {} tokens in {} shards ({} bytes)\n", d.domain, d.documents,
             d.tokens, d.shards, readable_count(double(d.file_bytes)));
  if (d.learned < d.tokens)
    fmt::print("  learned: {:.1f} % of the tokens\n", 100 * share(d.learned, d.tokens));
  if (d.text_bytes)
    fmt::print("  text: {} bytes, {:.2f} a token\n", readable_count(double(*d.text_bytes)),
               share(*d.text_bytes, d.tokens));
  fmt::print("  duplicates: {} ({:.2f} %); BOS {:.1f} %, EOS {:.1f} % of documents\n", d.duplicates,
             100 * share(d.duplicates, d.documents), 100 * share(d.with_bos, d.documents),
             100 * share(d.with_eos, d.documents));
  fmt::print("  tokens a document: mean {:.1f}, {} to {}; quantiles", share(d.tokens, d.documents),
             d.lengths.begin()->first, d.lengths.rbegin()->first);
  for (const double q : kQuantiles) fmt::print(" {:g}%: {}", 100 * q, d.quantile(q));
  fmt::print("\n");
  const auto histogram = d.histogram();
  std::int64_t most = 1;
  for (const auto& [from, count] : histogram) most = std::max(most, count);
  for (const auto& [from, count] : histogram)
    fmt::print("  {:>9} to {:<9} {:>10} {}\n", from, 2 * from - 1, count,
               std::string(std::size_t(count * kBarWidth / most), '#'));
}

int statistics(const StatsArguments& a) {
  std::optional<Tokenizer> tokenizer;
  if (!a.tokenizer.empty()) tokenizer = Tokenizer::open(a.tokenizer);
  std::int64_t total = 0;
  for (const std::string& shard : a.shards) total += TokenFile(shard).tokens();
  Progress progress("counting", total, "tokens");
  const auto domains =
      shard_statistics({a.shards.begin(), a.shards.end()}, tokenizer ? &*tokenizer : nullptr,
                       a.threads, [&](std::int64_t done) { progress.update(done, done); });
  progress.finish();
  ordered_json all = ordered_json::array();
  for (const DomainStatistics& d : domains) a.json ? all.push_back(to_json(d)) : print(d);
  if (a.json) std::printf("%s\n", ordered_json{{"domains", all}}.dump().c_str());
  return kExitOk;
}

}  // namespace

Action define_data_stats(CLI::App& app) {
  auto arguments = std::make_shared<StatsArguments>();
  app.add_option("shards", arguments->shards, "Token shards of any domains")->required();
  app.add_option("--tokenizer", arguments->tokenizer, "Count the bytes of their text, too");
  app.add_option("--threads", arguments->threads, "Threads (default: all cores)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--json", arguments->json, "Print one JSON object");
  return [arguments] { return statistics(*arguments); };
}

}  // namespace moe
