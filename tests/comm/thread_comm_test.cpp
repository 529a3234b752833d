// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include <atomic>

#include "comm/communicator_checks.h"

namespace moe {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class ThreadComm : public testing::TestWithParam<std::tuple<int, checks::Check>> {};

TEST_P(ThreadComm, Does) { run_ranks(std::get<0>(GetParam()), std::get<1>(GetParam()).run); }

INSTANTIATE_TEST_SUITE_P(Threads, ThreadComm,
                         testing::Combine(testing::Values(1, 2, 3, 4),
                                          testing::ValuesIn(checks::kChecks)),
                         [](const auto& test) {
                           return str(std::get<1>(test.param).name, "On", std::get<0>(test.param),
                                      "Ranks");
                         });

class SingleRank : public testing::TestWithParam<checks::Check> {};

TEST_P(SingleRank, Does) {
  const auto world = single_rank();
  GetParam().run(*world);
}

INSTANTIATE_TEST_SUITE_P(Alone, SingleRank, testing::ValuesIn(checks::kChecks),
                         [](const auto& test) { return test.param.name; });

std::string failure_of(int size, const std::function<void(Communicator&)>& body) {
  return checks::error_of([&] { run_ranks(size, body); });
}

TEST(RunRanks, GivesEachThreadARankAndOneComputeThread) {
  std::atomic<int> seen{0};
  run_ranks(4, [&](Communicator& world) {
    EXPECT_EQ(world.size(), 4);
    EXPECT_EQ(omp_get_max_threads(), 1);
    seen += 1 << world.rank();
  });
  EXPECT_EQ(seen, 15);
}

TEST(RunRanks, AFailingRankEndsAllAndIsNamed) {
  std::atomic<int> ended{0};
  EXPECT_EQ(failure_of(3,
                       [&](Communicator& world) {
                         const auto group = world.split(world.rank() == 0, 0);
                         if (world.rank() == 1) throw Error("out of ideas");
                         const std::string error =
                             checks::error_of([&] { group->barrier().wait(); });
                         if (world.rank() == 2) {
                           EXPECT_EQ(error, "barrier cannot finish: rank 1: out of ideas");
                         }
                         ++ended;
                         world.barrier().wait();
                       }),
            "rank 1: out of ideas");
  EXPECT_EQ(ended, 2);
}

TEST(RunRanks, KeepsTheKindOfError) {
  EXPECT_THROW(run_ranks(2,
                         [](Communicator& world) {
                           if (world.rank() == 1) throw InputError("bad file");
                           world.barrier().wait();
                         }),
               InputError);
  EXPECT_EQ(failure_of(1, [](Communicator&) { throw std::runtime_error("x"); }), "rank 0: x");
  EXPECT_THROW(run_ranks(2, [](Communicator&) { throw 7; }), int);
}

TEST(RunRanks, ARankThatFailsWithCollectivesInFlightDoesNotHang) {
  EXPECT_EQ(failure_of(2,
                       [](Communicator& world) {
                         const Tensor x = Tensor::zeros({3}, DType::f32);
                         const Pending unfinished = world.all_reduce(x, ReduceOp::sum);
                         if (world.rank() == 0) throw Error("too late");
                         world.barrier().wait();
                       }),
            "rank 0: too late");
}

TEST(RunRanks, ARankThatEndsEarlyIsNamed) {
  EXPECT_EQ(failure_of(3,
                       [](Communicator& world) {
                         if (world.rank() != 2)
                           world.all_reduce(Tensor::zeros({3}, DType::f32), ReduceOp::sum).wait();
                       })
                .substr(8),
            "all_reduce of 3 f32 (sum) cannot finish: rank 2 has ended without joining it");
}

/// What rank 1 calls must not match what the others call.
void expect_mismatch(const std::function<Pending(Communicator&, bool odd)>& call, const char* first,
                     const char* second) {
  EXPECT_THAT(failure_of(3, [&](Communicator& world) { call(world, world.rank() == 1).wait(); }),
              AllOf(StartsWith("rank "),
                    HasSubstr(str("rank 0 called ", first, ", rank 1 called ", second))));
}

TEST(ThreadCommMismatch, NamesBothRanksAndWhatTheyCalled) {
  const auto zeros = [](std::int64_t n, DType t) { return Tensor::zeros({n}, t); };
  expect_mismatch(
      [&](Communicator& world, bool odd) {
        return odd ? world.barrier() : world.broadcast(zeros(2, DType::f32), 0);
      },
      "broadcast of 2 f32 from rank 0", "barrier");
  expect_mismatch(
      [&](Communicator& world, bool odd) {
        return world.all_reduce(zeros(odd ? 3 : 2, DType::f32), ReduceOp::sum);
      },
      "all_reduce of 2 f32 (sum)", "all_reduce of 3 f32 (sum)");
  expect_mismatch(
      [&](Communicator& world, bool odd) {
        return world.all_reduce(zeros(2, DType::f32), odd ? ReduceOp::max : ReduceOp::sum);
      },
      "all_reduce of 2 f32 (sum)", "all_reduce of 2 f32 (max)");
  expect_mismatch(
      [&](Communicator& world, bool odd) {
        const DType dtype = odd ? DType::i32 : DType::f32;
        return world.all_gather(zeros(6, dtype), zeros(2, dtype));
      },
      "all_gather of 6 f32 in parts of 2, 2, 2", "all_gather of 6 i32");
  expect_mismatch(
      [&](Communicator& world, bool odd) {
        const std::vector<std::int64_t> none(3, 0);
        const Tensor x = Tensor::zeros({0, odd ? 5 : 4}, DType::bf16);
        return world.all_to_all(x, none, x, none);
      },
      "all_to_all of rows of 4 bf16", "all_to_all of rows of 5 bf16");
}

}  // namespace
}  // namespace moe
