// SPDX-License-Identifier: Apache-2.0
#include "eval/question.h"

#include <gtest/gtest.h>

#include <set>

#include "eval/eval_support.h"

namespace moe {
namespace {

using testing::refusal;
using testing::write_file;
using Texts = std::vector<std::string>;

/// The questions of a task file with these keys, on these lines of data.
class Questions : public ::testing::Test {
 protected:
  TaskSpec task(const std::string& keys) {
    return read_task(write_file(folder_ / "t.yaml", "data: d.jsonl\n" + keys));
  }
  std::vector<Question> ask(const TaskSpec& spec, const std::string& lines) {
    return questions_of(read_records(write_file(folder_ / "d.jsonl", lines), {}), spec);
  }
  std::string line(int n) const { return (folder_ / "d.jsonl").string() + ":" + str(n) + ": "; }

  test::TestFolder folder_;
};

TEST_F(Questions, OfferChoicesBehindOnePrompt) {
  const TaskSpec t = task("prompt: 'Q: {query}'\ndescription: 'd '\n");
  const auto q = ask(t, R"({"query":"why","choices":["a","bc"],"gold":1})");
  ASSERT_EQ(q.size(), 1u);
  EXPECT_EQ(q[0].contexts, (Texts{"Q: why", "Q: why"}));
  EXPECT_EQ(q[0].continuations, (Texts{"a", "bc"}));
  EXPECT_EQ(q[0].gold, 1u);
  EXPECT_EQ(q[0].solved(t), "Q: why bc");
  const auto requests = requests_of(q[0], "before ", t);
  EXPECT_EQ(requests[1].context, "before Q: why");
  EXPECT_EQ(requests[1].continuation, " bc");
}

TEST_F(Questions, MayHaveSeveralRightOptions) {
  const TaskSpec t =
      task("form: several\nprompt: '{q}'\nchoices_field: mc2.choices\ngold_field: mc2.labels\n");
  const auto q = ask(t, R"({"q":"why","mc2":{"choices":["a","b","c"],"labels":[0,1,1]}})");
  EXPECT_EQ(q.at(0).right, (std::vector<bool>{false, true, true}));
  EXPECT_EQ(q[0].solved(t), "why b");
  for (const auto& [labels, words] : {std::pair("[0,0,0]", "no option is right"),
                                      {"[1,0]", "3 options, but field 'mc2.labels'"},
                                      {"[0,2,1]", "has '2' where 1"}})
    EXPECT_EQ(refusal([&] {
                ask(t, str(R"({"q":"why","mc2":{"choices":["a","b","c"],"labels":)", labels, "}}"));
              }).find(line(1)),
              0u)
        << words;
}

TEST_F(Questions, OfferContextsBeforeOneContinuation) {
  const TaskSpec t = task("form: contexts\n");
  const auto q = ask(t, R"({"context_options":["x so","y so"],"continuation":"end","gold":0})");
  EXPECT_EQ(q[0].contexts, (Texts{"x so", "y so"}));
  EXPECT_EQ(q[0].continuations, (Texts{"end", "end"}));
  EXPECT_EQ(q[0].solved(t), "x so end");
}

TEST_F(Questions, FindTheRightOneByNumberLabelOrConstant) {
  const std::string line = R"({"query":"q","choices":["a","b","c"],"l":["X","Y","Z"],"gold":"Z"})";
  EXPECT_EQ(ask(task("labels_field: l\n"), line)[0].gold, 2u);
  EXPECT_EQ(ask(task("labels: [V, Z, W]\n"), line)[0].gold, 1u);
  EXPECT_EQ(ask(task("gold: 1\n"), line)[0].gold, 1u);
  EXPECT_EQ(ask(task(""), R"({"query":"q","choices":["no","yes"],"gold":true})")[0].gold, 1u);
}

TEST_F(Questions, AskForTheLastWordOfALambadaPassage) {
  const TaskSpec t = task(
      "form: continuation\nprompt: '{text|but_last_word}'\ncontinuation: '{text|last_word}'\n");
  const auto q = ask(t, R"({"text":"He took his coat"})");
  EXPECT_EQ(q[0].contexts, (Texts{"He took his"}));
  EXPECT_EQ(requests_of(q[0], "", t)[0].continuation, " coat");
}

TEST_F(Questions, GatherReadyRequestsOfOneDocument) {
  const TaskSpec t = task("form: requests\n");
  const auto q = ask(t,
                     R"({"doc_id":0,"idx":0,"label":1,"request":{"context":"c","continuation":" x"}}
{"doc_id":0,"idx":1,"label":1,"request":{"context":"c","continuation":" y"}}
{"doc_id":1,"idx":0,"label":0,"context":"d","continuation":" z"}
)");
  ASSERT_EQ(q.size(), 2u);
  EXPECT_EQ(q[0].continuations, (Texts{" x", " y"}));
  EXPECT_EQ(q[0].gold, 1u);
  EXPECT_EQ(q[1].contexts, (Texts{"d"}));
  EXPECT_EQ(requests_of(q[0], "", t)[1].continuation, " y") << "nothing is put between";
  const auto said = [&](const std::string& lines) { return refusal([&] { ask(t, lines); }); };
  EXPECT_TRUE(said(R"({"doc_id":0,"idx":1,"label":0,"context":"d","continuation":" z"})")
                  .starts_with(line(1) + "idx is 1, but it is request 0 of document 0"));
  EXPECT_EQ(said(R"({"doc_id":0,"idx":0,"label":1,"context":"d","continuation":" z"})"),
            line(1) + "the right option is 1, but the options are 0 to 0");
  EXPECT_TRUE(said(R"({"doc_id":0,"label":0,"context":"d","continuation":" z"}
{"doc_id":0,"label":1,"context":"d","continuation":" y"})")
                  .starts_with(line(2) + "label 1 where"));
}

TEST_F(Questions, NameTheLineOfWhatCannotBeAsked) {
  const TaskSpec t = task("");
  const auto said = [&](const std::string& second) {
    return refusal([&] {
      ask(t, R"({"query":"q","choices":["a","b"],"gold":0})"
             "\n" +
                 second);
    });
  };
  EXPECT_EQ(said(R"({"query":"q","choices":["a","b"]})"), line(2) + "field 'gold' is missing");
  EXPECT_EQ(said(R"({"query":"q","choices":["a","b"],"gold":2})"),
            line(2) + "the right option is 2, but the options are 0 to 1");
  EXPECT_EQ(said(R"({"query":"q","choices":["a","b"],"gold":-1})"),
            line(2) + "the right option is -1, but the options are 0 to 1");
  EXPECT_EQ(said(R"({"query":"q","choices":[],"gold":0})"), line(2) + "no choices");
  EXPECT_EQ(said(R"({"query":"q","choices":["a",""],"gold":0})"), line(2) + "option 1 is empty");
  EXPECT_EQ(refusal([&] {
              ask(task("labels: [A, B]\n"), R"({"query":"q","choices":["a","b"],"gold":"C"})");
            }),
            line(1) + "field 'gold' is 'C', which is none of the labels A, B");
}

TEST_F(Questions, DrawTheirExamplesBySeedAndNumberAndNeverThemselves) {
  TaskSpec t = task("shots: 3\n");
  std::string lines;
  for (int i = 0; i < 12; ++i)
    // Number 9 is number 4 again.
    lines += str(R"({"query":"q)", i == 9 ? 4 : i, R"(","choices":["a","b"],"gold":0})", "\n");
  const auto pool = ask(t, lines);
  std::set<std::vector<std::size_t>> different;
  for (std::int64_t i = 0; i < 12; ++i) {
    const Question& q = pool[std::size_t(i)];
    const auto chosen = choose_examples(q, i, pool, t, 1234);
    EXPECT_EQ(chosen, choose_examples(q, i, pool, t, 1234));
    EXPECT_EQ(std::set<std::size_t>(chosen.begin(), chosen.end()).size(), 3u);
    for (const std::size_t c : chosen) EXPECT_FALSE(pool[c] == q) << i << " has " << c;
    different.insert(chosen);
  }
  EXPECT_GT(different.size(), 8u);
  EXPECT_NE(choose_examples(pool[0], 0, pool, t, 1), choose_examples(pool[0], 0, pool, t, 2));
  t.shots_order = ShotOrder::first;
  EXPECT_EQ(choose_examples(pool[1], 1, pool, t, 1), (std::vector<std::size_t>{0, 2, 3}));
  t.shots = 12;
  EXPECT_EQ(refusal([&] { choose_examples(pool[1], 1, pool, t, 1); }),
            line(2) + "task t wants 12 examples, but there are only 11 beside the question itself");
  t.shots_order = ShotOrder::random;
  EXPECT_NE(refusal([&] { choose_examples(pool[4], 4, pool, t, 1); }).find("only 10"),
            std::string::npos);
}

TEST(Task, IsFoundByNameByFileAndByTheFieldsOfItsData) {
  const test::TestFolder folder;
  write_file(folder / "tasks/mine.yaml", "data: d.jsonl\nshots: 2\n");
  const std::vector<std::filesystem::path> folders = {folder / "tasks"};
  EXPECT_EQ(find_task("mine", folders).shots, 2);
  EXPECT_EQ(find_task((folder / "tasks/mine.yaml").string(), {}).name, "mine");
  EXPECT_EQ(refusal([&] { find_task("theirs", folders); }),
            "theirs: no such task and no such file; tasks here: mine");
  const auto form = [&](const std::string& line) {
    return find_task(write_file(folder / "d.jsonl", line + "\n").string(), {}).form;
  };
  EXPECT_EQ(form(R"({"query":"q","choices":[]})"), TaskForm::choices);
  EXPECT_EQ(form(R"({"context_options":[],"continuation":""})"), TaskForm::contexts);
  EXPECT_EQ(form(R"({"context":"","continuation":""})"), TaskForm::continuation);
  EXPECT_EQ(form(R"({"doc_id":0,"request":{"continuation":""}})"), TaskForm::requests);
  EXPECT_TRUE(refusal([&] {
                form(R"({"text":""})");
              }).starts_with((folder / "d.jsonl").string() + ":1: neither query and choices"));
}

TEST(Task, RefusesKeysThatDoNotGoTogetherOrAreUnknown) {
  const test::TestFolder folder;
  const auto said = [&](const std::string& keys) {
    return refusal([&] { read_task(write_file(folder / "t.yaml", keys)); });
  };
  const std::string t = (folder / "t.yaml").string();
  EXPECT_NE(
      said("data: d\nform: guess\n").find("choices, several, contexts, continuation or requests"),
      std::string::npos);
  EXPECT_EQ(said("data: d\nchoices: [a]\nchoices_field: b\n"),
            t + ": choices and choices_field exclude each other");
  EXPECT_NE(said("data: d\nshot: 1\n").find("did you mean shots?"), std::string::npos);
  EXPECT_NE(said("shots: 1\n").find("data: missing"), std::string::npos);
}

TEST(Task, HasOneDataFileForEverySubset) {
  const test::TestFolder folder;
  for (const char* name : {"b_test.csv", "a_c_test.csv", "a_dev.csv", "_test.csv"})
    write_file(folder / name, "");
  const auto files = find_data("*_test.csv", folder.path(), "t");
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].subset, "a_c");
  EXPECT_EQ(files[1].file, folder / "b_test.csv");
  EXPECT_TRUE(refusal([&] {
                find_data("x.csv", folder.path(), "t");
              }).starts_with((folder / "x.csv").string() + ": no such file: task t"));
}

}  // namespace
}  // namespace moe
