// SPDX-License-Identifier: Apache-2.0
#include "report/split_html.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "html_checks.h"
#include "report/html_page.h"
#include "report/split_record.h"
#include "report/svg_chart.h"

namespace moe {
namespace {

using nlohmann::ordered_json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

/// A report of three layers (one between them is left dense) and four experts.
ordered_json report() {
  ordered_json layers = ordered_json::array();
  for (const int l : {0, 2, 3})
    layers.push_back({{"layer", l},
                      {"expert_sizes", {5, 5, 5, 5}},
                      {"shared_sizes", ordered_json::array()},
                      {"scale", 1.75},
                      {"neuron_overlap", 0.125},
                      {"objective", 12.5},
                      {"gate_agreement", 0.875},
                      {"by_top_k",
                       {{"1", {{"scale", 3.5}}},
                        {"2",
                         {{"scale", 1.75},
                          {"reconstruction_error", 0.5 + 0.0625 * l},
                          {"least_squares_scale", 1.5},
                          {"least_squares_error", 0.4375},
                          {"activation_recall", 0.625},
                          {"best_activation_recall", 0.71875},
                          {"load", {10, 20, 30, 40}},
                          {"load_max_over_mean", 1.6}}}}}});
  return {{"input", "dense"},
          {"output", "moe"},
          {"format", "native"},
          {"method", "clustering"},
          {"seed", 42},
          {"experts", 4},
          {"top_k", 2},
          {"shared_experts", 0},
          {"gate", "centers"},
          {"gate_noise", false},
          {"softmax_over_all", false},
          {"scale_rule", "least-squares"},
          {"scale", 1.75},
          {"calibration_tokens", 1000},
          {"parameters", {{"total", 123456}, {"activated", 65432}}},
          {"planning_seconds", 0.5},
          {"held_out",
           {{"tokens", 777},
            {"dense_loss", 2.5},
            {"loss_by_top_k", {{"1", 4.25}, {"2", 3.125}, {"3", nullptr}}}}},
          {"layers", layers}};
}

std::string html_of(const ordered_json& j) { return split_report_html(j.dump()); }

TEST(SplitHtml, ShowsTheNumbersOfTheReport) {
  const std::string html = html_of(report());
  for (const char* text : {"clustering: 4 experts, 2 chosen per token",
                           "moe, made of dense",
                           "2.5000",
                           "3.1250",
                           "right after the split (+0.6250)",
                           "123456, 65432 activated",
                           "least-squares: 1.75",
                           "over 777 tokens",
                           "held-out loss, experts chosen 1: 4.2500",
                           "dense 2.5000",
                           "error, layer 3: 0.6875",
                           "least error, layer 2: 0.4375",
                           "recall, layer 0: 0.6250",
                           "best recall, layer 0: 0.7188",
                           "layer 2, expert 3: 40 tokens, 1.600 of the mean",
                           "<td>87.50 %</td>",
                           "<td>0.125</td>",
                           "<th>objective</th>",
                           "<td>12.5</td>",
                           "<td>1.60</td>",
                           "|dense - mixture| / |dense| of the FFN&#39;s output"})
    EXPECT_THAT(html, HasSubstr(text));
  // k = 3 has no finite loss, and so no point.
  EXPECT_THAT(html, Not(HasSubstr("experts chosen 3:")));
  EXPECT_THAT(html, Not(HasSubstr("nan")));
}

TEST(SplitHtml, IsWellFormedAndNeedsNothingFromOutside) {
  const std::string html = html_of(report());
  EXPECT_EQ(test::markup_fault(html), "");
  for (const char* text : {"<script", "http:", "https:", "src=", "url(", "@import"})
    EXPECT_THAT(html, Not(HasSubstr(text)));
}

TEST(SplitHtml, EscapesWhatComesFromOutside) {
  ordered_json j = report();
  j["output"] = "<b>&\"'\x01";
  j["method"] = "</title><script>alert(1)</script>";
  j["layers"][0]["<i>measure"] = 3;
  const std::string html = html_of(j);
  EXPECT_EQ(test::markup_fault(html), "");
  EXPECT_THAT(html,
              AllOf(HasSubstr("&lt;b&gt;&amp;&quot;&#39;\xEF\xBF\xBD"),
                    HasSubstr("&lt;/title&gt;&lt;script&gt;"), HasSubstr("&lt;i&gt;measure")));
  EXPECT_THAT(html, AllOf(Not(HasSubstr("<b>&")), Not(HasSubstr("<script"))));
}

TEST(SplitHtml, LeavesOutWhatWasNotMeasured) {
  ordered_json j = report();
  j.erase("held_out");
  for (auto& layer : j["layers"]) {
    layer.erase("by_top_k");
    layer.erase("gate_agreement");
  }
  const std::string html = html_of(j);
  EXPECT_EQ(test::markup_fault(html), "");
  EXPECT_THAT(html, AllOf(HasSubstr("without calibration text"), HasSubstr("<th>overlap</th>")));
  EXPECT_THAT(html, AllOf(Not(HasSubstr("<svg")), Not(HasSubstr("<th>error</th>")),
                          Not(HasSubstr("<th>gate</th>")), Not(HasSubstr("Held-out"))));
}

TEST(SplitHtml, RefusesWhatIsNoReport) {
  const auto expect_refused = [](const std::string& text, const std::string& why) {
    EXPECT_THAT([&] { split_report_html(text); },
                ThrowsMessage<InputError>(AllOf(HasSubstr("split.json: "), HasSubstr(why))));
  };
  expect_refused("", "no valid JSON");
  expect_refused("[]", "no JSON object");
  expect_refused("{}", "key 'input' not found");
  ordered_json j = report();
  j["experts"] = "many";
  expect_refused(j.dump(), "type must be number");
  j = report();
  j["layers"] = ordered_json::array();
  expect_refused(j.dump(), "lists no layers");
  j = report();
  j["held_out"]["loss_by_top_k"]["two"] = 1;
  expect_refused(j.dump(), "'two' is no number of experts");
}

TEST(SplitRecord, MeansAreOverTheLayersAtTheOwnTopK) {
  const auto mean = mean_quality(parse_split_record(report().dump(), "x"));
  ASSERT_TRUE(mean.has_value());
  EXPECT_DOUBLE_EQ(mean->error, (0.5 + 0.625 + 0.6875) / 3);
  EXPECT_DOUBLE_EQ(mean->recall, 0.625);
  EXPECT_DOUBLE_EQ(mean->load_max, 1.6);
  ordered_json j = report();
  j["layers"][1]["by_top_k"].erase("2");
  EXPECT_FALSE(mean_quality(parse_split_record(j.dump(), "x")).has_value());
}

TEST(HeatMap, ColoursGrowWithTheDistanceFromTheMean) {
  HeatMap map{"row", "column", {"0"}, {{}}};
  const std::vector<double> ratios = {0, 0.1, 0.25, 0.5, 0.9, 1, 1.1, 1.5, 2, 3.9, 4, 50};
  for (const double ratio : ratios) map.cells[0].push_back({ratio, "cell"});
  const std::string html = heat_map(map);
  EXPECT_EQ(test::markup_fault(html), "");

  // Signed strength: negative in the colour of less.
  const std::string before = "<title>cell</title><rect class=\"", opacity = "fill-opacity=\"";
  std::vector<double> found;
  for (std::size_t i = html.find(before); i != std::string::npos; i = html.find(before, i + 1)) {
    const double sign = html.compare(i + before.size(), 4, "less") == 0 ? -1 : 1;
    found.push_back(sign * std::stod(html.substr(html.find(opacity, i) + opacity.size())));
  }
  ASSERT_EQ(found.size(), ratios.size());
  EXPECT_TRUE(std::is_sorted(found.begin(), found.end()));
  EXPECT_EQ(found[5], 0);
  EXPECT_EQ(found.front(), -found.back());
  EXPECT_EQ(found[1], found[0]);  // a quarter or less
  EXPECT_LT(found[2], found[3]);
  EXPECT_LT(found[3], found[4]);
  EXPECT_LT(found[8], found[9]);
}

TEST(LineChart, PointsLieWhereTheirValuesAre) {
  LineChart chart;
  chart.width = 466;  // 400 between the margins
  chart.height = 162;
  chart.from_zero = true;
  chart.series = {{"s", {{1, 0}, {2, 5}, {5, 10}}, false, {}}};
  const std::string html = line_chart(chart);
  EXPECT_EQ(test::markup_fault(html), "");
  EXPECT_THAT(html, HasSubstr("points=\"52.0,122.0 152.0,72.0 452.0,22.0\""));
}

TEST(LineChart, OneValueOrNoneIsNoTrouble) {
  LineChart chart;
  EXPECT_EQ(line_chart(chart), "");
  chart.series = {{"s", {{3, 0.0 / 0.0}}, false, {}}};
  EXPECT_EQ(line_chart(chart), "");
  chart.series = {{"s", {{3, 7}}, false, {}}};
  const std::string html = line_chart(chart);
  EXPECT_EQ(test::markup_fault(html), "");
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(html, Not(HasSubstr("inf")));
}

}  // namespace
}  // namespace moe
