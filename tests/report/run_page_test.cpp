// SPDX-License-Identifier: Apache-2.0
#include "report/run_page.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <regex>

#include "html_checks.h"
#include "report/axis.h"
#include "report/points.h"
#include "report/run_chart.h"
#include "report/run_differences.h"
#include "report/run_sections.h"
#include "run_fixture.h"

namespace moe {
namespace {

using test::markup_fault;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::vector<std::string> texts(const Axis& axis) {
  std::vector<std::string> out;
  for (const double tick : axis.ticks()) out.push_back(axis.text(tick));
  return out;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(Axis, LabelsAreRoundAndShort) {
  EXPECT_THAT(texts(Axis::rounded(1.6, 4.1, 5)),
              ElementsAre("1.5", "2.0", "2.5", "3.0", "3.5", "4.0", "4.5"));
  EXPECT_THAT(texts(Axis::rounded(0, 1.9e6, 5)), ElementsAre("0", "500k", "1.0M", "1.5M", "2.0M"));
  EXPECT_THAT(texts(Axis::rounded(0, 3e-4, 3)), ElementsAre("0", "1e-04", "2e-04", "3e-04"));
  EXPECT_THAT(texts(Axis::rounded(0, 2e-4, 4)),
              ElementsAre("0", "5e-05", "1.0e-04", "1.5e-04", "2.0e-04"));
  EXPECT_THAT(texts(Axis::rounded(0.5, 300, 5, true)), ElementsAre("0.1", "1", "10", "100", "1k"));
  EXPECT_THAT(texts(Axis::rounded(0.9, 9, 5, true)), ElementsAre("0.5", "1", "2", "5", "10"));
  EXPECT_THAT(texts(Axis::rounded(0, 0.002, 4)),
              ElementsAre("0", "0.0005", "0.0010", "0.0015", "0.0020"));
  EXPECT_THAT(texts(Axis::exact(3, 14000, 5)), ElementsAre("5k", "10k"));
}

TEST(Axis, HoldsWhatItIsMadeFor) {
  for (const bool logarithmic : {false, true})
    for (const auto& [least, most] : {std::pair{1e-9, 3e12}, {2.0, 2.0}, {0.0, 0.0}, {5.1, 5.2}}) {
      const Axis a = Axis::rounded(least, most, 5, logarithmic);
      EXPECT_LT(a.first(), a.last());
      EXPECT_LE(a.first(), least);
      EXPECT_GE(a.last(), most);
      EXPECT_GE(a.ticks().size(), 2u);
      EXPECT_LE(a.ticks().size(), 12u);
      EXPECT_TRUE(std::is_sorted(a.ticks().begin(), a.ticks().end()));
      EXPECT_NEAR(a.at(a.first()), 0, 1e-12);
      EXPECT_NEAR(a.at(a.last()), 1, 1e-12);
    }
  EXPECT_NEAR(Axis::rounded(1, 100, 5, true).at(10), 0.5, 1e-12);
  EXPECT_FALSE(Axis::rounded(0, 100, 5, true).logarithmic());
}

TEST(Points, ThinningKeepsEverySpike) {
  Points points;
  for (int i = 0; i < 14000; ++i) points.emplace_back(i, std::sin(i * 0.001));
  points[777].second = 50;
  points[9001].second = -50;
  const Points few = thinned(points, 900);
  EXPECT_LE(few.size(), 900u);
  EXPECT_GE(few.size(), 400u);
  EXPECT_NE(std::find(few.begin(), few.end(), points[777]), few.end());
  EXPECT_NE(std::find(few.begin(), few.end(), points[9001]), few.end());
  EXPECT_EQ(few.front(), points.front());
  EXPECT_EQ(few.back(), points.back());
  EXPECT_TRUE(std::is_sorted(few.begin(), few.end()));
  EXPECT_EQ(thinned(few, 900), few);
}

TEST(Points, SmoothingIsTheMeanOfNeighbours) {
  std::vector<double> line, noise;
  for (int i = 0; i < 200; ++i) line.push_back(i), noise.push_back(i % 2);
  const std::vector<double> same = smoothed(line), calm = smoothed(noise);
  for (std::size_t i = 0; i < 196; ++i) EXPECT_NEAR(same[i], line[i], 1e-9);
  EXPECT_EQ(same[199], (195 + 196 + 197 + 198 + 199) / 5.0);
  for (std::size_t i = 4; i < 200; ++i) EXPECT_NEAR(calm[i], 0.5, 0.12);
}

TEST(Points, MeansOfColumnsAreThoseOfTheirRows) {
  const std::vector<std::size_t> rows = {0, 1, 2, 7};
  const std::vector<double> values = {1, 3, 10, 5};
  const std::vector<double> means = column_means(rows, values, 8, 4);
  EXPECT_EQ(means[0], 2);
  EXPECT_EQ(means[1], 10);
  EXPECT_TRUE(std::isnan(means[2]));
  EXPECT_EQ(means[3], 5);
  EXPECT_EQ(quantile({3, 1, 2}, 0.5), 2);
  EXPECT_EQ(quantile({3, 1, 2}, 1), 3);
}

RunChart chart(std::vector<RunCurve> curves) {
  RunChart c;
  c.x_label = "steps";
  c.y_label = "loss";
  c.curves = std::move(curves);
  return c;
}

TEST(RunChart, PlacesPointsOnItsAxes) {
  const std::string html = run_chart(chart({{"a", {{0, 1}, {5, 2}, {10, 3}}, 0, false, false}}));
  EXPECT_EQ(markup_fault(html), "");
  EXPECT_THAT(html, AllOf(HasSubstr("d=\"M0 1000L500 500L1000 0\""), HasSubstr("data-x=\"0 10\""),
                          HasSubstr("data-y=\"1 3\""), Not(HasSubstr("legend"))));
}

TEST(RunChart, LeavesOutWhatIsNoNumber) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string html = run_chart(chart(
      {{"a", {{0, 1}, {5, nan}, {10, 3}}, 0, false, false}, {"b", {{1, nan}}, 1, false, true}}));
  EXPECT_THAT(html, AllOf(HasSubstr("d=\"M0 1000L1000 0\""), Not(HasSubstr("nan"))));
  EXPECT_EQ(run_chart(chart({{"b", {{1, nan}}, 1, false, true}})), "");
  EXPECT_EQ(run_chart(chart({})), "");
  RunChart logarithmic = chart({{"a", {{0, 0}, {1, 1}, {2, 100}}, 0, false, false}});
  logarithmic.logarithmic = true;
  EXPECT_THAT(run_chart(logarithmic), HasSubstr("d=\"M0 1000L1000 0\""));
}

TEST(RunChart, CutsOffFewHighValuesAndSaysSo) {
  Points points;
  for (int i = 0; i < 1000; ++i) points.emplace_back(i, 2 + 0.001 * i);
  EXPECT_THAT(run_chart(chart({{"a", points, 0, false, false}})), Not(HasSubstr("cut off")));
  points[3].second = 900;
  EXPECT_THAT(run_chart(chart({{"a", points, 0, false, false}})),
              HasSubstr("the highest, 900, is cut off"));
}

TEST(RunChart, StacksAreasUpToTheirSum) {
  RunChart c =
      chart({{"a", {{0, 1}, {1, 1}}, 0, false, false}, {"b", {{0, 3}, {1, 1}}, 1, false, false}});
  c.stacked = true;
  const std::string html = run_chart(c);
  EXPECT_THAT(html,
              AllOf(HasSubstr("data-y=\"0 4\""), HasSubstr("M0 750L1000 750L1000 1000L0 1000Z"),
                    HasSubstr("M0 0L1000 500L1000 1000L0 1000Z"), HasSubstr("legend")));
  EXPECT_LT(html.find("data-name=\"b\""), html.find("data-name=\"a\""));  // a covers b
}

TEST(RunChart, MarksAreNamedAndNamesEscaped) {
  RunChart c = chart({{"<a>", {{0, 1}, {1, 2}}, 0, false, false},
                      {"<a>", {{0, 1}, {1, 2}}, 0, true, false},
                      {"\"b\"", {{0, 1}, {1, 2}}, 1, false, false}});
  c.marks = {{0.5, "a & b", 0, true}};
  const std::string html = run_chart(c);
  EXPECT_EQ(markup_fault(html), "");
  EXPECT_THAT(html, AllOf(HasSubstr("M500 0V1000"), HasSubstr("a &amp; b"),
                          HasSubstr("data-name=\"&lt;a&gt;\""), HasSubstr("data-of=\"&lt;a&gt;\""),
                          HasSubstr("data-name=\"&quot;b&quot;\"")));
  c.stacked = true;
  c.curves.erase(c.curves.begin() + 1);
  EXPECT_EQ(markup_fault(run_chart(c)), "");
}

TEST(RunMap, ColoursCellsByTheirDistanceFromTheMean) {
  const std::string html = run_map({"layer 0", {{1, 4, 4, NAN}, {0.25, 1, 0, 2}}});
  EXPECT_EQ(markup_fault(html), "");
  EXPECT_THAT(
      html, AllOf(HasSubstr("class=\"more\" fill-opacity=\"1.00\" d=\"M1 0h2v1h-2z\""),
                  HasSubstr("class=\"less\" fill-opacity=\"1.00\" d=\"M0 1h1v1h-1zM2 1h1v1h-1z\""),
                  HasSubstr("class=\"more\" fill-opacity=\"0.50\" d=\"M3 1h1v1h-1z\"")));
}

struct RunPage : testing::Test {
  test::TestFolder folder_;
};

TEST_F(RunPage, ShowsEverythingThatTheRunHas) {
  auto lines = test::metrics_lines(120);
  for (auto& line : lines) {
    line["domain_weights"] = {{"domain0", 0.25}, {"domain1", 0.75}};
    line["domain_epochs"] = {{"domain0", 0.5}, {"domain1", 1.5}};
    line["exposed_comm_seconds"] = 0.1;
    line["exposed_comm_by_phase"] = {{"combine", 0.1}};
    line["router_losses"] = {{"z", 0.01}};
    line["teacher_kl"] = 0.25;
  }
  lines[50]["skipped"] = "the loss is not finite";
  const RunRecord run = read_run(test::write_run(folder_, "run", lines));
  const std::string page = run_page(std::vector{run}, "");
  EXPECT_EQ(markup_fault(page), "");
  for (const char* heading :
       {"Loss by tokens", "Held-out loss by domain", "Learning rate", "Gradient norm",
        "Divergence from the teacher", "Busiest expert", "Router entropy", "Throughput", "Compute",
        "Last evaluation", "Loss by domain", "Weights of the domains", "Epochs of the domains",
        "Router losses", "Where the time of a step goes", "Waiting for other ranks", "Memory",
        "Load of the experts at step 120", "Load of the experts over time"})
    EXPECT_THAT(page, HasSubstr(fmt::format("<h2>{}</h2>", heading)));
  EXPECT_EQ(count(page, "class=\"chart\""), 15u);
  EXPECT_EQ(count(page, "class=\"chart both\""), 1u);
  EXPECT_THAT(page, AllOf(HasSubstr("step 51: the loss is not finite"), Not(HasSubstr("nan")),
                          Not(HasSubstr("http")), HasSubstr("run.seed")));
}

TEST_F(RunPage, StacksThePhasesUpToTheWholeStep) {
  const std::string section = run_section(
      read_run(test::write_run(folder_, "run", {test::metrics_line(1), test::metrics_line(2)})),
      false);
  // Of 1 second 0.01, 0.3 and 0.6, so that 0.09 are left.
  EXPECT_THAT(section, AllOf(HasSubstr("data-name=\"load\" d=\"M0 990L1000 990L"),
                             HasSubstr("data-name=\"forward\" d=\"M0 690L1000 690L"),
                             HasSubstr("data-name=\"backward\" d=\"M0 90L1000 90L"),
                             HasSubstr("data-name=\"rest\" d=\"M0 0L1000 0L")));
}

TEST_F(RunPage, MapsHoldLoadOverTheMean) {
  auto lines = test::metrics_lines(2);
  for (auto& line : lines) line["expert_load"] = {{10, 20, 30, 100}};
  lines[1]["expert_load"] = {{160, 0, 0, 0}};
  const std::string section = run_section(read_run(test::write_run(folder_, "run", lines)), false);
  // First record: 1/4, 1/2, 3/4 and 5/2 of the mean; second: four times and nothing.
  EXPECT_THAT(section, AllOf(HasSubstr("class=\"more\" fill-opacity=\"1.00\" d=\"M1 0h1v1h-1z\""),
                             HasSubstr("class=\"less\" fill-opacity=\"1.00\" "
                                       "d=\"M0 0h1v1h-1zM1 1h1v1h-1zM1 2h1v1h-1zM1 3h1v1h-1z\""),
                             HasSubstr("class=\"less\" fill-opacity=\"0.50\" d=\"M0 1h1v1h-1z\""),
                             HasSubstr("layer 0, expert 0: 160 pairs, 4.000 of the mean")));
}

TEST_F(RunPage, LeavesOutWhatTheRunHasNot) {
  std::vector<nlohmann::json> lines;
  for (int step = 1; step < 5; ++step) lines.push_back({{"step", step}, {"loss", 2.0}});
  const RunRecord old = read_run(test::write_run(folder_, "old", lines));
  const std::string page = run_page(std::vector{old}, "An <old> run");
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_EQ(count(page, "<figure>"), 1u);
  EXPECT_THAT(page, HasSubstr("<h1>An &lt;old&gt; run</h1>"));
  const RunRecord empty = read_run(test::write_run(folder_, "empty", {}));
  const std::string nothing = run_page(std::vector{empty}, "");
  EXPECT_EQ(markup_fault(nothing), "");
  EXPECT_EQ(count(nothing, "<figure>"), 0u);
  EXPECT_THAT(nothing, HasSubstr("no step yet"));
}

TEST_F(RunPage, LaysRunsOverOneAnotherAndNamesTheirDifferences) {
  const RunRecord a = read_run(test::write_run(folder_, "one", test::metrics_lines(30),
                                               "run: {seed: 1}\nmodel: {top_k: 2, layers: 3}\n"));
  const RunRecord b = read_run(test::write_run(folder_, "two", test::metrics_lines(40),
                                               "run: {seed: 1}\nmodel: {top_k: 4}\n"));
  const std::vector both = {a, b};
  const std::string page = run_page(both, "");
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_THAT(page, AllOf(HasSubstr("<h1>one, two</h1>"), HasSubstr("data-name=\"one\""),
                          HasSubstr("data-name=\"two\""), HasSubstr("<h2>two</h2>")));
  const std::string table = differences_html(both);
  EXPECT_THAT(table, AllOf(HasSubstr("model.top_k"), HasSubstr("model.layers"),
                           HasSubstr(">\xE2\x80\x93<"), Not(HasSubstr("run.seed"))));
  EXPECT_EQ(differences_html(std::vector{a, a}), "");
}

TEST_F(RunPage, OfALongRunIsSmall) {
  constexpr int kSteps = 14000, kLayers = 32, kExperts = 16;
  // Written as a record: making a hundred megabytes of JSON would take longer than the page.
  RunRecord run;
  run.name = "long";
  const auto add = [&](const std::string& name, double seed) {
    RunRecord::Series& s = run.series[name];
    for (std::size_t i = 0; i < kSteps; ++i) {
      s.rows.push_back(i);
      s.values.push_back(1 + std::abs(std::sin(double(i) * 12.9898 * (1 + seed))));
    }
  };
  for (int i = 1; i <= kSteps; ++i) {
    run.steps.push_back(i);
    run.tokens.push_back(i * 14680064.0);
  }
  for (const char* name : {"loss", "grad_norm", "learning_rate", "tokens_per_second",
                           "step_seconds", "flops_per_second"})
    add(name, 1);
  for (int d = 0; d < 7; ++d)
    for (const char* prefix : {"domain_loss", "domain_weights", "domain_epochs", "held_out_loss"})
      add(fmt::format("{}/domain{}", prefix, d), d);
  for (const char* phase : {"load", "forward", "backward", "reduce", "optimizer"})
    add(fmt::format("phase_seconds/{}", phase), 2);
  for (int l = 0; l < kLayers; ++l) {
    add(fmt::format("router_entropy/{}", l), l);
    for (int e = 0; e < kExperts; ++e) {
      RunRecord::Series& s = run.series[fmt::format("expert_load/{}/{}", l, e)];
      for (std::size_t i = 9; i < kSteps; i += 10) {
        s.rows.push_back(i);
        s.values.push_back(std::abs(std::sin(double(i) * 0.01 * (l + 1) + e)));
      }
    }
  }
  const std::string page = run_page(std::vector{run}, "");
  EXPECT_LT(page.size(), 2'000'000u);
  EXPECT_GT(page.size(), 300'000u);
  EXPECT_EQ(markup_fault(page), "");
}

}  // namespace
}  // namespace moe
