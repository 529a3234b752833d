// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/data_commands.h"
#include "core/error.h"
#include "core/readable.h"
#include "data/split_raw.h"

namespace moe {
namespace {

using nlohmann::ordered_json;

struct SplitRawArguments {
  SplitRawOptions options;
  SetArguments sets;
  FilterArguments filters;
  std::vector<std::string> input;
  std::string output;
  bool json = false;
};

int split(const SplitRawArguments& a) {
  SplitRawOptions options = a.options;
  IntakeOptions& intake = options.intake;
  intake.inputs.assign(a.input.begin(), a.input.end());
  options.output = a.output;
  MOE_REQUIRE(intake.domain.empty() || !a.sets.given(),
              "--domain takes all documents to one domain: leave out --set, --set-field and "
              "--unknown-sets");
  if (intake.domain.empty()) intake.sets = a.sets.names();
  intake.filter = a.filters.rules();
  intake.deduplicate = a.filters.deduplicate;
  intake.removed = a.filters.removed;
  intake.force = options.force;
  MOE_REQUIRE(intake.max_bad < 0 || intake.skip_bad, "--max-bad goes with --skip-bad");

  Progress progress("splitting", BatchReader::bytes_of(intake.inputs), "documents");
  bool begun = false;
  const SplitRawReport report = split_raw(options, [&](std::int64_t bytes, std::int64_t documents) {
    if (!begun) progress.start_from(bytes, documents);
    begun = true;
    progress.update(bytes, documents);
  });
  progress.finish();

  if (a.json) {
    ordered_json object = {{"output", a.output}};
    for (const auto& d : report.domains)
      object["domains"].push_back({{"domain", d.name},
                                   {"documents", d.documents},
                                   {"text_bytes", d.text_bytes},
                                   {"files", d.files}});
    object.update(ordered_json::parse(left_out_json(report.left_out)));
    object["seconds"] = report.seconds;
    std::printf("%s\n", object.dump().c_str());
    return kExitOk;
  }
  for (const auto& d : report.domains)
    fmt::print("{}/{}: {} documents, {} bytes of text, {} files\n", a.output, d.name, d.documents,
               readable_count(double(d.text_bytes)), d.files);
  print_left_out(report.left_out);
  return kExitOk;
}

}  // namespace

Action define_data_split_raw(CLI::App& app) {
  auto arguments = std::make_shared<SplitRawArguments>();
  SplitRawArguments& a = *arguments;
  IntakeOptions& intake = a.options.intake;
  app.add_option("--input", a.input, "Raw jsonl files, also .gz and .zst; read in this order")
      ->required();
  app.add_option("--output", a.output, "The folder; it gets DOMAIN/00000.jsonl.zst and so on")
      ->required();
  a.sets.define(app);
  a.filters.define(app);
  app.add_option("--domain", intake.domain, "Instead: one domain for all documents");
  app.add_option("--field", intake.field, "Field of a line that holds the text")
      ->capture_default_str();
  app.add_option("--file-bytes", a.options.file_bytes,
                 "A file ends when it holds about so many bytes of lines, unpacked")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--skip-bad", intake.skip_bad, "Leave out and count lines that cannot be used");
  app.add_option("--max-bad", intake.max_bad, "With --skip-bad: stop when there are more than N")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--threads", a.options.threads, "Threads (default: all cores)")
      ->check(CLI::PositiveNumber);
  app.add_option("--save-every", a.options.save_every,
                 "Seconds of work that a kill may cost; the same command goes on from there")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--force", a.options.force,
               "Replace existing files, and unfinished work of other options");
  app.add_flag("--json", a.json, "Print the result as one JSON object");
  return [arguments] { return split(*arguments); };
}

}  // namespace moe
