// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "config/train_config.h"
#include "core/error.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

const std::string kStaged =
    "run: {folder: runs/x}\n"
    "model: {init_from: m}\n"
    "data: {train: [{domain: a, files: [a.h5], weight: 3, max_epochs: 2}]}\n"
    "train: {steps: 10, keep_last: 3}\n"
    "optimizer: {learning_rate: 0.5, beta1: 0.8}\n"
    "stages:\n"
    "  - name: one\n"
    "    export: llama-moe\n"
    "  - name: two\n"
    "    data: {train: [{domain: b, files: [b.h5]}]}\n"
    "    train: {steps: 4, freeze: [router]}\n"
    "    optimizer: {learning_rate: 0.25}\n";

TrainConfig parse(const std::vector<std::string>& overrides = {},
                  const std::string& text = kStaged) {
  return parse_train_config(text, "x.yaml", overrides);
}

std::string error_of(const std::vector<std::string>& overrides, const std::string& text = kStaged) {
  try {
    (void)parse(overrides, text);
  } catch (const InputError& e) {
    return e.what();
  }
  return "none";
}

TEST(ConfigStages, WhatAStageDoesNotNameIsAsTheRunHasIt) {
  const TrainConfig c = parse();
  const TrainConfig one = c.of_stage(0), two = c.of_stage(1);
  EXPECT_EQ(one.run.folder, "runs/x/one");
  EXPECT_TRUE(one.stages.empty());
  EXPECT_EQ(one.train.steps, 10);
  EXPECT_EQ(one.optimizer.learning_rate, 0.5);
  EXPECT_EQ(two.train.steps, 4);
  EXPECT_EQ(two.train.keep_last, 3);
  EXPECT_EQ(two.optimizer.learning_rate, 0.25);
  EXPECT_EQ(two.optimizer.beta1, 0.8);
  EXPECT_TRUE(one.train.freeze.empty());
  EXPECT_EQ(two.train.freeze, std::vector<std::string>{"router"});
  EXPECT_EQ(c.stages[0].export_format, "llama-moe");
  EXPECT_EQ(c.stages[1].export_format, "");
}

TEST(ConfigStages, AListOfAStageIsItsOwnAsAWhole) {
  const TrainConfig two = parse().of_stage(1);
  ASSERT_EQ(two.data.train.size(), 1u);
  EXPECT_EQ(two.data.train[0].domain, "b");
  EXPECT_EQ(two.data.train[0].weight, 1);
  EXPECT_EQ(two.data.train[0].max_epochs, 0);
}

TEST(ConfigStages, OverridesOfTheRunReachStagesThatDoNotNameTheKey) {
  const TrainConfig c =
      parse({"optimizer.learning_rate=0.125", "optimizer.beta1=0.7", "stages.1.batch.micro=2"});
  EXPECT_EQ(c.of_stage(0).optimizer.learning_rate, 0.125);
  EXPECT_EQ(c.of_stage(1).optimizer.learning_rate, 0.25);
  EXPECT_EQ(c.of_stage(1).optimizer.beta1, 0.7);
  EXPECT_EQ(c.of_stage(0).batch.micro, 4);
  EXPECT_EQ(c.of_stage(1).batch.micro, 2);
}

TEST(ConfigStages, TheEffectiveConfigurationGivesTheSameAgain) {
  const TrainConfig c = parse({"schedule.warmup_steps=7"});
  const TrainConfig again = parse_train_config(to_yaml(c), "again");
  EXPECT_EQ(to_yaml(again), to_yaml(c));
  EXPECT_EQ(to_yaml(again.of_stage(1)), to_yaml(c.of_stage(1)));
}

TEST(ConfigStages, ARunWhoseStagesNameTheirOwnNeedsNoDataAndNoSteps) {
  const std::string text =
      "run: {folder: r}\nmodel: {init_from: m}\n"
      "stages: [{name: one, train: {steps: 3}, data: {train: [{domain: a, files: [a]}]}}]\n";
  EXPECT_EQ(parse({}, text).of_stage(0).train.steps, 3);
  EXPECT_EQ(error_of({"stages=[]"}, text), "x.yaml: data.train: missing (domains to train on)");
  EXPECT_EQ(error_of({"stages.0.train.steps=0"}, text),
            "x.yaml: stage one: train.steps must be at least 1, is 0");
  EXPECT_EQ(error_of({"stages.0.data.train=[]"}, text),
            "x.yaml: stage one: data.train names no domain");
}

TEST(ConfigStages, MistakesAreNamedWithTheirStage) {
  EXPECT_EQ(error_of({"stages.1.name=one"}), "x.yaml: stages: one is given twice");
  EXPECT_EQ(error_of({"stages.1.name=a/b"}),
            "x.yaml: stages.1.name: 'a/b' must be of letters, digits, _ and -: it names a folder");
  EXPECT_THAT(error_of({"stages.1.name=checkpoints"}), HasSubstr("a folder of its own"));
  EXPECT_THAT(error_of({"stages.0.keep_optimizer=true"}),
              HasSubstr("stages.0.keep_optimizer: no stage is before the first"));
  EXPECT_EQ(error_of({"stages.1.optimizer.learning_rate=-1"}),
            "x.yaml: stage two: optimizer.learning_rate must be positive, is -1");
  EXPECT_EQ(error_of({}, kStaged + "    model: {top_k: 1}\n"),
            "x.yaml:13: stages.1.model: unknown key");
  EXPECT_EQ(error_of({}, kStaged + "  - {export: llama}\n"),
            "x.yaml: stages.2.name: missing (name of the stage and of its folder in run.folder)");
}

}  // namespace
}  // namespace moe
