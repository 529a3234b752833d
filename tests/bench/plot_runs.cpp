// SPDX-License-Identifier: Apache-2.0
// A number of metrics.jsonl over the steps of several runs, as an SVG file. Of a number per layer
// the largest is drawn.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "report/svg_file.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

double number_in(const nlohmann::json& value) {
  if (value.is_number()) return value.get<double>();
  double most = NAN;
  if (value.is_array())
    for (const auto& v : value) most = std::fmax(most, number_in(v));
  return most;
}

ChartSeries series_of(const fs::path& run, const std::string& metric, std::int64_t every) {
  const fs::path file = run / "metrics.jsonl";
  std::ifstream in(file);
  MOE_REQUIRE(in, file.string(), ": cannot be read");
  ChartSeries series{run.filename().string(), {}, false, {}};
  for (std::string line; std::getline(in, line);) {
    const auto m = nlohmann::json::parse(line);
    MOE_REQUIRE(m.contains(metric), file.string(), ": has no ", metric);
    const auto step = m.at("step").get<std::int64_t>();
    if (step == 1 || step % every == 0)
      series.points.emplace_back(double(step), number_in(m.at(metric)));
  }
  return series;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  CLI::App app("Draws one metric of several runs over their steps");
  std::string metric, output;
  std::vector<std::string> runs;
  std::int64_t every = 10;
  app.add_option("runs", runs, "Folders of runs")->required();
  app.add_option("--metric", metric, "A key of metrics.jsonl")->required();
  app.add_option("--every", every, "Steps between points")->capture_default_str();
  app.add_option("--output", output, "The SVG file")->required();
  CLI11_PARSE(app, argc, argv);
  try {
    moe::LineChart chart;
    chart.x_label = "step";
    chart.y_label = metric;
    chart.width = 640;
    chart.height = 320;
    for (const std::string& run : runs) chart.series.push_back(moe::series_of(run, metric, every));
    std::ofstream(output) << moe::svg_file(chart);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "plot_runs: {}\n", e.what());
    return 2;
  }
}
