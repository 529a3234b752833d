// SPDX-License-Identifier: Apache-2.0
#include "data/json_array.h"

#include <nlohmann/json.hpp>

#include "data/data_test_support.h"
#include "data/text_reader.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

class JsonArrayFile : public ::testing::Test {
 protected:
  TestFolder folder_;

  std::vector<RawDocument> read(const std::string& bytes) {
    write_bytes(folder_ / "a.json", bytes);
    DocumentReader reader(folder_ / "a.json", std::nullopt);
    std::vector<RawDocument> all;
    for (RawDocument document; reader.next(document);) all.push_back(document);
    return all;
  }
};

TEST_F(JsonArrayFile, GivesItsElementsHoweverTheyLieOnLines) {
  const nlohmann::json elements = {{{"a", "x, ] } \" \\"}, {"b", {1, {{"c", "["}}}}},
                                   {{"text", "line\nline"}},
                                   "text",
                                   7,
                                   nlohmann::json::array()};
  for (const int indent : {-1, 0, 2}) {
    const std::string bytes = elements.dump(indent);
    for (const std::string& whole : {bytes, "\n  \n" + bytes + " \n\n"}) {
      const auto found = read(whole);
      ASSERT_EQ(found.size(), elements.size()) << whole;
      for (std::size_t i = 0; i < found.size(); ++i)
        EXPECT_EQ(nlohmann::json::parse(found[i].content), elements[i]);
    }
  }
  EXPECT_TRUE(read("[]").empty());
  EXPECT_TRUE(read(" [ \n ]\n").empty());
}

TEST_F(JsonArrayFile, ElementsKnowTheLineTheyBeginOn) {
  const auto found = read("[\n{\"a\":\n1},\n\n{\"b\":2}, {\"c\":3}\n]\n");
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].line, 2);
  EXPECT_EQ(found[1].line, 5);
  EXPECT_EQ(found[2].line, 5);
}

TEST_F(JsonArrayFile, AnArrayThatDoesNotEndOrGoesOnIsRefused) {
  EXPECT_THAT(input_error_of([&] { read("[{\"a\":1},\n{\"b\""); }),
              HasSubstr("a.json:2: the JSON array does not end"));
  EXPECT_THAT(input_error_of([&] { read("[{\"a\":1}"); }), HasSubstr("does not end"));
  EXPECT_THAT(input_error_of([&] { read("["); }), HasSubstr("does not end"));
  EXPECT_THAT(input_error_of([&] { read("[1]\n{\"a\":1}\n"); }),
              HasSubstr("a.json:2: something follows the end"));
  const auto missing = read("[1,,2]");
  ASSERT_EQ(missing.size(), 3u);
  EXPECT_EQ(missing[1].content, "") << "which no reader of JSON takes";
}

TEST_F(JsonArrayFile, LinesOfObjectsAreStillLines) {
  EXPECT_EQ(read("{\"a\":[\n1]}\n[2]\n").size(), 3u);
}

}  // namespace
}  // namespace moe
