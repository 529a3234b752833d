// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "train/checkpoint_diff.h"
#include "train/checkpoint_fixture.h"
#include "train/checkpoint_manifest.h"
#include "train/checkpoint_reshard.h"

namespace moe {
namespace {

using testing::HasSubstr;

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void put(const fs::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary) << bytes;
}

TEST_F(Checkpoint, IsReadInAnyPartitionWhateverRanksWroteIt) {
  for (const int writers : {1, 2, 4}) {
    const fs::path folder = save(folder_, writers, writers);
    EXPECT_EQ(folder, folder_ / str("step-0000000", writers));
    expect_complete(folder);
    for (const int readers : {1, 2, 3, 5}) {
      for (int rank = 0; rank < readers; ++rank) {
        const CheckpointReader reader(folder);
        for (const TensorRows& wanted : share(rank, readers)) {
          const TensorRows got{wanted.name, wanted.global_shape, wanted.first_row,
                               Tensor::zeros(wanted.value.shape(), wanted.value.dtype())};
          reader.read_into(got);
          EXPECT_TRUE(same_bytes(got.value, wanted.value)) << wanted.name;
        }
      }
    }
  }
}

TEST_F(Checkpoint, HoldsStateModelAndConfig) {
  const CheckpointReader reader(save(folder_, 12, 2));
  EXPECT_EQ(reader.step(), 12);
  EXPECT_EQ(reader.state_json(), kState);
  EXPECT_EQ(reader.texts().config, "train: {}\n");
  EXPECT_EQ(model_config_to_json(reader.model_config()), model_config_to_json(small_model()));
  EXPECT_EQ(reader.model_config().rms_norm_eps, 1.0 / 3);
  ASSERT_EQ(reader.tensors().size(), kSpecs.size());
  EXPECT_EQ(reader.tensor("router/counts").shape, (Shape{7, 2, 3}));
}

TEST_F(Checkpoint, SavingTwiceGivesTheSameBytes) {
  const fs::path a = save(folder_ / "a", 3, 2), b = save(folder_ / "b", 3, 2);
  for (const auto& entry : fs::directory_iterator(a))
    EXPECT_EQ(bytes_of(entry.path()), bytes_of(b / entry.path().filename())) << entry.path();
}

TEST_F(Checkpoint, OfTheSameStepIsReplaced) {
  (void)save(folder_, 3, 4, 1);
  const fs::path folder = save(folder_, 3, 2, 2);
  expect_complete(folder, 2);
  EXPECT_FALSE(fs::exists(folder / "rank-00003.h5"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
}

TEST_F(Checkpoint, WithoutManifestDoesNotExist) {
  const fs::path old = save(folder_, 3, 1), folder = save(folder_, 5, 1);
  EXPECT_EQ(latest_checkpoint(folder_), folder);
  fs::remove(folder / kManifestName);
  EXPECT_EQ(latest_checkpoint(folder_), old);
  EXPECT_FALSE(is_checkpoint(folder));
  EXPECT_EQ(error_of([&] { CheckpointReader reader(folder); }),
            folder.string() + ": is no complete checkpoint (no manifest.json)");
  EXPECT_EQ(latest_checkpoint(folder_ / "none"), std::nullopt);
}

TEST_F(Checkpoint, IsFoundFromTheRunsFolderToo) {
  const fs::path folder = save(folder_ / "checkpoints", 100000000, 1);
  (void)save(folder_ / "checkpoints", 99999999, 1);
  EXPECT_EQ(find_checkpoint(folder_), folder);
  EXPECT_EQ(find_checkpoint(folder_ / "checkpoints"), folder);
  EXPECT_EQ(find_checkpoint(folder), folder);
  fs::create_directory(folder_ / "empty");
  EXPECT_THAT(error_of([&] { (void)find_checkpoint(folder_ / "empty"); }),
              HasSubstr("holds no complete checkpoint"));
  EXPECT_THAT(error_of([&] { (void)find_checkpoint(folder_ / "none"); }),
              HasSubstr("no such folder"));
}

TEST_F(Checkpoint, AFlippedByteInAnyFileIsFoundBeforeTheFileIsUsed) {
  const fs::path folder = save(folder_, 3, 2);
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string good = bytes_of(entry.path());
    const std::size_t stride = std::max<std::size_t>(1, good.size() / 40);
    for (std::size_t at = 0; at < good.size(); at += stride) {
      std::string bad = good;
      bad[at] = char(bad[at] ^ 0x20);
      put(entry.path(), bad);
      const std::string error = error_of([&] {
        const CheckpointReader reader(folder);
        if (entry.path().extension() != ".h5") reader.verify();
        for (const Spec& s : kSpecs) (void)reader.read(s.name, 0, s.shape[0]);
      });
      EXPECT_THAT(error, testing::StartsWith(entry.path().string())) << at;
      EXPECT_THAT(error, HasSubstr("damaged")) << at;
    }
    put(entry.path(), good);
  }
  expect_complete(folder);
}

TEST_F(Checkpoint, ATruncatedOrMissingFileIsNamed) {
  const fs::path folder = save(folder_, 3, 2);
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() == kManifestName) continue;
    const std::string good = bytes_of(entry.path());
    put(entry.path(), good.substr(0, good.size() - 1));
    EXPECT_THAT(error_of([&] { CheckpointReader(folder).verify(); }),
                HasSubstr(str(entry.path().string(), ": is ", good.size() - 1,
                              " bytes, the manifest says ", good.size(), ": the file is trunc")));
    fs::remove(entry.path());
    EXPECT_THAT(error_of([&] { CheckpointReader(folder).verify(); }),
                HasSubstr(entry.path().string() + ": cannot be read"));
    put(entry.path(), good);
  }
  const std::string manifest = bytes_of(folder / kManifestName);
  for (std::size_t length = 0; length < manifest.size(); length += 7) {
    put(folder / kManifestName, manifest.substr(0, length));
    EXPECT_THAT(error_of([&] { CheckpointReader reader(folder); }), HasSubstr("damaged"));
  }
}

TEST_F(Checkpoint, OnlyFilesWithWantedRowsAreTouched) {
  const fs::path folder = save(folder_, 3, 2);  // rank 0 holds the first 2 of embed's 11 rows
  fs::remove(folder / "rank-00001.h5");
  const CheckpointReader reader(folder);
  EXPECT_EQ(reader.read("weights/embed.weight", 0, 2).rows(), 2);
  EXPECT_THAT(error_of([&] { (void)reader.read("weights/embed.weight", 1, 2); }),
              HasSubstr("rank-00001.h5: cannot be read"));
}

TEST_F(Checkpoint, OfAnotherModelNamesTheTensor) {
  const CheckpointReader reader(save(folder_, 3, 1));
  const std::string where = reader.folder().string() + ": ";
  const auto read_as = [&](const std::string& name, const Shape& shape, DType dtype) {
    return error_of([&] { reader.read_into({name, shape, 0, Tensor::zeros(shape, dtype)}); });
  };
  EXPECT_EQ(read_as("weights/embed.weight", {12, 8}, DType::f32),
            where + "weights/embed.weight has the shape 11x8, this model needs 12x8");
  EXPECT_EQ(read_as("weights/embed.weight", {11, 8}, DType::f64),
            where + "weights/embed.weight is f32, this model needs f64");
  EXPECT_EQ(read_as("weights/other", {1}, DType::f32), where + "has no tensor weights/other");
  EXPECT_EQ(error_of([&] { (void)reader.read("weights/embed.weight", 5, 7); }),
            where + "weights/embed.weight has 11 rows, rows 5 to 12 are wanted");
}

/// Saves on ranks that bring these [first, count) rows of one tensor with 10 rows.
std::string save_rows(const fs::path& folder,
                      const std::vector<std::pair<std::int64_t, std::int64_t>>& ranges) {
  return error_of([&] {
    run_ranks(int(ranges.size()), [&](Communicator& world) {
      const auto [first, count] = ranges[std::size_t(world.rank())];
      const Shape shape = {10, 2};
      (void)save_checkpoint(
          folder, 1,
          {{"weights/x", shape, first, rows_of("weights/x", shape, first, count, DType::f32)}},
          kEmptyTexts, world);
    });
  });
}

TEST_F(Checkpoint, RowsThatNoRankOrTwoRanksBringAreRefusedOnAllRanks) {
  EXPECT_THAT(save_rows(folder_, {{0, 4}, {5, 5}}), HasSubstr("rows 4 to 5 of weights/x are mis"));
  EXPECT_THAT(save_rows(folder_, {{0, 4}, {4, 5}}), HasSubstr("rows 9 to 10 of weights/x are mi"));
  EXPECT_THAT(save_rows(folder_, {{0, 6}, {4, 6}}),
              HasSubstr("rows 4 to 6 of weights/x are stored twice"));
  EXPECT_TRUE(fs::is_empty(folder_));
  EXPECT_EQ(save_rows(folder_, {{7, 3}, {0, 0}, {0, 7}}), "no error");
}

TEST_F(Checkpoint, AManifestWithAGapOrAnOverlapIsRefusedWhenReading) {
  const fs::path folder = save(folder_, 3, 2);
  const fs::path file = folder / kManifestName;
  const Manifest good = parse_manifest(bytes_of(file), "m");
  ASSERT_EQ(good.tensors[0].parts.size(), 2u);

  Manifest gap = good;
  gap.tensors[0].parts.erase(gap.tensors[0].parts.begin());
  put(file, to_text(gap));
  EXPECT_THAT(error_of([&] { (void)CheckpointReader(folder).read("weights/embed.weight", 1, 4); }),
              HasSubstr("rows 1 to 2 of weights/embed.weight are missing"));
  EXPECT_EQ(CheckpointReader(folder).read("weights/embed.weight", 2, 9).rows(), 9);

  Manifest twice = good;
  twice.tensors[0].parts.push_back(twice.tensors[0].parts[1]);
  put(file, to_text(twice));
  EXPECT_THAT(error_of([&] { (void)CheckpointReader(folder).read("weights/embed.weight", 8, 1); }),
              HasSubstr("rows 8 to 9 of weights/embed.weight are stored twice"));
  EXPECT_EQ(CheckpointReader(folder).read("weights/embed.weight", 0, 2).rows(), 2);

  Manifest swapped = good;  // the right checksums, but not what the file holds
  swapped.tensors[0].dtype = DType::i32;
  put(file, to_text(swapped));
  EXPECT_THAT(error_of([&] { (void)CheckpointReader(folder).read("weights/embed.weight", 0, 1); }),
              HasSubstr("is not the i32 of shape 2x8 that the manifest says"));
}

TEST(CheckpointManifest, FieldsThatCannotBeAreInputErrors) {
  Manifest m{1, {{"a.h5", 10, 7}}, {{"x", DType::f32, {4, 2}, {{0, 0, 4, 9}}}}};
  const auto with = [&](auto&& change) {
    Manifest bad = m;
    change(bad);
    return error_of([&] { (void)parse_manifest(to_text(bad), "m"); });
  };
  EXPECT_EQ(with([](Manifest&) {}), "no error");
  EXPECT_THAT(with([](Manifest& b) { b.files[0].name = "../a"; }), HasSubstr("no name of a file"));
  EXPECT_THAT(with([](Manifest& b) { b.files[0].bytes = -1; }), HasSubstr("must be a count"));
  EXPECT_THAT(with([](Manifest& b) { b.tensors[0].shape = {}; }), HasSubstr("no dimensions"));
  EXPECT_THAT(with([](Manifest& b) { b.tensors[0].shape = {-4, 2}; }), HasSubstr("shape -4x2"));
  EXPECT_THAT(with([](Manifest& b) {
                b.tensors[0].shape = {4, std::int64_t{1} << 62};
              }),
              HasSubstr("has the shape"));
  EXPECT_THAT(with([](Manifest& b) { b.tensors[0].parts[0].file = 1; }),
              HasSubstr("file number 1 of 1"));
  EXPECT_THAT(with([](Manifest& b) { b.tensors[0].parts[0].rows = 5; }),
              HasSubstr("rows 0 + 5 of 4"));
  EXPECT_THAT(with([](Manifest& b) { b.tensors.push_back(b.tensors[0]); }),
              HasSubstr("listed twice"));
  EXPECT_THAT(error_of([] { (void)parse_manifest("{}", "m"); }), HasSubstr("no manifest"));
}

TEST(CheckpointModel, TextsThatAreNoModelAreInputErrors) {
  std::string text = model_config_to_json(small_model());
  EXPECT_THAT(error_of([] { (void)model_config_from_json("{", "m.json"); }),
              testing::StartsWith("m.json: "));
  EXPECT_THAT(error_of([] { (void)model_config_from_json("{}", "m.json"); }),
              HasSubstr("vocab_size"));
  text.replace(text.find("mlp"), 3, "mpl");
  EXPECT_THAT(error_of([&] { (void)model_config_from_json(text, "m.json"); }),
              HasSubstr("unknown gate 'mpl'"));
}

TEST_F(Checkpoint, PruningKeepsTheLatestAndTheMultiples) {
  const auto prune = [&](std::int64_t last, std::int64_t every) {
    prune_checkpoints(folder_, {.last = last, .every = every});
    return names_in(folder_);
  };
  using testing::ElementsAre;
  for (const int step : {10, 20, 5, 30, 35}) (void)save(folder_, step, 1);
  EXPECT_EQ(prune(0, 0).size(), 5u);
  EXPECT_THAT(prune(2, 10),
              ElementsAre("step-00000010", "step-00000020", "step-00000030", "step-00000035"));
  EXPECT_THAT(prune(1, 15), ElementsAre("step-00000030", "step-00000035"));
  EXPECT_EQ(prune(5, 0).size(), 2u);
  EXPECT_THAT(prune(1, 0), ElementsAre("step-00000035"));
}

TEST_F(Checkpoint, ReshardingChangesOnlyTheFiles) {
  const CheckpointReader from(save(folder_, 7, 3));
  std::int64_t last = 0;
  for (const int files : {1, 2, 5, 1000}) {
    const fs::path to = folder_ / str("in ", files);
    last = reshard_checkpoint(from, to, files, false);
    EXPECT_EQ(last, std::min(files, 11));  // the rows of the tensor that has most
    EXPECT_EQ(names_in(to).size(), std::size_t(last) + 4);
    expect_complete(to);
    EXPECT_TRUE(diff_checkpoints(from, CheckpointReader(to)).empty());
    EXPECT_EQ(CheckpointReader(to).texts().state, kState);
    EXPECT_FALSE(fs::exists(folder_ / str(".in ", files, ".tmp")));
  }
}

TEST_F(Checkpoint, ReshardingReplacesCheckpointsAloneAndOnlyWhenAllowed) {
  const fs::path a = save(folder_, 7, 3, 1), b = save(folder_, 8, 2, 2);
  const CheckpointReader from(a);
  EXPECT_THAT(error_of([&] { reshard_checkpoint(from, b, 1, false); }), HasSubstr("--force"));
  expect_complete(b, 2);
  reshard_checkpoint(from, b, 1, true);
  expect_complete(b, 1);
  reshard_checkpoint(from, a, 2, true);  // in its own place
  expect_complete(a, 1);
  EXPECT_EQ(names_in(a).size(), 6u);
  fs::create_directories(folder_ / "other");
  EXPECT_THAT(error_of([&] { reshard_checkpoint(from, folder_ / "other", 1, true); }),
              HasSubstr("is no checkpoint"));
  EXPECT_THAT(error_of([&] { reshard_checkpoint(from, folder_ / "new", 0, true); }),
              HasSubstr("number of files"));

  const std::string rank_file = bytes_of(b / "rank-00000.h5");
  std::string damaged = rank_file;
  damaged[damaged.size() / 2] ^= 1;
  put(b / "rank-00000.h5", damaged);
  EXPECT_THAT(error_of([&] { reshard_checkpoint(CheckpointReader(b), folder_ / "new", 2, false); }),
              HasSubstr("rank-00000.h5: its checksum differs"));
  EXPECT_EQ(names_in(folder_), (std::set<std::string>{"other", "step-00000007", "step-00000008"}));
}

TEST_F(Checkpoint, LeftoversOfInterruptedSavesGoWithTheNextSave) {
  for (const char* name : {".step-00000009.tmp", ".step-00000001.old"}) {
    fs::create_directories(folder_ / name);
    put(folder_ / name / "rank-00000.h5", "half");
  }
  fs::create_directories(folder_ / "mine");
  EXPECT_EQ(latest_checkpoint(folder_), std::nullopt);
  (void)save(folder_, 10, 2);
  EXPECT_FALSE(fs::exists(folder_ / ".step-00000009.tmp"));
  EXPECT_FALSE(fs::exists(folder_ / ".step-00000001.old"));
  EXPECT_TRUE(fs::exists(folder_ / "mine"));
}

TEST_F(Checkpoint, AFolderThatCannotBeWrittenIsAnErrorOnAllRanks) {
  put(folder_, "a file where the folder should be");
  int failed = 0;
  const std::string error = error_of([&] {
    run_ranks(2, [&](Communicator& world) {
      try {
        (void)save_checkpoint(folder_, 1, share(world.rank(), 2), kEmptyTexts, world);
      } catch (const Error& e) {
        EXPECT_THAT(e.what(), HasSubstr("was not saved: rank 0: "));
        (void)world.barrier();  // both ranks get here: nobody hangs
        if (world.rank() == 0) ++failed;
        throw;
      }
    });
  });
  EXPECT_EQ(failed, 1);
  if (::geteuid() != 0) {
    fs::remove(folder_);
    fs::create_directory(folder_);
    fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
    EXPECT_THAT(error_of([&] { (void)save(folder_, 1, 1); }), HasSubstr("Permission denied"));
    fs::permissions(folder_, fs::perms::owner_all);
  }
}

TEST_F(Checkpoint, DiffComparesBitsAcrossLayouts) {
  const CheckpointReader a(save(folder_ / "a", 3, 4)), b(save(folder_ / "b", 3, 1));
  EXPECT_TRUE(diff_checkpoints(a, b).empty());

  const auto changed = [&](const std::string& name, std::int64_t step, const std::string& state,
                           auto&& change) {
    std::vector<TensorRows> mine = share(0, 1);
    change(mine);
    ModelConfig model = small_model();
    if (name == "model") model.moe.top_k = 1;
    const CheckpointReader c(save_checkpoint(
        folder_ / name, step, mine, {state, model_config_to_json(model), ""}, *single_rank()));
    std::vector<std::string> lines;
    for (const auto& d : diff_checkpoints(a, c)) lines.push_back(d.where + ": " + d.what);
    return lines;
  };
  const auto same = [](auto&) {};
  using testing::ElementsAre;
  EXPECT_THAT(changed("step", 4, kState, same), ElementsAre("step: 3 and 4"));
  EXPECT_THAT(changed("model", 3, kState, same), ElementsAre("model/top_k: 2 and 1"));
  EXPECT_THAT(changed("state", 3, "{\"step\": 8, \"tokens\": 123, \"more\": 1}", same),
              ElementsAre("state/more: only in the second", "state/step: 7 and 8"));
  EXPECT_THAT(changed("value", 3, kState,
                      [](auto& mine) { mine[1].value.template data<double>()[5] = -0.25; }),
              ElementsAre(testing::MatchesRegex(
                  "weights/norm.weight: 1 of 8 values differ, first at .5.: .* and -0.25")));
  EXPECT_THAT(changed("missing", 3, kState, [](auto& mine) { mine.erase(mine.begin()); }),
              ElementsAre("weights/embed.weight: only in the first"));
  EXPECT_THAT(changed("shape", 3, kState,
                      [](auto& mine) {
                        mine[1].global_shape = {4, 2};
                        mine[1].value = mine[1].value.view({4, 2});
                      }),
              ElementsAre("weights/norm.weight: f64 8 and f64 4x2"));
}

TEST_F(Checkpoint, DiffTellsMinusZeroFromZeroAndEqualNaNsAreEqual) {
  const auto save_value = [&](const char* name, double value) {
    return CheckpointReader(
        save_checkpoint(folder_ / name, 1, {{"x", {1}, 0, Tensor::of<double>({1}, {value})}},
                        {"{}", model_config_to_json(small_model()), ""}, *single_rank()));
  };
  EXPECT_EQ(diff_checkpoints(save_value("a", 0.0), save_value("b", -0.0)).size(), 1u);
  EXPECT_TRUE(diff_checkpoints(save_value("c", NAN), save_value("d", NAN)).empty());
}

}  // namespace
}  // namespace moe
