// SPDX-License-Identifier: Apache-2.0
#include "config/yaml_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"

namespace moe {
namespace {

enum class Color { red, green };

struct Item {
  std::string name;
  double weight = 1;
};

struct Sample {
  std::int64_t steps = 10;
  double rate = 0.5;
  bool on = false;
  std::string text;
  std::vector<std::string> files;
  std::optional<std::int64_t> maybe;
  Color color = Color::red;
  std::vector<Item> items;
};

ConfigSection keys_of_item(Item& c) {
  return {{{"name", &c.name, "its name", true}, {"weight", &c.weight, "its weight"}}};
}

ConfigSection keys_of(Sample& c) {
  ConfigSection inner = {
      {{"steps", &c.steps, "how many"},
       {"rate", &c.rate, "how fast"},
       {"on", &c.on, "whether"},
       {"maybe", &c.maybe, "perhaps"},
       {"color", config_choice(c.color, {{"red", Color::red}, {"green", Color::green}}), "which"}}};
  return {{{"train", inner, ""},
           {"text", &c.text, "some text", true},
           {"files", &c.files, "paths"},
           {"items", config_list(c.items, keys_of_item), "things"}}};
}

Sample read(const std::string& text, const std::vector<std::string>& overrides = {}) {
  Sample sample;
  read_yaml(text, "x.yaml", overrides, keys_of(sample));
  return sample;
}

std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    (void)read(text, overrides);
  } catch (const InputError& e) {
    return e.what();
  }
  return "no error";
}

TEST(YamlReader, ReadsEveryTypeAndKeepsWhatIsNotMentioned) {
  const Sample s = read(
      "text: a b\n"
      "train: {steps: 7, on: true, maybe: 3, color: green}\n"
      "files: [one, \"2\"]\n"
      "items: [{name: x}, {name: y, weight: 2e-4}]\n");
  EXPECT_EQ(s.steps, 7);
  EXPECT_EQ(s.rate, 0.5);
  EXPECT_TRUE(s.on);
  EXPECT_EQ(s.text, "a b");
  EXPECT_THAT(s.files, testing::ElementsAre("one", "2"));
  EXPECT_EQ(s.maybe, 3);
  EXPECT_EQ(s.color, Color::green);
  ASSERT_EQ(s.items.size(), 2u);
  EXPECT_EQ(s.items[0].weight, 1);
  EXPECT_EQ(s.items[1].weight, 2e-4);
}

TEST(YamlReader, NamesLineAndNearestKeyOfAnUnknownOne) {
  EXPECT_EQ(error_of("text: a\ntrain:\n  rate: 1\n  stepz: 3\n"),
            "x.yaml:4: train.stepz: unknown key (did you mean steps?)");
  EXPECT_EQ(error_of("text: a\nquantum: 3\n"), "x.yaml:2: quantum: unknown key");
  EXPECT_EQ(error_of("text: a\nitems:\n- name: a\n- name: b\n  weigth: 1\n"),
            "x.yaml:5: items.1.weigth: unknown key (did you mean weight?)");
}

TEST(YamlReader, RefusesDuplicatesMissingKeysAndSecondDocuments) {
  EXPECT_EQ(error_of("text: a\ntext: b\n"), "x.yaml:2: text: given twice");
  EXPECT_EQ(error_of("train:\n  on: true\n  on: true\ntext: a"), "x.yaml:3: train.on: given twice");
  EXPECT_EQ(error_of("train: {steps: 1}"), "x.yaml: text: missing (some text)");
  EXPECT_EQ(error_of(""), "x.yaml: text: missing (some text)");
  EXPECT_EQ(error_of("text: a\nitems: [{weight: 1}]"), "x.yaml: items.0.name: missing (its name)");
  EXPECT_EQ(error_of("text: a\n---\ntext: b\n"), "x.yaml:3: a second YAML document");
}

TEST(YamlReader, RefusesValuesOfTheWrongType) {
  const auto of = [](const std::string& key, const std::string& value) {
    return error_of("text: a\ntrain:\n  " + key + ": " + value + "\n");
  };
  EXPECT_EQ(of("steps", "ten"), "x.yaml:3: train.steps: expected an integer, got 'ten'");
  EXPECT_EQ(of("steps", "1.5"), "x.yaml:3: train.steps: expected an integer, got '1.5'");
  EXPECT_EQ(of("steps", "\"7\""), "x.yaml:3: train.steps: expected an integer, got '7'");
  EXPECT_EQ(of("steps", "0x10"), "x.yaml:3: train.steps: expected an integer, got '0x10'");
  EXPECT_EQ(of("steps", "[1]"), "x.yaml:3: train.steps: expected an integer, got a list");
  EXPECT_EQ(of("steps", "99999999999999999999"),
            "x.yaml:3: train.steps: expected an integer that fits 64 bits, got "
            "'99999999999999999999'");
  EXPECT_EQ(of("rate", ".nan"), "x.yaml:3: train.rate: expected a number, got '.nan'");
  EXPECT_EQ(of("rate", "inf"), "x.yaml:3: train.rate: expected a finite number, got 'inf'");
  EXPECT_EQ(of("rate", ""), "x.yaml:3: train.rate: expected a number, got nothing");
  EXPECT_EQ(of("on", "yes"), "x.yaml:3: train.on: expected true or false, got 'yes'");
  EXPECT_EQ(of("color", "blue"), "x.yaml:3: train.color: expected red or green, got 'blue'");
  EXPECT_EQ(error_of("text: [a]"), "x.yaml:1: text: expected text, got a list");
  EXPECT_EQ(error_of("text: a\nfiles: b"), "x.yaml:2: files: expected a list of texts, got 'b'");
  EXPECT_EQ(error_of("text: a\nitems: [b]"),
            "x.yaml:2: items.0: expected keys with values, got 'b'");
  EXPECT_EQ(error_of("text: a\ntrain: 3"), "x.yaml:2: train: expected keys with values");
  EXPECT_EQ(error_of("- a"), "x.yaml:1: expected keys with values");
}

TEST(YamlReader, BadYamlIsAnErrorWithItsLine) {
  EXPECT_THAT(error_of("text: a\ntrain: {steps: 1"), testing::StartsWith("x.yaml:2: bad YAML: "));
  EXPECT_THAT(error_of("text: a\n  b: c\n"), testing::StartsWith("x.yaml:2: bad YAML: "));
  EXPECT_THAT(error_of(std::string(100000, '[')), testing::StartsWith("x.yaml:1: bad YAML: "));
  EXPECT_THAT(error_of("text: *nowhere\n"), testing::StartsWith("x.yaml:1: bad YAML: "));
}

TEST(YamlReader, OverridesReachKeysElementsAndWholeLists) {
  const Sample s = read("text: a\nitems: [{name: x}, {name: y}]\n",
                        {"train.steps=3", "items.1.weight=5", "text=run: 1", "files=[a, b]",
                         "train={rate: 2, on: true}", "train.maybe=4"});
  EXPECT_EQ(s.steps, 3);
  EXPECT_EQ(s.items[1].weight, 5);
  EXPECT_EQ(s.text, "run: 1");
  EXPECT_THAT(s.files, testing::ElementsAre("a", "b"));
  EXPECT_EQ(s.rate, 2);
  EXPECT_TRUE(s.on);
  EXPECT_EQ(s.maybe, 4);
  EXPECT_EQ(read("", {"text="}).text, "");
  EXPECT_EQ(read("text: a\ntrain: {maybe: 1}", {"train.maybe=null"}).maybe, std::nullopt);
  EXPECT_EQ(read("text: a\nitems: [{name: x}]", {"items=[{name: z}]"}).items[0].name, "z");
}

TEST(YamlReader, ErrorsOfOverridesNameTheOverride) {
  const auto of = [](const std::string& o) { return error_of("text: a\nitems: [{name: x}]", {o}); };
  EXPECT_EQ(of("train.stepz=3"),
            "--set train.stepz=3: train.stepz: unknown key (did you mean steps?)");
  EXPECT_EQ(of("train.steps=x"), "--set train.steps=x: train.steps: expected an integer, got 'x'");
  EXPECT_EQ(of("train.steps"), "--set train.steps: expected key=value");
  EXPECT_EQ(of("train.steps.a=1"),
            "--set train.steps.a=1: train.steps.a: unknown key (train.steps is a single value)");
  EXPECT_EQ(of("items.1.name=y"), "--set items.1.name=y: items.1: no such element, items has 1");
  EXPECT_EQ(of("items=[{weight: 2}]"), "x.yaml: items.0.name: missing (its name)");
  EXPECT_EQ(of("=1"), "--set =1: : unknown key");
}

TEST(YamlReader, WhatIsWrittenReadsBackToTheLastBit) {
  Sample s;
  s.rate = 0.1 + 0.2;
  s.steps = std::numeric_limits<std::int64_t>::min();
  s.text = "quotes \" : # \\ \n\t and ümlaut";
  s.files = {"null", "~", "true", "", " x "};
  s.items = {{"a: b", 1e-300}, {"- c", 5e-324}};
  s.color = Color::green;
  const std::string text = write_yaml(keys_of(s));
  Sample back = read(text);
  EXPECT_EQ(back.rate, s.rate);
  EXPECT_EQ(back.steps, s.steps);
  EXPECT_EQ(back.text, s.text);
  EXPECT_EQ(back.files, s.files);
  ASSERT_EQ(back.items.size(), 2u);
  EXPECT_EQ(back.items[0].name, "a: b");
  EXPECT_EQ(back.items[1].weight, 5e-324);
  EXPECT_EQ(back.maybe, std::nullopt);
  EXPECT_EQ(write_yaml(keys_of(back)), text);
}

TEST(YamlReader, DescribesKeysOfListElementsToo) {
  Sample s;
  std::vector<std::string> keys;
  for (const ConfigKey& k : describe(keys_of(s))) keys.push_back(k.key + "|" + k.initial);
  EXPECT_THAT(keys, testing::ElementsAre("train.steps|10", "train.rate|0.5", "train.on|false",
                                         "train.maybe|unset", "train.color|red", "text|required",
                                         "files|[]", "items|[]", "items.N.name|required",
                                         "items.N.weight|1"));
}

}  // namespace
}  // namespace moe
