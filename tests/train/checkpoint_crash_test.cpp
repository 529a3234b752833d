// SPDX-License-Identifier: Apache-2.0
// Checkpoints on full disks and under kill -9.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <optional>
#include <set>

#include "train/checkpoint_fixture.h"

namespace moe {
namespace {

using testing::HasSubstr;

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
          [&] { (void)save_checkpoint(folder_, 2, share(0, 1), kEmptyTexts, *single_rank()); });
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
      (void)save_checkpoint(folder_, 2, mine, kEmptyTexts, world);
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

/// Runs f in a child that is killed when its threads enter their n-th system call that changes
/// files. False when it came to its end before; nothing when processes must not be traced here.
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
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr,
           PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE);
  ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
  for (;;) {
    const pid_t thread = ::waitpid(-1, &status, __WALL);
    if (thread == child && WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      return false;
    }
    if (!WIFSTOPPED(status)) continue;  // the end of another thread
    // A new thread stops before its first step, perhaps before its maker has told of it.
    const bool at_call = WSTOPSIG(status) == (SIGTRAP | 0x80);
    __ptrace_syscall_info info = {};
    if (at_call && ::ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof(info), &info) <= 0) n = 0;
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY && changes_files(info.entry.nr)) --n;
    if (n > 0 || !at_call) {
      ::ptrace(PTRACE_SYSCALL, thread, nullptr, nullptr);
      continue;
    }
    ::kill(child, SIGKILL);
    // The child's own end is told of once that of its traced threads has been.
    while (::waitpid(-1, &status, __WALL) != child || WIFSTOPPED(status)) {
    }
    return info.op == PTRACE_SYSCALL_INFO_NONE ? std::nullopt : std::optional(true);
  }
}

enum class Way { standing_still, behind };

/// Kills a new save, a save in the place of another and a pruning at every `stride`-th change of a
/// file.
void kill_and_check(const fs::path& folder, Way way, int stride) {
  const auto save_here = [&](std::int64_t step, std::uint64_t variant) {
    const auto world = single_rank();
    CheckpointSaver saver(folder, {}, *world);
    if (way == Way::standing_still) {
      if (!saver.save(step, share(0, 1, variant), texts()).failure.empty()) throw Error("failed");
      return;
    }
    saver.begin(step, share(0, 1, variant), texts());
    if (!saver.finish()->failure.empty()) throw Error("failed");
  };
  using Left = std::pair<std::int64_t, std::uint64_t>;
  std::set<Left> left;
  int points = 0;
  for (bool finished = false; !finished; points += stride) {
    fs::remove_all(folder);
    save_here(1, 1);
    const auto killed = killed_at(points + 1, [&] {
      save_here(2, 2);  // a new one
      save_here(2, 3);  // in the place of another
      prune_checkpoints(folder, {.last = 1});
    });
    if (!killed) GTEST_SKIP() << "processes must not be traced here";
    finished = !*killed;
    const auto latest = latest_checkpoint(folder);
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
    for (const std::string& name : names_in(folder)) {
      if (name.starts_with(".")) continue;
      EXPECT_NO_THROW(CheckpointReader(folder / name).verify()) << "change " << points + 1;
    }
  }
  EXPECT_THAT(left, testing::ElementsAre(Left(1, 1), Left(2, 2), Left(2, 3)));
  EXPECT_GT(points, 50);
  EXPECT_THAT(names_in(folder), testing::ElementsAre("step-00000002"));
}

/// Syncing to memory costs nothing.
fs::path folder_in_memory(const fs::path& otherwise) {
  return ::access("/dev/shm", W_OK) == 0 ? fs::path(str("/dev/shm/checkpoint_test.", ::getpid()))
                                         : otherwise;
}

TEST_F(Checkpoint, Kill9AtChangesOfFilesLeavesTheOldCheckpointOrTheNew) {
  kill_and_check(folder_ = folder_in_memory(folder_), Way::standing_still, 5);
}
TEST_F(Checkpoint, Kill9OfASaveBehindTheTrainingLeavesTheOldCheckpointOrTheNew) {
  kill_and_check(folder_ = folder_in_memory(folder_), Way::behind, 5);
}

class CheckpointSlow : public Checkpoint {};
TEST_F(CheckpointSlow, Kill9AtEachChangeOfAFileLeavesTheOldCheckpointOrTheNew) {
  folder_ = folder_in_memory(folder_);
  kill_and_check(folder_, Way::standing_still, 1);
  kill_and_check(folder_, Way::behind, 1);
}

}  // namespace
}  // namespace moe
