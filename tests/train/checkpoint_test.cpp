// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "comm/communicator.h"
#include "core/error.h"
#include "core/rng.h"
#include "train/checkpoint_diff.h"
#include "train/checkpoint_manifest.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Checkpoint : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              str("checkpoint_test.", ::getpid(), ".",
                  testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

ModelConfig small_model() {
  ModelConfig c;
  c.vocab_size = 11;
  c.hidden_size = 8;
  c.intermediate_size = 6;
  c.layers = 1;
  c.heads = c.kv_heads = 2;
  c.head_dim = 4;
  c.rms_norm_eps = 1.0 / 3;
  c.moe.experts = 2;
  c.moe.expert_sizes = {{4, 2}};
  c.moe.score_scale = {0.1 + 0.2};
  return c;
}

/// A tensor of the test's model: row r, element i holds a number of its own.
Tensor rows_of(const std::string& name, const Shape& shape, std::int64_t first, std::int64_t count,
               DType dtype, std::uint64_t variant = 0) {
  Shape part = shape;
  part[0] = count;
  const Tensor t = Tensor::empty(part, dtype);
  const Philox random(std::hash<std::string>{}(name) + variant, RandomPurpose::test);
  for (std::int64_t i = 0; i < t.size(); ++i) {
    const double value = random.normal(std::uint64_t(first * t.cols() + i));
    if (dtype == DType::f32) t.data<float>()[i] = float(value);
    if (dtype == DType::f64) t.data<double>()[i] = value;
    if (dtype == DType::bf16) t.data<bf16>()[i] = bf16(float(value));
    if (dtype == DType::i64) t.data<std::int64_t>()[i] = std::int64_t(value * 1e6);
  }
  return t;
}

struct Spec {
  std::string name;
  Shape shape;
  DType dtype;
};
const std::vector<Spec> kSpecs = {{"weights/embed.weight", {11, 8}, DType::f32},
                                  {"weights/norm.weight", {8}, DType::f64},
                                  {"adam_m/embed.weight", {11, 8}, DType::bf16},
                                  {"router/counts", {7, 2, 3}, DType::i64}};

/// Uneven shares: rank r of n holds rows [cut(r), cut(r + 1)); some may hold none.
std::int64_t cut(std::int64_t rows, int rank, int ranks) {
  return rank == ranks ? rows : rows * rank * rank / (ranks * ranks);
}

std::vector<TensorRows> share(int rank, int ranks, std::uint64_t variant = 0) {
  std::vector<TensorRows> mine;
  for (const Spec& s : kSpecs) {
    const std::int64_t first = cut(s.shape[0], rank, ranks);
    const std::int64_t count = cut(s.shape[0], rank + 1, ranks) - first;
    mine.push_back(
        {s.name, s.shape, first, rows_of(s.name, s.shape, first, count, s.dtype, variant)});
  }
  return mine;
}

const std::string kState = "{\"step\": 7, \"tokens\": 123, \"machine\": {\"threads\": 2}}";

fs::path save(const fs::path& checkpoints, std::int64_t step, int ranks,
              std::uint64_t variant = 0) {
  fs::path folder;
  run_ranks(ranks, [&](Communicator& world) {
    const fs::path made =
        save_checkpoint(checkpoints, step, share(world.rank(), ranks, variant), kState,
                        model_config_to_json(small_model()), "train: {}\n", world);
    if (world.rank() == 0) folder = made;
  });
  return folder;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.bytes(), b.bytes(), a.nbytes()) == 0;
}

void expect_complete(const fs::path& folder, std::uint64_t variant = 0) {
  const CheckpointReader reader(folder);
  reader.verify();
  for (const Spec& s : kSpecs)
    EXPECT_TRUE(same_bytes(reader.read(s.name, 0, s.shape[0]),
                           rows_of(s.name, s.shape, 0, s.shape[0], s.dtype, variant)))
        << s.name;
}

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void put(const fs::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary) << bytes;
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const InputError& e) {
    return e.what();
  } catch (const Error& e) {
    return str("Error: ", e.what());
  }
  return "no error";
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
  EXPECT_EQ(reader.config_yaml(), "train: {}\n");
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
          "{}", "{}", "", world);
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

TEST_F(Checkpoint, PruningKeepsTheLatest) {
  for (const int step : {10, 20, 5, 30}) (void)save(folder_, step, 1);
  prune_checkpoints(folder_, 2);
  EXPECT_THAT(names_in(folder_), testing::ElementsAre("step-00000020", "step-00000030"));
  prune_checkpoints(folder_, 5);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 2);
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
        (void)save_checkpoint(folder_, 1, share(world.rank(), 2), "{}", "{}", "", world);
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

/// Runs f in a child process and returns its wait status.
template <class F>
int in_child(F&& f) {
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 1;
    try {
      code = f();
    } catch (...) {
    }
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST_F(Checkpoint, AFileThatGrowsTooLargeLeavesTheEarlierCheckpointAndNothingElse) {
  const fs::path good = save(folder_, 1, 1);
  // From where metadata cannot be written to where only the last bytes are missing.
  const auto full = std::int64_t(fs::file_size(good / "rank-00000.h5"));
  for (const std::int64_t limit : {std::int64_t{0}, std::int64_t{100}, full / 2, full - 1}) {
    const int status = in_child([&] {
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit size{rlim_t(limit), rlim_t(limit)};
      ::setrlimit(RLIMIT_FSIZE, &size);
      const std::string error = error_of(
          [&] { (void)save_checkpoint(folder_, 2, share(0, 1), "{}", "{}", "", *single_rank()); });
      const bool named =
          error.find("rank 0: ") != std::string::npos &&
          error.find("rank-00000.h5: cannot be written: File too large") != std::string::npos;
      return named ? 0 : 3;
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << limit << ": status " << status;
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << limit;
    expect_complete(good);
  }
}

TEST_F(Checkpoint, AFullDiskUnderOneRankIsAnErrorOnAllRanks) {
  fs::create_directories(folder_);
  if (::mount("tmpfs", folder_.c_str(), "tmpfs", 0, "size=256k") != 0)
    GTEST_SKIP() << "needs the right to mount a tmpfs";
  const fs::path good = save(folder_, 1, 2);
  const std::string error = error_of([&] {
    run_ranks(2, [&](Communicator& world) {
      std::vector<TensorRows> mine = share(world.rank(), 2);
      const Shape large = {100, 1000};
      if (world.rank() == 1)
        mine.push_back({"weights/large", large, 0, Tensor::zeros(large, DType::f32)});
      (void)save_checkpoint(folder_, 2, mine, "{}", "{}", "", world);
    });
  });
  EXPECT_THAT(error, HasSubstr("rank 1: "));
  EXPECT_THAT(error, HasSubstr("rank-00001.h5: cannot be written: No space left on device"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
  expect_complete(good);
  EXPECT_EQ(::umount(folder_.c_str()), 0);
}

/// Whether a system call changes what is on the disk.
bool changes_files(std::uint64_t call) {
  static const std::set<std::uint64_t> kCalls = {
#ifdef SYS_rename  // newer architectures have only the ...at forms
      SYS_rename,    SYS_mkdir,     SYS_rmdir,    SYS_unlink, SYS_open,
#endif
      SYS_renameat2, SYS_mkdirat,   SYS_unlinkat, SYS_openat, SYS_write,
      SYS_pwrite64,  SYS_ftruncate, SYS_fsync};
  return kCalls.contains(call);
}

/// Runs f in a child that is killed when it enters its n-th system call that changes files. False
/// when it came to its end before; nothing when processes must not be traced here.
template <class F>
std::optional<bool> killed_at(int n, F&& f) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(77);
    ::raise(SIGSTOP);
    int code = 0;
    try {
      f();
    } catch (...) {
      code = 1;
    }
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) return std::nullopt;
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  for (;;) {
    ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      return false;
    }
    __ptrace_syscall_info info = {};
    if (::ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof(info), &info) <= 0) n = 0;
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY && changes_files(info.entry.nr)) --n;
    if (n > 0) continue;
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
    return info.op == PTRACE_SYSCALL_INFO_NONE ? std::nullopt : std::optional(true);
  }
}

TEST_F(Checkpoint, Kill9AtEachChangeOfAFileLeavesTheOldCheckpointOrTheNew) {
  if (::access("/dev/shm", W_OK) == 0)  // syncing to memory costs nothing
    folder_ = str("/dev/shm/checkpoint_test.", ::getpid());
  const auto save_here = [&](std::int64_t step, std::uint64_t variant) {
    (void)save_checkpoint(folder_, step, share(0, 1, variant), kState,
                          model_config_to_json(small_model()), "", *single_rank());
  };
  using Left = std::pair<std::int64_t, std::uint64_t>;
  std::set<Left> left;
  int points = 0;
  for (bool finished = false; !finished; ++points) {
    fs::remove_all(folder_);
    save_here(1, 1);
    const auto killed = killed_at(points + 1, [&] {
      save_here(2, 2);  // a new one
      save_here(2, 3);  // in the place of another
      prune_checkpoints(folder_, 1);
    });
    if (!killed) GTEST_SKIP() << "processes must not be traced here";
    finished = !*killed;
    const auto latest = latest_checkpoint(folder_);
    ASSERT_TRUE(latest.has_value()) << "killed at change " << points + 1;
    const CheckpointReader reader(*latest);
    reader.verify();
    const Spec& s = kSpecs[0];
    std::uint64_t variant = 1;
    while (variant < 4 && !same_bytes(reader.read(s.name, 0, s.shape[0]),
                                      rows_of(s.name, s.shape, 0, s.shape[0], s.dtype, variant)))
      ++variant;
    const Left now{reader.step(), variant};
    EXPECT_GE(now, left.empty() ? now : *left.rbegin()) << "lost at change " << points + 1;
    left.insert(now);
    for (const std::string& name : names_in(folder_)) {
      if (name.starts_with(".")) continue;
      EXPECT_NO_THROW(CheckpointReader(folder_ / name).verify()) << "change " << points + 1;
    }
  }
  EXPECT_THAT(left, testing::ElementsAre(Left(1, 1), Left(2, 2), Left(2, 3)));
  EXPECT_GT(points, 50);
  EXPECT_THAT(names_in(folder_), testing::ElementsAre("step-00000002"));
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
    const CheckpointReader c(save_checkpoint(folder_ / name, step, mine, state,
                                             model_config_to_json(model), "", *single_rank()));
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
        save_checkpoint(folder_ / name, 1, {{"x", {1}, 0, Tensor::of<double>({1}, {value})}}, "{}",
                        model_config_to_json(small_model()), "", *single_rank()));
  };
  EXPECT_EQ(diff_checkpoints(save_value("a", 0.0), save_value("b", -0.0)).size(), 1u);
  EXPECT_TRUE(diff_checkpoints(save_value("c", NAN), save_value("d", NAN)).empty());
}

}  // namespace
}  // namespace moe
