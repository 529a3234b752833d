// SPDX-License-Identifier: Apache-2.0
#include "generate/routing_text.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "generate/prompts.h"
#include "support/test_folder.h"

namespace moe {
namespace {

const TextRouting kRouting = {{{0, 2, {3, 1, 0, 2}, {0.25, 0.75, 0.5, 0.5}},
                               {2, 2, {1, 0, 10, 11}, {0.75, 0.25, 0.25, 0.75}}}};

TEST(RoutingText, HasALineForEachTokenWithTheWeightiestExpertFirst) {
  EXPECT_EQ(routing_table(kRouting, std::vector{7, 8, 9}, {"a", "x\ny", "b"}),
            " token      id text              layer 0  layer 2\n"
            "     0       7 a                 1,3      1,0    \n"
            "     1       8 x\\ny              0,2      11,10  \n");
  EXPECT_EQ(routing_table({}, std::vector{7}, {}), "no experts: the model is dense\n");
}

TEST(RoutingText, GivesExpertsAndWeightsByLayerTokenAndSlot) {
  EXPECT_EQ(routing_json(kRouting),
            R"({"layers":[0,2],"experts":[[[1,3],[0,2]],[[1,0],[11,10]]],)"
            R"("weights":[[[0.75,0.25],[0.5,0.5]],[[0.75,0.25],[0.75,0.25]]]})");
}

TEST(Prompts, AreLinesOfIdsOrOfText) {
  const test::TestFolder folder;
  const auto file = folder / "p.jsonl";
  const auto said = [&](const std::string& lines) -> std::string {
    std::ofstream(file) << lines;
    try {
      read_prompts(file, nullptr, 1, 50);
    } catch (const InputError& e) {
      return e.what();
    }
    return "nothing";
  };
  std::ofstream(file) << "{\"prompt_ids\":[1,5]}\n\n{\"prompt_ids\":[7]}\n";
  EXPECT_EQ(read_prompts(file, nullptr, 1, 50),
            (std::vector<std::vector<std::int32_t>>{{1, 5}, {7}}));
  EXPECT_TRUE(said("{\"prompt_ids\":[1]}\n{\"prompt_ids\":[50]}\n")
                  .starts_with(file.string() + ":2: token id 50 at position 0"));
  EXPECT_TRUE(said("{\"prompt\":\"Once\"}\n")
                  .starts_with(file.string() + ":1: a prompt of text needs a tokenizer"));
  EXPECT_EQ(said("\n"), file.string() + ": no prompts");
}

}  // namespace
}  // namespace moe
