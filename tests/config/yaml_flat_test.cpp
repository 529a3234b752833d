// SPDX-License-Identifier: Apache-2.0
#include "config/yaml_flat.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "config/train_config.h"
#include "core/error.h"

namespace moe {
namespace {

using Flat = std::vector<std::pair<std::string, std::string>>;

TEST(YamlFlat, GivesEveryValueUnderItsWholeKey) {
  EXPECT_EQ(flat_yaml("run: {folder: a b, seed: 1}\n"
                      "data:\n  train:\n    - {domain: x, files: [a.h5, b.h5]}\n    - {domain: y}\n"
                      "empty:\nnone: []\n",
                      "x.yaml"),
            (Flat{{"run.folder", "a b"},
                  {"run.seed", "1"},
                  {"data.train.0.domain", "x"},
                  {"data.train.0.files", "[a.h5, b.h5]"},
                  {"data.train.1.domain", "y"},
                  {"empty", ""},
                  {"none", "[]"}}));
  EXPECT_EQ(flat_yaml("", "x.yaml"), Flat{});
}

TEST(YamlFlat, KnowsEveryKeyOfAConfiguration) {
  TrainConfig config;
  config.run.folder = "runs/a";
  const Flat flat = flat_yaml(to_yaml(config), "config.yaml");
  EXPECT_NE(
      std::find(flat.begin(), flat.end(), std::pair<std::string, std::string>{"run.seed", "42"}),
      flat.end());
  EXPECT_GT(flat.size(), 40u);
}

TEST(YamlFlat, NamesTheLineThatIsNoYaml) {
  EXPECT_THAT([] { flat_yaml("a: 1\nb: [1\nc: 2\n", "x.yaml"); },
              testing::ThrowsMessage<InputError>(testing::StartsWith("x.yaml:")));
}

}  // namespace
}  // namespace moe
