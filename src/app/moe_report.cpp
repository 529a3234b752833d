// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "app/app.h"
#include "core/durable_files.h"
#include "core/error.h"
#include "report/run_page.h"
#include "report/run_summary.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

const ProgramText kText = {
    "moe-report",
    "Shows training runs: where they stand, and a page of charts that needs no network. Reads runs "
    "that have ended or go on.",
    R"(Examples:
  Where does the run stand?
    moe-report runs/small

  A page to look at or to send:
    moe-report runs/small --output small.html

  Two runs side by side:
    moe-report runs/dense runs/experts --output comparison.html --title "Dense and experts"
)"};

struct Arguments {
  std::vector<std::string> runs;
  std::string output, title;
  bool json = false;
};

/// Runs of one name get their whole folders as names.
void tell_apart(std::vector<RunRecord>& runs) {
  std::map<std::string, int> count;
  for (const RunRecord& run : runs) ++count[run.name];
  for (RunRecord& run : runs)
    if (count[run.name] > 1) run.name = run.folder.string();
}

/// The whole page or the file that was there: a report may be made of a run that goes on, again and
/// again, while somebody looks at it.
void write_page(const fs::path& file, const std::string& page) {
  MOE_REQUIRE(!fs::is_directory(file), file.string(), ": is a folder: name a file to write");
  const fs::path next = file.string() + ".tmp";
  try {
    write_synced(next, page);
    rename_path(next, file);
  } catch (...) {
    std::error_code ignored;
    fs::remove(next, ignored);
    throw;
  }
}

int report(const Arguments& a) {
  std::vector<RunRecord> runs;
  for (const std::string& folder : a.runs) runs.push_back(read_run(folder));
  tell_apart(runs);
  if (!a.output.empty()) write_page(a.output, run_page(runs, a.title));
  std::vector<RunSummary> summaries;
  for (const RunRecord& run : runs) summaries.push_back(summary_of(run));
  if (a.json) {
    fmt::print("{}\n", to_json(summaries, a.output));
    return kExitOk;
  }
  for (const RunSummary& s : summaries) fmt::print("{}", to_text(s));
  if (!a.output.empty()) fmt::print("{}: written\n", a.output);
  return kExitOk;
}

Action define(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  app.add_option("runs", a->runs, "Folders of runs, which hold metrics.jsonl")->required();
  app.add_option("--output", a->output, "HTML page to write");
  app.add_option("--title", a->title, "Heading of the page; default: the runs' names");
  app.add_flag("--json", a->json, "Print one JSON object");
  return [a] { return report(*a); };
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) { return moe::run_program(argc, argv, moe::kText, moe::define); }
