// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report/split_record.h"
#include "report/svg_chart.h"

namespace moe {

/// How the routers of one kind shared out their tokens: means over the layers and over the last
/// lines (20 at most) of a run's metrics.
struct RouterBalance {
  double load_max = 0;  // busiest expert over the mean
  double load_cv = 0;   // standard deviation of the experts' loads over their mean
  double entropy = 0;   // of the loads, as a share of the largest there can be
};

/// One seed of an arm: a split and the training that went on from it.
struct StudyRun {
  std::string seed;  // "seed-1"
  /// (tokens, held-out loss: the mean over domains), from 0 tokens, right after the split, on.
  std::vector<std::pair<double, double>> losses;
  std::optional<RouterBalance> experts, attention;

  double before() const { return losses.front().second; }
  double after() const { return losses.back().second; }
  double tokens() const { return losses.back().first; }
};

/// One way to make a model, or none: the dense model trained on.
struct StudyArm {
  std::string name, options;  // of moe-split
  std::vector<std::string> groups;
  std::optional<SplitRecord> split;  // of the first seed
  std::vector<StudyRun> runs;
};

struct Study {
  std::vector<StudyArm> arms;  // in the order of arms.txt, those without a finished run left out
  std::vector<std::string> groups;  // in the order in which they first occur
  std::vector<std::string> notes;   // what is missing, for people
};

/// Reads what launch/study.sh leaves in a folder: arms.txt, a line `GROUP[,GROUP...] NAME OPTIONS`
/// for each arm (`-` for options: no split), and of every run NAME/seed-N/before.json (moe-eval
/// loss), NAME/seed-N/split/split.json and NAME/seed-N/run/metrics.jsonl. A run that is not
/// complete is left out with a note. Throws InputError naming the file and line: no arms, a name
/// twice, a file that cannot be read, no finished run at all.
Study read_study(const std::filesystem::path& folder);

/// One table of all arms, in Markdown: means over the seeds, and their standard deviation where
/// there are several. `dense_parameters`: of the dense model, 0 if unknown.
std::string study_markdown(const Study& study, std::int64_t dense_parameters);
struct StudyGap;  // study_gap.h
/// The same numbers, and those of every run; with a gap the tokens that close it, too.
std::string study_json(const Study& study, const StudyGap* gap = nullptr);
/// The arms of a group: held-out loss over tokens, means over the seeds.
LineChart study_chart(const Study& study, const std::string& group);

}  // namespace moe
