// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moe {

/// What the split.json of a model's folder says (docs/file_formats.md). A number that the file
/// gives as null, because it was not finite, is NaN.
struct SplitRecord {
  struct Quality {  // split/layer_quality.h
    double error = 0, best_scale = 0, best_error = 0, recall = 0, best_recall = 0;
    std::vector<std::int64_t> load;
    double load_max = 0;  // busiest expert over the mean
  };
  struct TopK {
    double scale = 0;
    std::optional<Quality> quality;  // measured on calibration text
  };
  struct Layer {
    std::int64_t layer = 0;
    std::vector<std::int64_t> expert_sizes, shared_sizes;
    double scale = 0, overlap = 0;
    std::optional<double> gate_agreement;
    std::vector<std::pair<std::string, double>> measures;  // of the construction, in its order
    std::map<std::int64_t, TopK> by_top_k;
  };
  struct HeldOut {
    std::int64_t tokens = 0;
    double dense_loss = 0;
    std::map<std::int64_t, double> loss_by_top_k;
  };

  /// The experts of the attention.
  struct Attention {
    struct Layer {
      std::int64_t layer = 0;
      double scale = 0;
      std::optional<double> gate_agreement, load_max;  // on calibration text
    };
    std::string kind, gate, scale_rule;
    std::int64_t experts = 0, top_k = 0;
    bool softmax_over_all = false;
    std::vector<Layer> layers;  // those that have experts
  };

  std::string input, output, format, method, gate, scale_rule;
  std::uint64_t seed = 0;
  std::int64_t experts = 0, top_k = 0, shared_experts = 0;
  bool gate_noise = false, softmax_over_all = false, align = false;
  std::int64_t calibration_tokens = 0, parameters_total = 0, parameters_activated = 0;
  double planning_seconds = 0;
  std::optional<HeldOut> held_out;
  std::vector<Layer> layers;  // those whose feed-forward was split
  std::optional<Attention> attention;

  /// What was measured at the model's own number of chosen experts, or nullptr.
  const Quality* quality(const Layer& layer) const;
};

/// Throws InputError, starting with `where`, when the text is no such report.
SplitRecord parse_split_record(const std::string& json, const std::string& where);

/// Means over the layers at the model's own number of chosen experts.
struct MeanQuality {
  double error = 0, recall = 0, load_max = 0;
};
/// Nothing when a layer was not measured.
std::optional<MeanQuality> mean_quality(const SplitRecord& record);

/// "8 experts of heads, 2 chosen": the experts of the attention in one phrase.
std::string attention_phrase(const std::string& kind, std::int64_t experts, std::int64_t top_k);

/// "1376", or "21 to 22" for experts of different sizes. There must be one.
std::string size_range(const std::vector<std::int64_t>& sizes);

}  // namespace moe
