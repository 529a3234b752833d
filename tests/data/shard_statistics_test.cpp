// SPDX-License-Identifier: Apache-2.0
#include "data/shard_statistics.h"

#include "data/data_test_support.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

TEST(ShardStatistics, CountsWhatEachDomainHolds) {
  const TestFolder folder;
  std::vector<Document> documents;
  for (int i = 1; i <= 100; ++i) documents.push_back(Document(std::size_t(i), i));
  write_shard(folder / "a.h5", documents, 1000, "", "web");
  write_shard(folder / "b.h5", {{1, 2, 3}, {7}, {7, 7}, {1, 2, 3}, {7}}, 1000, "", "code");
  write_shard(folder / "c.h5", {{1}, {5}}, 1000, "", "web");  // the first is there already
  TokenWriter writer({.domain = "bos", .vocabulary_size = 10, .bos_id = 1, .eos_id = 2},
                     folder.path());
  for (const Document& d : std::vector<Document>{{1, 5, 2}, {5, 2}, {1, 5}, {1, 1, 2}})
    writer.append(d);
  writer.write(folder / "d.h5");
  for (const int threads : {1, 3}) {
    const auto all = shard_statistics(
        {folder / "a.h5", folder / "b.h5", folder / "c.h5", folder / "d.h5"}, nullptr, threads);
    ASSERT_EQ(all.size(), 3u);
    const DomainStatistics &web = all[0], &code = all[1], &bos = all[2];
    EXPECT_EQ(web.domain, "web");
    EXPECT_EQ(web.shards, 2);
    EXPECT_EQ(web.documents, 102);
    EXPECT_EQ(web.tokens, 5052);
    EXPECT_EQ(web.duplicates, 1);
    EXPECT_FALSE(web.text_bytes.has_value());
    EXPECT_EQ(code.duplicates, 2);
    EXPECT_EQ(bos.with_bos, 3);
    EXPECT_EQ(bos.with_eos, 3);
    EXPECT_EQ(code.quantile(0.01), 1);
    EXPECT_EQ(code.quantile(0.4), 1);
    EXPECT_EQ(code.quantile(0.41), 2);
    EXPECT_EQ(code.quantile(1), 3);
    EXPECT_EQ(web.quantile(0.5), 49) << "three documents have one token";
    EXPECT_EQ(web.histogram(), (std::map<std::int64_t, std::int64_t>{
                                   {1, 3}, {2, 2}, {4, 4}, {8, 8}, {16, 16}, {32, 32}, {64, 37}}));
  }
}

TEST(ShardStatistics, CountsTheTextOfTheShardsOwnTokenizerOnly) {
  MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama2/tokenizer.model");
  const Tokenizer tokenizer = Tokenizer::open(real_data("tokenizers/llama2"));
  const TestFolder folder;
  const std::string text = "Hello world, ä €.";
  write_shard(folder / "a.h5", {tokenizer.encode(text)}, 32000, tokenizer.hash());
  write_shard(folder / "b.h5", {tokenizer.encode(text)}, 32000, "other");
  EXPECT_EQ(shard_statistics({folder / "a.h5"}, &tokenizer, 1)[0].text_bytes,
            std::int64_t(text.size()));
  EXPECT_THAT(input_error_of([&] { shard_statistics({folder / "b.h5"}, &tokenizer, 1); }),
              HasSubstr("another tokenizer"));
}

}  // namespace
}  // namespace moe
