// SPDX-License-Identifier: Apache-2.0
#include "report/split_comparison.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/communicator.h"
#include "core/durable_files.h"
#include "core/error.h"
#include "eval/top_k_loss.h"
#include "hf/json_check.h"
#include "html_checks.h"
#include "report/split_report.h"
#include "split/calibration_support.h"
#include "split/split_model.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::ThrowsMessage;

class CompareSplits : public testing::Test {
 protected:
  void SetUp() override {
    dense_ = test::write_dense(folder_, test::small_dense());
    text_ = test::write_shard(folder_, test::small_dense(), {30, 17, 22, 9, 28});
    other_text_ = test::write_shard(folder_, test::small_dense(), {12, 33}, "other.h5");
  }

  SplitOptions options(const std::string& name, const std::string& method) {
    SplitOptions o;
    o.input = dense_;
    o.output = folder_ / name;
    o.method = method;
    o.experts = 4;
    o.format = ModelFormat::native;
    o.gate = GateInit::linear;
    o.gate_noise = false;
    o.calibration.shards = {text_};
    o.calibration.length = 64;
    o.every_top_k = true;
    return o;
  }

  /// As moe-split makes it; losses on `held_out` when there is some.
  fs::path split(const SplitOptions& o, const fs::path& held_out = {}) {
    const ModelFolder dense(o.input);
    const auto world = single_rank();
    SplitPlan plan = plan_split(dense, o, *world);
    std::optional<SplitLosses> losses;
    if (!held_out.empty()) {
      const HeldOut text = held_out_documents({held_out}, dense.config(), 64);
      const auto rows = [&](const std::string& name, std::int64_t first, std::int64_t count) {
        return dense.read(name, first, count, DType::f32);
      };
      losses.emplace().dense =
          losses_of({dense.config()}, rows, DType::f32, text, 4, *world).front();
      for (const std::int64_t k : {1, 2, 3, 4})
        losses->by_top_k[k] = losses_of({plan.config_with(k)}, split_rows(dense, plan, DType::f32),
                                        DType::f32, text, 4, *world)
                                  .front();
    }
    const std::string report = split_report_json(o, plan, losses);
    write_split(dense, o, std::move(plan),
                [&](const fs::path& f) { write_synced(f / kSplitReport, report); });
    return o.output;
  }

  static json report_of(const fs::path& model) {
    return json::parse(read_text_file((model / kSplitReport).string(), 1 << 20));
  }

  static const ComparedModel& find(const SplitComparison& c, const fs::path& folder) {
    for (const ComparedModel& m : c.models)
      if (m.folder == folder.string()) return m;
    throw std::runtime_error("not compared: " + folder.string());
  }

  test::OpenMpThreads one_{1};  // of so little work, more only wait for one another
  test::TestFolder folder_;
  fs::path dense_, text_, other_text_;
};

TEST_F(CompareSplits, TakesReportsAndSortsByTheLossAtTheCommonTopK) {
  const fs::path random = split(options("random", "random"), text_);
  SplitOptions o = options("clustering", "clustering");
  o.scale = SplitScale::Rule::least_squares;
  const fs::path clustering = split(o, text_);
  const SplitComparison c = compare_splits({{random, clustering, dense_}, {}, {}, 256});

  EXPECT_THAT(c.warnings, IsEmpty());
  EXPECT_THAT(c.top_k, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(c.sorted_by, 2);
  EXPECT_EQ(c.tokens, 30 + 17 + 22 + 9 + 28 - 5);
  const json a = report_of(random), b = report_of(clustering);
  for (int k = 1; k <= 4; ++k)
    EXPECT_EQ(find(c, random).loss.at(k), a["held_out"]["loss_by_top_k"][std::to_string(k)]);
  EXPECT_EQ(find(c, dense_).loss.at(0), a["held_out"]["dense_loss"]);
  EXPECT_EQ(find(c, clustering).method, "clustering");
  EXPECT_EQ(find(c, clustering).scale, "least-squares");
  const auto error = [](const json& r, int layer) {
    return double(r["layers"][std::size_t(layer)]["by_top_k"]["2"]["reconstruction_error"]);
  };
  EXPECT_NEAR(find(c, clustering).quality->error, (error(b, 0) + error(b, 1)) / 2, 1e-12);

  double before = 0;
  for (const ComparedModel& m : c.models) {
    const double loss = m.loss.at(m.experts == 0 ? 0 : 2);
    EXPECT_LE(before, loss);
    before = loss;
  }
  const std::string text = comparison_text(c);
  EXPECT_THAT(text, AllOf(HasSubstr("loss k=4"), HasSubstr("sorted by the loss for k=2"),
                          HasSubstr(fmt::format("{:.4f}", find(c, random).loss.at(3)))));
  const json j = json::parse(comparison_json(c));
  EXPECT_EQ(j["models"].size(), 3u);
  EXPECT_EQ(j["models"][0]["folder"], c.models[0].folder);
  EXPECT_EQ(test::markup_fault(comparison_html(c)), "");
  EXPECT_THAT(comparison_html(c),
              HasSubstr(fmt::format("{:.4f}</td>", find(c, random).loss.at(3))));
}

TEST_F(CompareSplits, AskedTopKAreTheColumns) {
  const fs::path random = split(options("random", "random"), text_);
  const SplitComparison c = compare_splits({{random}, {3, 1}, {}, 256});
  EXPECT_THAT(c.top_k, ElementsAre(1, 3));
  EXPECT_THAT(comparison_text(c), Not(HasSubstr("k=2")));
}

TEST_F(CompareSplits, LossesOnDifferentTextAreNotCompared) {
  const fs::path here = split(options("here", "random"), text_);
  const fs::path there = split(options("there", "sequential"), other_text_);
  const SplitComparison c = compare_splits({{here, there}, {}, {}, 256});
  EXPECT_THAT(c.warnings, ElementsAre(AllOf(HasSubstr("different text"), HasSubstr("here"),
                                            HasSubstr("there"), HasSubstr("--data"))));
  EXPECT_THAT(c.top_k, IsEmpty());
  EXPECT_THAT(comparison_text(c), AllOf(Not(HasSubstr("loss")), HasSubstr("recall")));
  EXPECT_THAT(comparison_html(c), HasSubstr("class=\"warning\""));

  // As many tokens, but another dense loss.
  json j = report_of(here);
  j["held_out"]["dense_loss"] = double(j["held_out"]["dense_loss"]) + 0.001;
  const fs::path same = split(options("same", "sequential"), text_);
  std::ofstream(same / kSplitReport) << j;
  EXPECT_EQ(compare_splits({{here, same}, {}, {}, 256}).warnings.size(), 1u);
}

TEST_F(CompareSplits, MeasuringNowGivesTheLossesOfTheReport) {
  SplitOptions o = options("native", "random");
  o.scale = SplitScale::Rule::least_squares;
  const fs::path native = split(o, text_);
  o.output = folder_ / "mixtral";  // which holds its scale in the weights
  o.format = ModelFormat::mixtral;
  const fs::path mixtral = split(o, text_);
  const SplitComparison c = compare_splits({{dense_, native, mixtral}, {1, 2, 4}, {text_}, 256});
  EXPECT_TRUE(c.measured_now);
  const json report = report_of(native)["held_out"];
  EXPECT_NEAR(find(c, dense_).loss.at(0), report["dense_loss"], 1e-6);
  for (const fs::path& model : {native, mixtral})
    for (const int k : {1, 2, 4})
      EXPECT_NEAR(find(c, model).loss.at(k), report["loss_by_top_k"][std::to_string(k)], 1e-4)
          << model << " " << k;
  EXPECT_THAT(comparison_text(c), HasSubstr("from split.json of"));
}

TEST_F(CompareSplits, ModelsOfUnknownOriginGetTheNaturalScale) {
  SplitOptions o = options("bare", "random");
  o.calibration.shards.clear();
  const fs::path with = split(o, text_);
  const json report = report_of(with)["held_out"];
  fs::remove(with / kSplitReport);
  const SplitComparison own = compare_splits({{with}, {}, {text_}, 256});
  EXPECT_THAT(own.top_k, ElementsAre(2));
  EXPECT_EQ(own.models[0].method, "unknown");
  EXPECT_EQ(own.models[0].scale, "2");
  const SplitComparison all = compare_splits({{with}, {1, 2, 4}, {text_}, 256});
  for (const int k : {1, 2, 4})
    EXPECT_NEAR(all.models[0].loss.at(k), report["loss_by_top_k"][std::to_string(k)], 1e-6) << k;
  EXPECT_THAT(comparison_text(all), HasSubstr("no scales are known"));
}

TEST_F(CompareSplits, BadInputIsRefusedByName) {
  const auto expect_refused = [](const ComparisonOptions& o, const std::string& why) {
    EXPECT_THAT([&] { compare_splits(o); }, ThrowsMessage<InputError>(HasSubstr(why)));
  };
  const fs::path random = split(options("random", "random"), text_);
  expect_refused({{random, folder_ / "missing"}, {}, {}, 256}, "missing");
  expect_refused({{random}, {5}, {}, 256}, "is 5");
  expect_refused({{random}, {0}, {}, 256}, "is 0");
  ModelConfig wide = test::small_dense();
  wide.vocab_size = 29;
  const fs::path other = test::write_dense(folder_, wide, "wide");
  expect_refused({{random, other}, {}, {text_}, 256}, "vocabularies differ");

  json j = report_of(random);
  j["top_k"] = 3;
  std::ofstream(random / kSplitReport) << j;
  expect_refused({{random}, {}, {text_}, 256}, "does not describe the model");
  std::ofstream(random / kSplitReport) << "{";
  expect_refused({{random}, {}, {}, 256}, "split.json: is no valid JSON");
}

}  // namespace
}  // namespace moe
