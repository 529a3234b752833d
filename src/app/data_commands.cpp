// SPDX-License-Identifier: Apache-2.0
#include "app/data_commands.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/readable.h"

namespace moe {

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

void print_left_out(const IntakeCounts& counts) {
  if (counts.empty > 0) fmt::print("{} empty documents left out\n", counts.empty);
  if (counts.bad > 0) fmt::print("{} unusable documents left out\n", counts.bad);
  for (const auto& [set, count] : counts.unknown_sets)
    fmt::print("{} documents of the unknown set '{}' left out\n", count, set);
  for (const auto& [domain, reasons] : counts.removed)
    for (const auto& [reason, removed] : reasons)
      fmt::print("{}: {} documents ({} bytes) left out: {}\n", domain, removed.documents,
                 readable_count(double(removed.bytes)), reason);
}

std::string left_out_json(const IntakeCounts& counts) {
  nlohmann::ordered_json object = {{"empty_documents", counts.empty},
                                   {"skipped_documents", counts.bad},
                                   {"unknown_sets", counts.unknown_sets},
                                   {"removed", nlohmann::json::object()}};
  for (const auto& [domain, reasons] : counts.removed)
    for (const auto& [reason, removed] : reasons)
      object["removed"][domain][reason] = {{"documents", removed.documents},
                                           {"text_bytes", removed.bytes}};
  return object.dump();
}

}  // namespace moe
