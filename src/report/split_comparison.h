// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "report/split_record.h"

namespace moe {

struct ComparedModel {
  std::string folder;            // as it was named
  std::string method = "dense";  // "unknown": a mixture without split.json
  std::string attention;         // "8 experts of heads, 2 chosen"; empty: dense
  std::string gate, scale;       // a rule of split.json, or the numbers that the model has
  std::int64_t experts = 0, shared_experts = 0, top_k = 0;
  std::optional<MeanQuality> quality;  // on the calibration text of its own split
  /// Nats a token by number of chosen experts; a dense model's is at 0.
  std::map<std::int64_t, double> loss;
};

struct SplitComparison {
  std::vector<ComparedModel> models;  // by loss at `sorted_by`, those without one last
  std::vector<std::int64_t> top_k;    // for which there are losses
  std::int64_t sorted_by = 0;         // the number of chosen experts that most models have; 0: none
  std::int64_t tokens = 0;            // that all losses were measured on; 0: there are none
  bool measured_now = false;          // else right after each split
  std::vector<std::string> warnings;  // what could not be compared
  std::vector<std::string> notes;     // how losses came about
};

struct ComparisonOptions {
  std::vector<std::filesystem::path> models;
  /// Numbers of chosen experts to compare at. Empty: all in split.json; on `shards`, each model's
  /// own.
  std::vector<std::int64_t> top_k;
  std::vector<std::filesystem::path> shards;  // measure on these; empty: what split.json says
  std::int64_t length = 256;                  // longer documents are cut
};

/// Models side by side: folders that moe-split wrote and dense ones; on shards also any other model
/// and training checkpoint. Losses of split.json are compared only when all were measured on as
/// many tokens and with the same dense loss, for else the text was another; a warning says so.
///
/// On shards, a number of chosen experts other than the model's own gets the scale that split.json
/// gives for it, else the own scale times own / k, which is E / k where the own one is E / own.
///
/// Throws InputError naming the folder: it is no model, its split.json cannot be read, the
/// vocabularies differ, no model has so many experts.
SplitComparison compare_splits(const ComparisonOptions& options);

std::string comparison_text(const SplitComparison& comparison);
std::string comparison_json(const SplitComparison& comparison);
std::string comparison_html(const SplitComparison& comparison);

}  // namespace moe
