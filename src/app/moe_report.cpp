// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/app.h"
#include "core/durable_files.h"
#include "core/error.h"
#include "core/log.h"
#include "hf/model_folder.h"
#include "report/run_page.h"
#include "report/run_summary.h"
#include "report/study.h"
#include "report/study_gap.h"
#include "report/svg_file.h"

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

  The table and the pictures of launch/study.sh:
    moe-report study study/runs --output study.md --pictures study

  How many tokens of training close 50, 80 and 90 % of a gap of 0.6 nats:
    moe-report study study/runs --gap 0.6
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

struct StudyArguments {
  std::string folder, model, output, pictures;
  double gap = 0;
  bool json = false;
};

int report_study(const StudyArguments& a) {
  const Study study = read_study(a.folder);
  for (const std::string& note : study.notes) log_warning("{}", note);
  const std::int64_t dense =
      a.model.empty() ? 0 : count_parameters(ModelFolder(a.model).config()).total;
  std::string table = study_markdown(study, dense);
  std::optional<StudyGap> gap;
  if (a.gap != 0) {
    gap = gap_of(study, a.gap);
    table += "\n" + gap_markdown(study, *gap);
  }
  if (!a.output.empty()) write_page(a.output, table);
  if (!a.pictures.empty()) {
    MOE_REQUIRE(fs::is_directory(a.pictures), a.pictures, ": is no folder to write pictures in");
    for (const std::string& group : study.groups)
      write_page(fs::path(a.pictures) / (group + ".svg"), svg_file(study_chart(study, group)));
  }
  fmt::print("{}", a.json ? study_json(study, gap ? &*gap : nullptr) : table);
  return kExitOk;
}

Action define_study(CLI::App& app) {
  auto a = std::make_shared<StudyArguments>();
  app.add_option("folder", a->folder, "Folder of launch/study.sh that holds arms.txt")->required();
  app.add_option("--model", a->model, "The dense model, to count its parameters");
  app.add_option("--output", a->output, "Markdown file to write: the table");
  app.add_option(
      "--gap", a->gap,
      "Nats that a split of these sizes loses at least: a table of the tokens that close "
      "50, 80 and 90 % of them");
  app.add_option("--pictures", a->pictures, "Folder for GROUP.svg, the curves of each group");
  app.add_flag("--json", a->json, "Print one JSON object");
  return [a] { return report_study(*a); };
}

Action define(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  app.require_subcommand(0, 1);
  Subcommands commands(app);
  commands.add("study", "The table and the pictures of a study", define_study);
  app.add_option("runs", a->runs, "Folders of runs, which hold metrics.jsonl");
  app.add_option("--output", a->output, "HTML page to write");
  app.add_option("--title", a->title, "Heading of the page; default: the runs' names");
  app.add_flag("--json", a->json, "Print one JSON object");
  return [a, commands] {
    if (const Action run = commands.parsed()) return run();
    MOE_REQUIRE(!a->runs.empty(), "name folders of runs, which hold metrics.jsonl");
    return report(*a);
  };
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) { return moe::run_program(argc, argv, moe::kText, moe::define); }
