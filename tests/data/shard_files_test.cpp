// SPDX-License-Identifier: Apache-2.0
#include "data/shard_files.h"

#include "data/data_test_support.h"

namespace moe {
namespace {

TEST(ShardFiles, ArePatternsOrNamesInOrder) {
  const TestFolder folder;
  for (const char* name : {"b-00001.h5", "b-00000.h5", "b-held-out.h5", "a.h5", "b-00010.h5"})
    write_bytes(folder / name, "");
  const auto at = [&](const char* name) { return (folder / name).string(); };
  const auto files = shard_files({at("z.h5"), at("b-[0-9]*.h5"), at("a.h5")});
  std::vector<std::string> names;
  for (const auto& f : files) names.push_back(f.filename().string());
  EXPECT_EQ(names,
            (std::vector<std::string>{"z.h5", "b-00000.h5", "b-00001.h5", "b-00010.h5", "a.h5"}));
  EXPECT_THAT(input_error_of([&] { shard_files({at("c-*.h5")}); }),
              ::testing::HasSubstr("c-*.h5: no file fits this pattern"));
}

}  // namespace
}  // namespace moe
