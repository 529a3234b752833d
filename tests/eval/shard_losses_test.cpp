// SPDX-License-Identifier: Apache-2.0
#include "eval/shard_losses.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "data/token_writer.h"
#include "support/test_folder.h"
#include "train/model_source.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using Documents = std::vector<std::vector<std::int32_t>>;

LoadedModel small_model() {
  ModelConfig c;
  c.vocab_size = 20;
  c.hidden_size = 8;
  c.intermediate_size = 12;
  c.layers = 1;
  c.heads = 2;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.max_positions = 32;
  c.initializer_range = 0.5;
  return LoadedModel({c, initial_weights(c, 5), {}}, DType::f64);
}

fs::path write_shard(const fs::path& path, const std::string& domain, const Documents& documents) {
  TokenWriter writer({.domain = domain, .vocabulary_size = 20}, path.parent_path());
  for (const auto& d : documents) writer.append(d);
  writer.write(path);
  return path;
}

/// Loss and number of ids of one document behind BOS 1, by the model's own loss.
std::pair<double, std::int64_t> alone(const Transformer& model, std::vector<std::int32_t> ids) {
  if (ids[0] != 1) ids.insert(ids.begin(), 1);
  const auto n = std::int64_t(ids.size()) - 1;
  if (n == 0) return {0, 0};
  const Tensor losses =
      model
          .loss(Tensor::of<std::int32_t>({1, n}, {ids.begin(), ids.end() - 1}),
                Tensor::of<std::int32_t>({1, n}, {ids.begin() + 1, ids.end()}), 1, {})
          .token_loss;
  double sum = 0;
  for (std::int64_t t = 0; t < n; ++t) sum += losses.data<double>()[t];
  return {sum / double(n), n};
}

TEST(ShardLosses, TellEveryDocumentOfEveryShardInOrder) {
  const test::TestFolder folder;
  const LoadedModel loaded = small_model();
  // Domains a, b, a: the order of the output is that of the shards all the same.
  const std::vector<Documents> documents = {
      {{3, 4, 5}, {1}, {6, 7}}, {{8, 9, 10, 11}}, {{1, 12}, {13}}};
  const std::vector<fs::path> shards = {write_shard(folder / "0.h5", "a", documents[0]),
                                        write_shard(folder / "1.h5", "b", documents[1]),
                                        write_shard(folder / "2.h5", "a", documents[2])};
  const auto check = [&](const LoadedModel& model, Communicator& world) {
    const ShardLosses got = shard_losses(model.model(), shards, true, 32, 2, world);
    ASSERT_EQ(got.documents.size(), 6u);
    std::size_t i = 0;
    std::vector<double> sums(2, 0);
    std::vector<std::int64_t> tokens(2, 0);
    for (std::size_t s = 0; s < 3; ++s)
      for (std::size_t d = 0; d < documents[s].size(); ++d, ++i) {
        EXPECT_EQ(got.documents[i].shard, s);
        EXPECT_EQ(got.documents[i].document, std::int64_t(d));
        const auto [loss, n] = alone(model.model(), documents[s][d]);
        EXPECT_EQ(got.documents[i].loss.tokens, n) << i;
        EXPECT_NEAR(got.documents[i].loss.loss, loss, 1e-12) << i;
        sums[s == 1] += loss * double(n);
        tokens[s == 1] += n;
      }
    ASSERT_EQ(got.domains.size(), 2u);
    for (std::size_t d = 0; d < 2; ++d) {
      EXPECT_EQ(got.domains[d].domain, d == 0 ? "a" : "b");
      EXPECT_EQ(got.domains[d].loss.tokens, tokens[d]);
      EXPECT_NEAR(got.domains[d].loss.loss, sums[d] / double(tokens[d]), 1e-12);
    }
    EXPECT_EQ(got.total().tokens, tokens[0] + tokens[1]);
    EXPECT_NEAR(got.total().loss, (sums[0] + sums[1]) / double(tokens[0] + tokens[1]), 1e-12);
    const std::string lines = document_scores_jsonl(got, {"x.h5", "y.h5", "z.h5"});
    EXPECT_NE(lines.find("{\"shard\":\"x.h5\",\"document\":1,\"tokens\":0,\"loss\":null}\n"),
              std::string::npos);
    EXPECT_NE(lines.find("{\"shard\":\"z.h5\",\"document\":0,\"tokens\":1,\"loss\":"),
              std::string::npos);
  };
  check(loaded, loaded.world());
  run_ranks(2, [&](Communicator& world) { check(small_model(), world); });
}

TEST(ShardLosses, OfWindowsRunThroughTheShardsOfADomain) {
  const test::TestFolder folder;
  const LoadedModel loaded = small_model();
  const std::vector<fs::path> shards = {write_shard(folder / "0.h5", "a", {{3, 4, 5, 6, 7}}),
                                        write_shard(folder / "1.h5", "b", {{8, 9, 10}}),
                                        write_shard(folder / "2.h5", "a", {{11, 12, 13, 14}})};
  const ShardLosses got = shard_losses(loaded.model(), shards, false, 4, 2, loaded.world());
  const HeldOut a = HeldOut::windows({shards[0], shards[2]}, 4, 20);
  const HeldOutLoss want = held_out_loss(loaded.model(), a, a.sequences(), 3, loaded.world());
  EXPECT_EQ(got.domains[0].loss.tokens, 8);
  EXPECT_NEAR(got.domains[0].loss.loss, want.loss, 1e-12);
  EXPECT_EQ(got.domains[1].loss.tokens, 2);
  EXPECT_TRUE(got.documents.empty());
}

}  // namespace
}  // namespace moe
