// SPDX-License-Identifier: Apache-2.0
#include "eval/generation_task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "config/declared_files.h"
#include "core/error.h"
#include "support/test_folder.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class GenerationTasks : public ::testing::Test {
 protected:
  test::TestFolder folder_;

  fs::path write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  std::string refused(const std::string& yaml) {
    try {
      read_generation_task(write("t.yaml", yaml));
    } catch (const InputError& e) {
      return e.what();
    }
    return "not refused";
  }
  static GenerationTask ours(const std::string& name) {
    return read_generation_task(fs::path(MOE_SOURCE_DIR) / "configs/generation" / (name + ".yaml"));
  }
};

TEST_F(GenerationTasks, OfThisRepositoryAreReadable) {
  const auto names = declared_names({fs::path(MOE_SOURCE_DIR) / "configs/generation"});
  EXPECT_EQ(names, (std::vector<std::string>{"gsm8k", "humaneval", "ifeval"}));
  for (const std::string& name : names) EXPECT_EQ(ours(name).name, name);
}

TEST_F(GenerationTasks, PutTheFirstExamplesBeforeEveryPrompt) {
  GenerationTask task = ours("gsm8k");
  task.shots = 2;
  write("gsm8k_train.jsonl",
        "{\"question\":\"1?\",\"answer\":\"one\"}\n{\"question\":\"2?\",\"answer\":\"two\"}\n"
        "{\"question\":\"3?\",\"answer\":\"three\"}\n");
  const auto records =
      read_records(write("test.jsonl", "{\"question\":\"9?\",\"answer\":\"nine\"}\n"), {});
  EXPECT_EQ(generation_prompts(task, records, folder_.path()),
            (std::vector<std::string>{"Question: 1?\nAnswer: one\n\nQuestion: 2?\nAnswer: "
                                      "two\n\nQuestion: 9?\nAnswer:"}));
  task.shots = 4;
  EXPECT_THROW(generation_prompts(task, records, folder_.path()), InputError);
}

TEST_F(GenerationTasks, WriteWhatTheGradersRead) {
  const auto record = [&](const std::string& line) {
    return read_records(write("r.jsonl", line + "\n"), {})[0];
  };
  EXPECT_EQ(completion_line(ours("humaneval"),
                            record(R"({"task_id":"HumanEval/0","prompt":"def f():\n"})"),
                            "    return {}\n"),
            "{\"task_id\":\"HumanEval/0\",\"completion\":\"    return {}\\n\"}\n");
  EXPECT_EQ(completion_line(ours("ifeval"), record(R"({"key":1,"prompt":"Say {it}."})"), "it "),
            "{\"prompt\":\"Say {it}.\",\"response\":\"it \"}\n");
  EXPECT_EQ(completion_line(ours("gsm8k"), record(R"({"question":"q","answer":"a #### 1"})"),
                            " so\n#### 1 \n"),
            "{\"question\":\"q\",\"answer\":\"a #### 1\",\"completion\":\"so\\n#### 1\"}\n");
}

TEST_F(GenerationTasks, AreRefusedWithTheKeyAtFault) {
  EXPECT_THAT(refused("prompt: x\n"), HasSubstr("t.yaml: output: "));
  EXPECT_THAT(refused("output: []\n"), HasSubstr("output: no field is named"));
  EXPECT_THAT(refused("output: [{value: x}]\n"), HasSubstr("field"));
  EXPECT_THAT(refused("shots: 2\noutput: [{field: c}]\n"), HasSubstr("shots need shots_data"));
  EXPECT_THAT(refused("stop: ['']\noutput: [{field: c}]\n"), HasSubstr("stop: an empty text"));
  EXPECT_THAT(refused("stops: [x]\noutput: [{field: c}]\n"), HasSubstr("stops: unknown key"));
  try {
    find_generation_task("nonesuch");
    ADD_FAILURE();
  } catch (const InputError& e) {
    EXPECT_THAT(e.what(), HasSubstr("nonesuch: no such generation task"));
  }
}

}  // namespace
}  // namespace moe
