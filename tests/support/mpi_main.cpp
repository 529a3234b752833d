// SPDX-License-Identifier: Apache-2.0
// The main of every *_mpi_test.cpp: all ranks run all tests together.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "comm/watchdog.h"
#include "core/log.h"
#include "support/mpi_world.h"

namespace {

std::optional<moe::MpiWorld> job;

/// Knows the test that runs, and prints failures of the ranks whose progress is not printed.
class Listener final : public testing::EmptyTestEventListener {
 public:
  std::string test = "outside a test";

 private:
  void OnTestStart(const testing::TestInfo& info) override {
    test = moe::str(info.test_suite_name(), ".", info.name());
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed() || moe::log_rank() == 0) return;
    moe::log_line(moe::str("[rank ", moe::log_rank(), "] ", test, ": ", result.file_name(), ":",
                           result.line_number(), ": ", result.message()));
  }
};

/// The worst exit code of all ranks.
int worst(int code) {
  moe::Communicator& world = job->world();
  const moe::Tensor x = moe::Tensor::of<std::int64_t>({1}, {code});
  world.all_reduce(x, moe::ReduceOp::max).wait();
  return int(x.data<std::int64_t>()[0]);
}

}  // namespace

moe::MpiWorld& moe::mpi_world() { return *job; }

// Keeps the libraries that Open MPI unloads in place, so that leak reports have names and the
// suppressions (lsan.supp) fit.
extern "C" int dlclose(void*) { return 0; }

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  job.emplace(&argc, &argv);
  moe::set_log_rank(job->world().rank());
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  auto* const listener = new Listener;
  listeners.Append(listener);
  if (job->world().rank() != 0) delete listeners.Release(listeners.default_result_printer());
  // A rank that leaves a test early would leave its peers waiting: it ends the job instead.
  GTEST_FLAG_SET(catch_exceptions, false);
  int code = 1;
  try {
    const moe::Watchdog watchdog(120);
    code = worst(RUN_ALL_TESTS());
  } catch (const std::exception& failure) {
    job->abort(moe::str(listener->test, ": ", failure.what()), 1);
  }
  job.reset();
  return code;
}
