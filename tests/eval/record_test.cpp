// SPDX-License-Identifier: Apache-2.0
#include "eval/record.h"

#include <gtest/gtest.h>

#include "eval/eval_support.h"
#include "eval/template.h"

namespace moe {
namespace {

using testing::refusal;
using testing::write_file;

TEST(Records, GiveNestedFieldsByTheirPaths) {
  const test::TestFolder folder;
  const auto file = write_file(folder / "a.jsonl",
                               "{\"a\":\"x\",\"n\":3,\"t\":true}\n\n"
                               "{\"c\":{\"text\":[\"p\",\"q\"],\"none\":null}}\n");
  const std::vector<Record> records = read_records(file, {});
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].text("a"), "x");
  EXPECT_EQ(records[0].text("n"), "3");
  EXPECT_EQ(records[0].integer("n"), 3);
  EXPECT_EQ(records[0].integer("t"), 1);
  EXPECT_EQ(records[1].where(), file.string() + ":3");
  EXPECT_EQ(records[1].texts("c.text"), (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(records[1].text("c.text.1"), "q");
  EXPECT_FALSE(records[1].has("c.text.2"));
  const std::string at = file.string() + ":3: ";
  EXPECT_EQ(refusal([&] { records[1].text("c.title"); }), at + "field 'c.title' is missing");
  EXPECT_EQ(refusal([&] { records[1].text("c.none"); }), at + "field 'c.none' is null, not text");
  EXPECT_EQ(refusal([&] { records[1].texts("c"); }), at + "field 'c' is a JSON object, not a list");
  EXPECT_EQ(refusal([&] { records[1].integer("c.text.0"); }),
            at + "field 'c.text.0' is 'p', not a whole number");
}

TEST(Records, NameTheBrokenLine) {
  const test::TestFolder folder;
  const auto file = write_file(folder / "a.jsonl", "{\"a\":1}\n{\"a\":\n[1]\n");
  EXPECT_TRUE(
      refusal([&] { read_records(file, {}); }).starts_with(file.string() + ":2: not valid JSON: "));
  const auto list = write_file(folder / "b.jsonl", "[1]\n");
  EXPECT_EQ(refusal([&] { read_records(list, {}); }),
            list.string() + ":1: a JSON array where an object is expected");
}

TEST(Records, ReadCsvWithQuotedCommasQuotesAndNewlines) {
  const test::TestFolder folder;
  const auto file =
      write_file(folder / "a.csv", "\"a, \"\"b\"\"\nc\",2\r\n\r\nplain \"x\",\n\"\",\"z\"\n");
  const std::vector<Record> records = read_records(file, {"q", "r"}, "some_subject");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].text("q"), "a, \"b\"\nc");
  EXPECT_EQ(records[0].text("r"), "2");
  EXPECT_EQ(records[1].where(), file.string() + ":4");
  EXPECT_EQ(records[1].text("q"), "plain \"x\"");
  EXPECT_EQ(records[1].text("r"), "");
  EXPECT_EQ(records[2].text("r"), "z");
  EXPECT_EQ(records[2].text("subset"), "some_subject");
}

TEST(Records, RefuseCsvThatIsNoTable) {
  const test::TestFolder folder;
  const auto file = write_file(folder / "a.csv", "1,2\n3\n");
  EXPECT_EQ(refusal([&] {
              read_records(file, {"q", "r"});
            }),
            file.string() + ":2: 1 cells in a row of 2 columns (q, r)");
  const auto open = write_file(folder / "b.csv", "1,2\n\"3,4\n5,6\n");
  EXPECT_EQ(refusal([&] {
              read_records(open, {"q", "r"});
            }),
            open.string() + ":2: a quoted cell has no end");
}

TEST(Template, FillsFieldsThroughFilters) {
  const test::TestFolder folder;
  const Record r = read_records(
      write_file(folder / "a.jsonl",
                 R"({"s":" Ann gave _ a hat. ","w":"two words here","c":"hE said","u":"a_b_c",)"
                 R"("h":" Cut [header] it [title] now  end "})"),
      {})[0];
  const auto filled = [&](const std::string& text) { return fill_template(text, r); };
  EXPECT_EQ(filled("{{{c}}}!"), "{hE said}!");
  EXPECT_EQ(filled("{s|trim|before _}Bob|{s|after _|trim}"), "Ann gave Bob|a hat.");
  EXPECT_EQ(filled("{w|but_last_word}/{w|last_word}"), "two words/here");
  EXPECT_EQ(filled("{c|capitalize} {u|spaces}"), "He said a b c");
  EXPECT_EQ(filled("{h|wikihow}"), "Cut it. now end");
}

TEST(Template, SaysWhatIsWrongWithIt) {
  const test::TestFolder folder;
  const auto file = write_file(folder / "a.jsonl", R"({"s":"x"})");
  const Record r = read_records(file, {})[0];
  const auto said = [&](const std::string& text) {
    return refusal([&] { fill_template(text, r); });
  };
  EXPECT_EQ(said("{t}"), file.string() + ":1: field 't' is missing");
  EXPECT_EQ(said("{s|before _}"), file.string() + ":1: 'x' has no '_'");
  EXPECT_EQ(said("a {s"), "template 'a {s': a { without its other half ({{ stands for {)");
  EXPECT_EQ(said("a }"), "template 'a }': a } without its other half (}} stands for })");
  EXPECT_TRUE(said("{s|shout}").starts_with("unknown filter 'shout': use trim,"));
}

}  // namespace
}  // namespace moe
