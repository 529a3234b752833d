// SPDX-License-Identifier: Apache-2.0
#include "report/run_record.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "config/yaml_flat.h"
#include "core/error.h"
#include "core/readable.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kShownNotes = 5;
/// No metric is as large; axes need room for sums and powers.
constexpr double kLargest = 1e100;

std::optional<std::string> text_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) return std::nullopt;
  return text;
}

/// Every number below `value` as a point of the series NAME, NAME/KEY, NAME/0, ...
void add(RunRecord& run, const std::string& name, const json& value) {
  if (value.is_number()) {
    const auto number = value.get<double>();
    if (!(std::abs(number) <= kLargest)) return;
    RunRecord::Series& s = run.series[name];
    s.rows.push_back(run.steps.size() - 1);
    s.values.push_back(number);
  } else if (value.is_object()) {
    for (const auto& [key, item] : value.items()) add(run, name + "/" + key, item);
  } else if (value.is_array()) {
    for (std::size_t i = 0; i < value.size(); ++i)
      add(run, fmt::format("{}/{}", name, i), value[i]);
  }
}

/// What is wrong with a line of metrics; empty: it is in the record now.
std::string add_line(RunRecord& run, const std::string& line) {
  const json j = json::parse(line, nullptr, false);
  if (!j.is_object()) return "is no JSON object";
  const auto step = j.find("step");
  if (step == j.end() || !step->is_number_unsigned()) return "has no step";
  if (!run.steps.empty() && step->get<double>() <= run.steps.back())
    return fmt::format("step {} does not come after step {}", step->get<double>(),
                       run.steps.back());
  const double before = run.tokens.empty() ? 0 : run.tokens.back();
  const auto tokens = j.find("tokens");
  const bool counted = tokens != j.end() && tokens->is_number() && tokens->get<double>() >= before;
  run.steps.push_back(step->get<double>());
  run.tokens.push_back(counted ? tokens->get<double>() : before);
  for (const auto& [key, value] : j.items())
    if (key != "step" && key != "tokens") add(run, key, value);
  if (const auto why = j.find("skipped"); why != j.end() && why->is_string())
    run.skipped.push_back({run.steps.size() - 1, why->get<std::string>()});
  return {};
}

void read_metrics(RunRecord& run, const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::size_t number = 0, faults = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const bool whole = !in.eof();
    if (line.empty()) continue;
    const std::string fault =
        whole ? add_line(run, line) : "is torn: it was being written, or the disk was full";
    if (fault.empty()) continue;
    if (++faults <= kShownNotes)
      run.notes.push_back(fmt::format("{}:{}: {}; left out", file.string(), number, fault));
  }
  if (faults > kShownNotes)
    run.notes.push_back(
        fmt::format("{}: {} more lines are left out", file.string(), faults - kShownNotes));
  if (run.steps.empty()) run.notes.push_back(file.string() + ": no step yet");
}

/// What heartbeat.json says of a run, empty where it says nothing: "complete", "interrupted", or
/// that it goes on. A run whose last sign of life is old may have been killed.
std::string state_of(const std::string& heartbeat) {
  constexpr double kAlive =
      600;  // seconds: no step, evaluation or save should be silent for longer
  const json j = json::parse(heartbeat, nullptr, false);
  if (!j.is_object() || !j.contains("phase") || !j["phase"].is_string()) return {};
  const auto phase = j["phase"].get<std::string>();
  if (phase == "complete" || phase == "interrupted" || !j.contains("time") ||
      !j["time"].is_number())
    return phase;
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  const double silent = now.count() - j["time"].get<double>();
  return silent < kAlive ? "goes on" : "silent for " + readable_seconds(silent);
}

/// A rollback is seen on the first line after it, which counts one more.
void find_rollbacks(RunRecord& run) {
  const RunRecord::Series* counts = run.find("rollbacks");
  if (counts == nullptr) return;
  double before = 0;
  for (std::size_t i = 0; i < counts->rows.size(); ++i) {
    if (counts->values[i] > before)
      run.rollbacks.push_back({counts->rows[i], fmt::format("rollback {}", counts->values[i])});
    before = counts->values[i];
  }
}

}  // namespace

const RunRecord::Series* RunRecord::find(const std::string& wanted) const {
  const auto found = series.find(wanted);
  return found == series.end() ? nullptr : &found->second;
}

std::vector<std::string> RunRecord::names_below(const std::string& prefix) const {
  std::vector<std::string> names;
  for (auto s = series.lower_bound(prefix); s != series.end() && s->first.starts_with(prefix); ++s)
    names.push_back(s->first.substr(prefix.size()));
  return names;
}

std::size_t RunRecord::count_below(const std::string& prefix) const {
  std::size_t count = 0;
  while (series.contains(fmt::format("{}{}", prefix, count))) ++count;
  return count;
}

RunRecord::Series RunRecord::mean_below(const std::string& prefix) const {
  std::map<std::size_t, std::pair<double, double>> sums;
  for (const std::string& below : names_below(prefix)) {
    const Series& s = series.at(prefix + below);
    for (std::size_t i = 0; i < s.rows.size(); ++i) {
      auto& [sum, count] = sums[s.rows[i]];
      sum += s.values[i];
      ++count;
    }
  }
  Series mean;
  for (const auto& [row, sum] : sums) {
    mean.rows.push_back(row);
    mean.values.push_back(sum.first / sum.second);
  }
  return mean;
}

RunRecord read_run(const fs::path& folder) {
  RunRecord run;
  run.folder = folder;
  run.name = fs::weakly_canonical(folder).filename().string();
  const fs::path metrics = folder / "metrics.jsonl";
  MOE_REQUIRE(fs::exists(folder), folder.string(), ": no such folder");
  MOE_REQUIRE(fs::is_directory(folder), folder.string(), ": is a file: name the folder of a run");
  MOE_REQUIRE(fs::is_regular_file(metrics) && std::ifstream(metrics), folder.string(),
              ": no metrics.jsonl that can be read: name the folder of a run (run.folder)");
  read_metrics(run, metrics);
  find_rollbacks(run);
  if (const auto yaml = text_of(folder / "config.yaml")) {
    try {
      run.config = flat_yaml(*yaml, (folder / "config.yaml").string());
    } catch (const InputError& e) {
      run.notes.emplace_back(e.what());
    }
  } else {
    run.notes.push_back((folder / "config.yaml").string() + ": cannot be read");
  }
  if (const auto beat = text_of(folder / "heartbeat.json")) run.state = state_of(*beat);
  return run;
}

}  // namespace moe
