// SPDX-License-Identifier: Apache-2.0
#include "report/study.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <sstream>

#include "core/error.h"
#include "hf/json_check.h"
#include "report/run_record.h"
#include "report/split_report.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLargestFile = std::int64_t{256} << 20;  // bytes
constexpr std::size_t kLastLines = 20;
// Names become those of files.
constexpr const char* kNameLetters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_,";

std::vector<StudyArm> read_arms(const fs::path& file) {
  std::ifstream in(file);
  MOE_REQUIRE(in, file.string(), ": no such file: name a folder of launch/study.sh");
  std::vector<StudyArm> arms;
  std::set<std::string> names;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    std::istringstream words(line);
    std::string groups;
    if (!(words >> groups) || groups.starts_with('#')) continue;
    StudyArm arm;
    MOE_REQUIRE(words >> arm.name, file.string(), ":", number,
                ": names no arm: a line is GROUPS NAME OPTIONS");
    for (const std::string& word : {groups, arm.name})
      MOE_REQUIRE(word.find_first_not_of(kNameLetters) == std::string::npos, file.string(), ":",
                  number, ": '", word, "' may hold letters, digits, - and _ alone");
    MOE_REQUIRE(names.insert(arm.name).second, file.string(), ":", number, ": a second arm ",
                arm.name);
    std::getline(words >> std::ws, arm.options);
    std::istringstream list(groups);
    for (std::string group; std::getline(list, group, ',');) arm.groups.push_back(group);
    arms.push_back(std::move(arm));
  }
  MOE_REQUIRE(!arms.empty(), file.string(), ": names no arms");
  return arms;
}

/// The mean over the domains of what `moe-eval loss --json` printed.
double loss_of(const fs::path& file) {
  const std::string where = file.string();
  const std::string text = read_text_file(where, kLargestFile);
  require_strict_json(text, where);
  try {
    const nlohmann::json domains = nlohmann::json::parse(text).at("domains");
    double sum = 0;
    for (const auto& [domain, losses] : domains.items()) sum += losses.at("loss").get<double>();
    MOE_REQUIRE(!domains.empty(), where, ": has no domains");
    return sum / double(domains.size());
  } catch (const nlohmann::json::exception&) {
    throw InputError(where + ": is no output of moe-eval loss --json");
  }
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

/// The mean of the last values of a list of series, one for each layer.
double mean_of_last(const RunRecord& run, const std::string& prefix) {
  const RunRecord::Series all = run.mean_below(prefix);
  const std::size_t n = std::min(kLastLines, all.values.size());
  return n == 0 ? std::nan("") : mean({all.values.end() - std::ptrdiff_t(n), all.values.end()});
}

/// Standard deviation over mean of the loads of one layer's experts, over the last lines.
double load_cv(const RunRecord& run, const std::string& prefix) {
  const std::size_t experts = run.count_below(prefix);
  std::size_t lines = kLastLines;
  std::vector<const RunRecord::Series*> loads;
  for (std::size_t e = 0; e < experts; ++e) {
    loads.push_back(run.find(fmt::format("{}{}", prefix, e)));
    lines = std::min(lines, loads.back()->values.size());
  }
  std::vector<double> by_line;
  for (std::size_t i = 1; i <= lines; ++i) {
    std::vector<double> line;
    for (const RunRecord::Series* s : loads) line.push_back(s->values[s->values.size() - i]);
    const double m = mean(line);
    double squares = 0;
    for (const double x : line) squares += (x - m) * (x - m);
    by_line.push_back(m > 0 ? std::sqrt(squares / double(line.size())) / m : 0);
  }
  return by_line.empty() ? std::nan("") : mean(by_line);
}

/// `prefix`: what the names of the routers' numbers begin with.
std::optional<RouterBalance> balance_of(const RunRecord& run, const std::string& prefix,
                                        std::int64_t experts) {
  const std::size_t layers = run.count_below(prefix + "load_max_over_mean/");
  if (layers == 0) return std::nullopt;
  RouterBalance b;
  b.load_max = mean_of_last(run, prefix + "load_max_over_mean/");
  b.entropy =
      experts > 1 ? mean_of_last(run, prefix + "router_entropy/") / std::log(double(experts)) : 1;
  std::vector<double> cvs;
  for (std::size_t l = 0; l < layers; ++l)
    cvs.push_back(load_cv(run, fmt::format("{}expert_load/{}/", prefix, l)));
  b.load_cv = mean(cvs);
  return b;
}

StudyRun read_study_run(const fs::path& folder, const RunRecord& record,
                        const std::optional<SplitRecord>& split) {
  StudyRun run;
  run.seed = folder.filename().string();
  run.losses.emplace_back(0, loss_of(folder / "before.json"));
  const RunRecord::Series held_out = record.mean_below("held_out_loss/");
  for (std::size_t i = 0; i < held_out.rows.size(); ++i)
    run.losses.emplace_back(record.tokens[held_out.rows[i]], held_out.values[i]);
  if (split && split->experts > 0) run.experts = balance_of(record, "", split->experts);
  if (split && split->attention)
    run.attention = balance_of(record, "attention/", split->attention->experts);
  return run;
}

/// The runs of an arm that are complete.
void read_runs(const fs::path& folder, StudyArm& arm, std::vector<std::string>& notes) {
  std::vector<fs::path> seeds;
  if (fs::is_directory(folder))
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.path().filename().string().starts_with("seed-")) seeds.push_back(entry.path());
  std::sort(seeds.begin(), seeds.end());
  for (const fs::path& seed : seeds) {
    const bool started = fs::exists(seed / "run" / "metrics.jsonl");
    const RunRecord record = started ? read_run(seed / "run") : RunRecord{};
    if (record.state != "complete" || record.names_below("held_out_loss/").empty()) {
      notes.push_back(seed.string() + ": is not complete; left out");
      continue;
    }
    const fs::path report = seed / "split" / kSplitReport;
    std::optional<SplitRecord> split;
    if (fs::exists(report))
      split = parse_split_record(read_text_file(report.string(), kLargestFile), report.string());
    if (!arm.split) arm.split = split;
    arm.runs.push_back(read_study_run(seed, record, split));
  }
  if (arm.runs.empty()) notes.push_back(arm.name + ": has no finished run");
}

}  // namespace

Study read_study(const fs::path& folder) {
  Study study;
  for (StudyArm& arm : read_arms(folder / "arms.txt")) {
    read_runs(folder / arm.name, arm, study.notes);
    if (arm.runs.empty()) continue;
    for (const std::string& group : arm.groups)
      if (std::find(study.groups.begin(), study.groups.end(), group) == study.groups.end())
        study.groups.push_back(group);
    study.arms.push_back(std::move(arm));
  }
  MOE_REQUIRE(!study.arms.empty(), folder.string(), ": holds no finished run");
  return study;
}

}  // namespace moe
