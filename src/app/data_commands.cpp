// SPDX-License-Identifier: Apache-2.0
#include "app/data_commands.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

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

void print_left_out(const IntakeCounts& counts) {
  if (counts.empty > 0) fmt::print("{} empty documents left out\n", counts.empty);
  if (counts.bad > 0) fmt::print("{} unusable documents left out\n", counts.bad);
  for (const auto& [set, count] : counts.unknown_sets)
    fmt::print("{} documents of the unknown set '{}' left out\n", count, set);
}

}  // namespace moe
