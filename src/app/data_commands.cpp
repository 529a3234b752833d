// SPDX-License-Identifier: Apache-2.0
#include "app/data_commands.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "core/readable.h"

namespace moe {

using nlohmann::ordered_json;

void SetArguments::define(CLI::App& app) {
  app.add_option("--set-field", field,
                 "Where a raw line has its set name (default: meta.redpajama_set_name)");
  app.add_option("--set", sets, "NAME=DOMAIN: the domain of a set; SlimPajama's seven are known");
  app.add_option("--unknown-sets", unknown,
                 "Documents of sets without a domain: stop, skip, or keep as a domain of their own")
      ->capture_default_str();
}

bool SetArguments::given() const { return !sets.empty() || !field.empty() || unknown != "stop"; }

SetNames SetArguments::names() const {
  SetNames names;
  if (!field.empty()) names.field = field;
  for (const std::string& set : sets) add_set_name(set, names.domains);
  names.unknown = parse_unknown_sets(unknown);
  return names;
}

void FilterArguments::define(CLI::App& app) {
  app.add_option("--filter", filter, "Rules about the quality of text (configs/data/quality.yaml)");
  app.add_flag("--deduplicate", deduplicate,
               "Take only the first of documents that have the same text");
  app.add_option("--removed", removed,
                 "Write what --filter and --deduplicate leave out, and why, to this .jsonl.zst");
}

std::optional<QualityFilter> FilterArguments::rules() const {
  MOE_REQUIRE(removed.empty() || !filter.empty() || deduplicate,
              "--removed goes with --filter or --deduplicate");
  MOE_REQUIRE(removed.empty() || removed.ends_with(".zst"), "--removed ", removed,
              ": it is zstd data; name it so (.jsonl.zst)");
  if (filter.empty()) return {};
  return QualityFilter::read(filter);
}

void ShardArguments::define(CLI::App& app, BuildOptions& o) {
  app.add_option("--output", output,
                 "The shard to write; its manifest goes to OUTPUT.json. With --raw: a folder")
      ->required();
  app.add_option("--shard-tokens", o.shard_tokens,
                 "Write several shards, NAME-00000.h5 and so on, of about N tokens each")
      ->check(CLI::PositiveNumber);
  app.add_option("--held-out", held_out,
                 "Set apart N documents, or a fraction of them (0.01), chosen by the seed");
  app.add_option("--held-out-output", held_out_output, "The shard for the held-out documents");
  app.add_option("--seed", o.seed, "Chooses the held-out documents")->capture_default_str();
  app.add_flag("--skip-bad", o.skip_bad, "Leave out and count lines that cannot be used");
  app.add_option("--max-bad", o.max_bad, "With --skip-bad: stop when there are more than N")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--threads", o.threads, "Threads that tokenize (default: all cores)")
      ->check(CLI::PositiveNumber);
  app.add_option("--save-every", o.save_every,
                 "Seconds of work that a kill may cost; the same command goes on from there")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--force", o.force, "Replace existing shards, and unfinished work of other options");
  app.add_flag("--json", json, "Print the result as one JSON object");
}

void ShardArguments::fill(BuildOptions& options) const {
  options.output = output;
  options.held_out_output = held_out_output;
  if (!held_out.empty()) options.held_out = parse_held_out(held_out);
  MOE_REQUIRE(options.max_bad < 0 || options.skip_bad, "--max-bad goes with --skip-bad");
}

namespace {

std::int64_t learned_of(const BuildReport& report, const BuildOptions& options) {
  return options.chat->learns_all() ? report.written.tokens : report.written.learned;
}

ordered_json to_json(const BuildReport& report, const BuildOptions& options,
                     const ShardArguments& a, double tokens_per_second) {
  ordered_json object = {{"output", a.output}};
  if (!options.domain.empty()) object["domain"] = options.domain;
  object.update({{"documents", report.written.documents}, {"tokens", report.written.tokens}});
  if (options.chat != nullptr) object["learned_tokens"] = learned_of(report, options);
  object.update(ordered_json::parse(left_out_json(report.left_out)));
  object.update({{"seconds", report.seconds}, {"tokens_per_second", tokens_per_second}});
  if (!a.held_out.empty()) {
    object["held_out"] = {{"documents", report.held_out.documents},
                          {"tokens", report.held_out.tokens}};
    if (!a.held_out_output.empty()) object["held_out"]["output"] = a.held_out_output;
  }
  for (const auto& d : report.domains)
    object["domains"].push_back({{"domain", d.name},
                                 {"documents", d.documents},
                                 {"tokens", d.tokens},
                                 {"text_bytes", d.text_bytes}});
  for (const auto& s : report.shards)
    object["shards"].push_back({{"file", s.path.string()},
                                {"domain", s.domain},
                                {"held_out", s.held_out},
                                {"documents", s.documents},
                                {"tokens", s.tokens}});
  return object;
}

}  // namespace

int build_and_report(const BuildOptions& options, const ShardArguments& a) {
  Progress progress("tokenizing", BatchReader::bytes_of(options.inputs), "tokens");
  std::int64_t earlier = -1, tokens = 0;
  const BuildReport report = build_shards(options, [&](std::int64_t bytes, std::int64_t count) {
    tokens = count;
    if (earlier < 0) progress.start_from(bytes, earlier = count);
    progress.update(bytes, count);
  });
  progress.finish();

  const double rate =
      double(tokens - std::max<std::int64_t>(earlier, 0)) / std::max(report.seconds, 1e-9);
  if (a.json) {
    std::printf("%s\n", to_json(report, options, a, rate).dump().c_str());
    return kExitOk;
  }
  for (const BuildReport::Shard& shard : report.shards)
    fmt::print("{}: {} documents, {} tokens\n", shard.path.string(), shard.documents, shard.tokens);
  if (options.chat != nullptr)
    fmt::print("learned: {:.1f} % of the tokens\n",
               100.0 * double(learned_of(report, options)) / double(report.written.tokens));
  print_left_out(report.left_out);
  fmt::print("{} tokens/s, {}\n", readable_count(rate), readable_seconds(report.seconds));
  return kExitOk;
}

void print_left_out(const IntakeCounts& counts) {
  if (counts.empty > 0) fmt::print("{} empty documents left out\n", counts.empty);
  if (counts.bad > 0) fmt::print("{} unusable documents left out\n", counts.bad);
  for (const auto& [kind, count] : counts.bad_kinds) fmt::print("  {}: {}\n", kind, count);
  if (counts.truncated > 0) fmt::print("{} documents truncated\n", counts.truncated);
  for (const auto& [set, count] : counts.unknown_sets)
    fmt::print("{} documents of the unknown set '{}' left out\n", count, set);
  for (const auto& [domain, reasons] : counts.removed)
    for (const auto& [reason, removed] : reasons)
      fmt::print("{}: {} documents ({} bytes) left out: {}\n", domain, removed.documents,
                 readable_count(double(removed.bytes)), reason);
}

std::string left_out_json(const IntakeCounts& counts) {
  nlohmann::ordered_json object = {
      {"empty_documents", counts.empty},       {"skipped_documents", counts.bad},
      {"skipped_by_reason", counts.bad_kinds}, {"truncated_documents", counts.truncated},
      {"unknown_sets", counts.unknown_sets},   {"removed", nlohmann::json::object()}};
  for (const auto& [domain, reasons] : counts.removed)
    for (const auto& [reason, removed] : reasons)
      object["removed"][domain][reason] = {{"documents", removed.documents},
                                           {"text_bytes", removed.bytes}};
  return object.dump();
}

}  // namespace moe
