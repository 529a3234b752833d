// SPDX-License-Identifier: Apache-2.0
#include "report/svg_file.h"

#include <gmock/gmock.h>

namespace moe {
namespace {

using ::testing::HasSubstr;

TEST(SvgFile, StandsAloneWithItsLegend) {
  LineChart chart;
  chart.x_label = "step";
  chart.y_label = "load";
  chart.series = {{"all <off>", {{1, 4}, {2, 4}}, false, {}}, {"on", {{1, 4}, {2, 1}}, true, {}}};
  const std::string svg = svg_file(chart);
  EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  for (const char* part :
       {"<style>", "all &lt;off&gt;</text>", ">on</text>", "<polyline", "dashed"})
    EXPECT_THAT(svg, HasSubstr(part));
  EXPECT_EQ(svg.find("<div"), std::string::npos);
  EXPECT_EQ(svg_file(LineChart{}), "");
}

}  // namespace
}  // namespace moe
