// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <algorithm>
#include <fstream>

#include "core/error.h"
#include "report/split_comparison.h"
#include "report/split_html.h"
#include "report/split_record.h"
#include "report/split_report.h"
#include "split/calibration_support.h"
#include "split/split_model.h"

namespace moe {
namespace {

using test::TestFolder;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

/// Splits of a dense model with experts in the attention, written with their reports.
class AttentionReport : public testing::Test {
 protected:
  AttentionReport() : config_(test::small_dense()) {
    config_.heads = 8;
    config_.head_dim = 2;
    input_ = test::write_dense(folder_, config_);
    o_.input = input_;
    o_.output = folder_ / "moe";
    o_.experts = 0;
    o_.format = ModelFormat::native;
    o_.attention.kind = AttentionExpert::queries;
    o_.attention.gate = GateInit::centers;
    o_.calibration.shards = {
        test::write_shard(folder_, config_, std::vector<std::int64_t>(40, 24))};
    o_.calibration.length = 24;
  }

  /// Writes the split; its report as JSON.
  std::string write(const std::optional<SplitLosses>& losses = {}) {
    const ModelFolder dense(o_.input);
    plan_ = plan_split(dense, o_, *single_rank());
    const std::string json = split_report_json(o_, plan_, losses);
    (void)write_split(dense, o_, plan_, [&](const std::filesystem::path& folder) {
      std::ofstream(folder / kSplitReport) << json;
    });
    return json;
  }

  TestFolder folder_;
  ModelConfig config_;
  std::filesystem::path input_;
  SplitOptions o_;
  SplitPlan plan_;
};

TEST_F(AttentionReport, SaysWhatWasMade) {
  const std::string json = write();
  const std::string text = split_report_text(o_, plan_, {});
  EXPECT_THAT(text, HasSubstr("4 experts of queries, 2 chosen per token, layers: 2\n"));
  EXPECT_THAT(text, HasSubstr("2, dense feed-forward"));
  EXPECT_THAT(text, HasSubstr("centers, scale 2"));
  const SplitRecord r = parse_split_record(json, "split.json");
  EXPECT_EQ(r.experts, 0);
  EXPECT_EQ(r.top_k, 0);
  EXPECT_EQ(r.method, "none");
  ASSERT_TRUE(r.attention);
  EXPECT_EQ(r.attention->kind, "queries");
  EXPECT_EQ(r.attention->experts, 4);
  EXPECT_EQ(r.attention->top_k, 2);
  EXPECT_EQ(r.attention->gate, "centers");
  EXPECT_EQ(r.attention->scale_rule, "natural");
  ASSERT_EQ(r.attention->layers.size(), 2u);
  const std::vector<std::int64_t>& load = plan_.attention.at(1).load;
  EXPECT_GE(r.attention->layers[1].gate_agreement.value(), 0.99);
  EXPECT_EQ(r.attention->layers[1].load_max.value(),
            double(*std::max_element(load.begin(), load.end())) * 4 /
                double(2 * plan_.calibration_tokens));
  EXPECT_EQ(r.attention->layers[1].scale, 2);
  const std::string html = split_report_html(json);
  EXPECT_THAT(html, AllOf(HasSubstr("4 experts of queries, 2 chosen"), HasSubstr("load max"),
                          Not(HasSubstr("Reconstruction error"))));
}

TEST_F(AttentionReport, BothMixturesStandInOneReport) {
  o_.experts = 4;
  const std::string json = write();
  EXPECT_THAT(split_report_text(o_, plan_, {}),
              AllOf(HasSubstr("4 of 5 neurons, 2 chosen per token"),
                    HasSubstr("4 experts of queries, 2 chosen per token, layers: 2")));
  const SplitRecord r = parse_split_record(json, "split.json");
  EXPECT_EQ(r.experts, 4);
  EXPECT_EQ(r.layers.size(), 2u);
  EXPECT_TRUE(r.attention);
  EXPECT_THAT(split_report_html(json),
              AllOf(HasSubstr("random: 4 experts, 2 chosen per token; attention: 4 experts of"),
                    HasSubstr("Reconstruction error")));
}

TEST_F(AttentionReport, AnOldReportHasNoAttentionAndABrokenOneIsRefused) {
  o_.experts = 4;
  o_.attention = {};
  const std::string json = write();
  EXPECT_FALSE(parse_split_record(json, "split.json").attention);
  const auto broken = [&](const std::string& attention) {
    std::string text = json;
    return text.insert(text.rfind('}'), ",\"attention\": " + attention);
  };
  for (const char* attention : {"3", "{}", R"({"kind":"heads"})", "null"})
    EXPECT_THAT([&] { parse_split_record(broken(attention), "split.json"); },
                ThrowsMessage<InputError>(HasSubstr("split.json: is no report of a split")))
        << attention;
}

TEST_F(AttentionReport, LossesOfADenseFeedForwardStandAtNoChosenExperts) {
  SplitLosses losses;
  losses.dense.loss = 2.5;
  losses.dense.tokens = 100;
  losses.by_top_k[0] = losses.dense;
  losses.by_top_k[0].loss = 2.75;
  const std::string json = write(losses);
  EXPECT_THAT(split_report_text(o_, plan_, losses),
              HasSubstr("2.7500       +0.2500  <- the model written"));
  EXPECT_THAT(split_report_html(json), HasSubstr("right after the split (+0.2500)"));
  ComparisonOptions compare;
  compare.models = {o_.output};
  const SplitComparison c = compare_splits(compare);
  EXPECT_EQ(c.models.at(0).attention, "4 experts of queries, 2 chosen");
  EXPECT_EQ(c.models.at(0).loss.at(0), 2.75);
  EXPECT_THAT(comparison_text(c),
              AllOf(HasSubstr("4 experts of queries, 2 chosen"), HasSubstr("2.7500")));
  EXPECT_THAT(comparison_json(c), HasSubstr("\"attention\":\"4 experts of queries, 2 chosen\""));
}

}  // namespace
}  // namespace moe
