// SPDX-License-Identifier: Apache-2.0
// Tasks from files to figures, with a real small model and its tokenizer.
#include "eval/run_task.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "config/declared_files.h"
#include "eval/eval_support.h"
#include "eval/task_report.h"
#include "support/realdata.h"
#include "train/model_source.h"

namespace moe {
namespace {

using Json = nlohmann::json;
using testing::realdata;
using testing::write_file;

constexpr const char* kModel = "models/tinystories-656k";

class RunTask : public ::testing::Test {
 protected:
  void SetUp() override {
    MOE_SKIP_WITHOUT_REALDATA(kModel);
    model_.emplace(open_model(realdata() / kModel), DType::f64);
    tokenizer_.emplace(Tokenizer::open(realdata() / kModel));
  }
  std::vector<TaskResult> run(const TaskSpec& task, const TaskOptions& options) {
    return run_task(task, options, model_->model(), *tokenizer_, model_->world());
  }
  std::optional<LoadedModel> model_;
  std::optional<Tokenizer> tokenizer_;
};

TEST_F(RunTask, HasTheLogLikelihoodsThatTransformersComputed) {
  MOE_SKIP_WITHOUT_REALDATA("eval/llm-foundry");
  std::ifstream in(std::filesystem::path(MOE_SOURCE_DIR) /
                   "tests/eval/fixtures/log_likelihoods.json");
  const Json expected = Json::parse(in);
  std::size_t options = 0;
  for (const auto& [name, items] : expected.items()) {
    TaskOptions o;
    o.limit = std::int64_t(items.size());
    const TaskSpec task =
        find_task((realdata() / "eval/llm-foundry" / (name + ".jsonl")).string(), {});
    const TaskResult result = run(task, o).at(0);
    ASSERT_EQ(result.samples.size(), items.size());
    for (const Json& item : items) {
      const Sample& s = result.samples.at(item["item"].get<std::size_t>());
      EXPECT_EQ(s.question.gold, item["gold"].get<std::size_t>()) << s.question.where;
      ASSERT_EQ(s.options.size(), item["options"].size()) << s.question.where;
      for (std::size_t i = 0; i < s.options.size(); ++i, ++options) {
        const Json& want = item["options"][i];
        // transformers has its rotary tables in f32.
        EXPECT_NEAR(s.options[i].log_likelihood, want[0].get<double>(), 1e-4) << s.question.where;
        EXPECT_EQ(s.options[i].tokens, want[1].get<std::int64_t>()) << s.question.where;
        EXPECT_EQ(s.options[i].greedy, want[2].get<int>() == 1) << s.question.where;
      }
    }
  }
  EXPECT_EQ(options, 20u * (4 + 2 + 2));
}

TEST_F(RunTask, ScoresReadyRequestsAsTheSameQuestionsInAnotherForm) {
  const test::TestFolder folder;
  const auto questions = write_file(
      folder / "q.jsonl", R"({"query":"Tom saw them?","choices":["happy","sad"],"gold":1})"
                          "\n"
                          R"({"query":"Mom said:","choices":["no","yes"],"gold":0})"
                          "\n");
  const auto requests = write_file(
      folder / "r.jsonl",
      R"({"doc_id":0,"idx":0,"label":1,"request":{"context":"Tom saw them?","continuation":" happy"}}
{"doc_id":0,"idx":1,"label":1,"request":{"context":"Tom saw them?","continuation":" sad"}}
{"doc_id":1,"idx":0,"label":0,"request":{"context":"Mom said:","continuation":" no"}}
{"doc_id":1,"idx":1,"label":0,"request":{"context":"Mom said:","continuation":" yes"}}
)");
  const auto a = run(find_task(questions.string(), {}), {}).at(0);
  const auto b = run(find_task(requests.string(), {}), {}).at(0);
  for (std::size_t q = 0; q < 2; ++q) {
    EXPECT_EQ(a.samples[q].values, b.samples[q].values);
    for (std::size_t i = 0; i < 2; ++i)
      EXPECT_NEAR(a.samples[q].options[i].log_likelihood, b.samples[q].options[i].log_likelihood,
                  1e-12);
  }
}

TEST_F(RunTask, PutsExamplesAndTheDescriptionBeforeEachQuestion) {
  const test::TestFolder folder;
  write_file(folder / "d_one_test.csv", "Tom saw them?,happy,sad,B\nMom said:,no,yes,A\n");
  write_file(folder / "d_one_dev.csv", "The cat:,ran,sat,A\nDad said:,no,yes,B\nX:,y,z,A\n");
  const TaskSpec task = read_task(write_file(folder / "t.yaml", R"(
data: d_*_test.csv
columns: [question, A, B, answer]
shots_data: d_*_dev.csv
shots: 2
shots_order: first
description: "About {subset}.\n\n"
prompt: "{question}"
choices: ["{A}", "{B}"]
labels: [A, B]
gold_field: answer
)"));
  TaskOptions o;
  o.data = folder.path();
  const std::vector<TaskResult> results = run(task, o);
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].name, "t_one");
  TaskSpec plain = task;
  plain.shots = 0;
  plain.description = "About one.\n\nThe cat: ran\n\nDad said: yes\n\n";
  EXPECT_EQ(run(plain, o)[0].samples[1].options[1].log_likelihood,
            results[0].samples[1].options[1].log_likelihood);
  o.shots = 0;
  EXPECT_NE(run(task, o)[0].samples[1].options[1].log_likelihood,
            results[0].samples[1].options[1].log_likelihood);
  o.shots = 4;
  EXPECT_NE(testing::refusal([&] { run(task, o); }).find("there are only 3"), std::string::npos);
}

TEST_F(RunTask, CountsContextsThatAreTooLong) {
  const test::TestFolder folder;
  std::string passage = "Once";
  for (int i = 0; i < 700; ++i) passage += " upon";
  passage += " a time, there was a";
  const auto file =
      write_file(folder / "q.jsonl",
                 R"({"context":")" + passage +
                     R"(","continuation":"little"})"
                     "\n"
                     R"({"context":"Once upon a time, there was a","continuation":"little"})"
                     "\n");
  const TaskSpec task = find_task(file.string(), {});
  const TaskResult result = run(task, {}).at(0);
  EXPECT_EQ(result.truncated, 1);
  EXPECT_TRUE(result.samples[1].options[0].greedy) << "what stories begin with";
  TaskOptions o;
  o.positions = 8;
  EXPECT_NE(run(task, o).at(0).samples[0].options[0].log_likelihood,
            result.samples[0].options[0].log_likelihood);
}

TEST_F(RunTask, ReportsInTheShapeOfTheHarness) {
  const test::TestFolder folder;
  for (const char* subset : {"x", "y"})
    write_file(folder / (str("s_", subset, ".jsonl")),
               R"({"query":"Tom saw them?","choices":["happy","sad"],"gold":1})"
               "\n"
               R"({"query":"Mom said:","choices":["no","yes"],"gold":0})"
               "\n");
  const TaskSpec task = read_task(write_file(folder / "t.yaml", "data: s_*.jsonl\nversion: 3\n"));
  TaskRun about{"m", "k", "f64", {}};
  about.options.data = folder.path();
  about.options.limit = 1;
  const std::vector<TaskGroup> groups = {{task, run(task, about.options)}};
  const Json json = Json::parse(task_results_json(groups, about));
  for (const char* name : {"t", "t_x", "t_y"}) {
    EXPECT_TRUE(json["results"][name]["acc,none"].is_number()) << name;
    EXPECT_TRUE(json["results"][name]["acc_norm,none"].is_number()) << name;
    EXPECT_EQ(json["results"][name]["alias"], name);
    EXPECT_EQ(json["versions"][name], 3);
    EXPECT_EQ(json["n-shot"][name], 0);
    EXPECT_EQ(json["higher_is_better"][name]["acc"], true);
  }
  EXPECT_EQ(json["results"]["t_x"]["acc_stderr,none"], "N/A");
  EXPECT_EQ(json["n-samples"]["t_x"], Json::parse(R"({"original":2,"effective":1})"));
  EXPECT_EQ(json["group_subtasks"]["t"], Json::parse(R"(["t_x","t_y"])"));
  EXPECT_EQ(json["config"]["limit"], 1);
  const std::string samples = task_samples_jsonl(groups);
  EXPECT_EQ(std::count(samples.begin(), samples.end(), '\n'), 2);
  const Json first = Json::parse(samples.substr(0, samples.find('\n')));
  EXPECT_EQ(first["task"], "t_x");
  EXPECT_EQ(first["log_likelihoods"].size(), 2u);
}

TEST(TaskFiles, OfThisRepositoryAreReadableAndNamedInTheDocs) {
  const auto folder = std::filesystem::path(MOE_SOURCE_DIR) / "configs/tasks";
  std::ifstream in(std::filesystem::path(MOE_SOURCE_DIR) / "docs/evaluation.md");
  std::stringstream docs;
  docs << in.rdbuf();
  const std::vector<std::string> names = declared_names({folder});
  EXPECT_EQ(names.size(), 11u);
  for (const std::string& name : names) {
    const TaskSpec task = find_task(name, {folder});
    EXPECT_EQ(task.name, name);
    EXPECT_FALSE(task.source.empty()) << name;
    EXPECT_NE(docs.str().find(str("| `", name, "` | ", task.shots, " |")), std::string::npos)
        << "docs/evaluation.md has no row of " << name << " with " << task.shots << " shots";
  }
  TaskSpec task;
  for (const ConfigKey& key : describe(task_keys(task)))
    EXPECT_NE(docs.str().find("| `" + key.key + "` |"), std::string::npos)
        << "docs/evaluation.md has no row of the key " << key.key;
}

}  // namespace
}  // namespace moe
