// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "comm/hierarchical_comm.h"
#include "comm/process_grid.h"
#include "core/rng.h"

/// What every transport must do, as functions that each rank of a world calls. A rank must not
/// leave one early (no ASSERT_), or its peers wait for it.
namespace moe::checks {

inline const std::vector<DType> kSummable = {DType::f32, DType::bf16, DType::f64, DType::i64};
inline const std::vector<DType> kAll = {DType::f32, DType::bf16, DType::f64, DType::i32,
                                        DType::i64, DType::u8,   DType::f16};

/// All of `world`, its all_to_all by way of hosts with `ranks` ranks each.
inline std::unique_ptr<Communicator> by_way_of_hosts_of(Communicator& world, int ranks) {
  std::vector<int> members(std::size_t(world.size()), 0);
  std::iota(members.begin(), members.end(), 0);
  return by_way_of_hosts(world.split(0, world.rank()), ranks, members);
}

template <class T>
T as(double value) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(value);
  else
    return T(static_cast<float>(value));
}

template <class F>
void for_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(bf16{});
    case DType::f64:
      return f(double{});
    case DType::i32:
      return f(std::int32_t{});
    case DType::i64:
      return f(std::int64_t{});
    case DType::u8:
      return f(std::uint8_t{});
    case DType::f16:
      return f(f16{});
  }
}

/// value(i) for every element: small whole numbers, which every type holds exactly.
template <class Value>
Tensor filled(Shape shape, DType dtype, Value value) {
  Tensor t = Tensor::empty(std::move(shape), dtype);
  for_type(dtype, [&](auto type) {
    for (std::int64_t i = 0; i < t.size(); ++i)
      t.data<decltype(type)>()[i] = as<decltype(type)>(double(value(i)));
  });
  return t;
}

inline std::vector<double> values(const Tensor& t) {
  std::vector<double> result(std::size_t(t.size()));
  for_type(t.dtype(), [&](auto type) {
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = double(t.data<decltype(type)>()[i]);
  });
  return result;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() &&
         (a.nbytes() == 0 || std::memcmp(a.bytes(), b.bytes(), a.nbytes()) == 0);
}

/// Ranks arrive at different times, in another order each round.
inline void stagger(const Communicator& world, int round) {
  const int turn = (world.rank() + round) % world.size();
  std::this_thread::sleep_for(std::chrono::microseconds(300 * turn));
}

/// 1 + 2 + ... + size.
inline std::int64_t rank_sum(const Communicator& world) {
  return std::int64_t{world.size()} * (world.size() + 1) / 2;
}

inline void all_reduce_sums_and_takes_the_maximum(Communicator& world) {
  for (const DType dtype : kSummable)
    for (const std::int64_t n : {0, 1, 5, 1000, 600001}) {
      const auto value = [&](std::int64_t i) { return (world.rank() + 1) * (i % 5 + 1); };
      const Tensor sum = filled({n}, dtype, value), max = filled({n}, dtype, value);
      world.all_reduce(sum, ReduceOp::sum).wait();
      world.all_reduce(max, ReduceOp::max).wait();
      const std::int64_t ranks = rank_sum(world);
      EXPECT_EQ(values(sum),
                values(filled({n}, dtype, [&](auto i) { return ranks * (i % 5 + 1); })))
          << name(dtype) << " " << n;
      EXPECT_EQ(values(max),
                values(filled({n}, dtype, [&](auto i) { return world.size() * (i % 5 + 1); })))
          << name(dtype) << " " << n;
    }
}

inline void all_reduce_takes_the_maximum_of_negative_values(Communicator& world) {
  for (const DType dtype : kSummable) {
    const Tensor x = filled({3}, dtype, [&](auto) { return -1 - world.rank(); });
    world.all_reduce(x, ReduceOp::max).wait();
    EXPECT_EQ(values(x), (std::vector<double>{-1, -1, -1})) << name(dtype);
  }
}

inline void bf16_sums_are_made_in_f32(Communicator& world) {
  // 256 + 1.5 is 257.5 in f32 and rounds to 258 in bf16; 1.5 cut to a whole number would give 257.
  const Tensor x = Tensor::of<bf16>({1}, {bf16(world.rank() == 0 ? 256.f : 0.f)});
  if (world.rank() == world.size() - 1) x.data<bf16>()[0] = bf16(x.data<bf16>()[0] + 1.5f);
  world.all_reduce(x, ReduceOp::sum).wait();
  EXPECT_EQ(float(x.data<bf16>()[0]), 258.f);
}

inline void reduce_scatter_gives_each_rank_its_part(Communicator& world) {
  for (const DType dtype : kSummable)
    for (const std::int64_t n : {0, 1, 7, 5000}) {
      const auto value = [&](std::int64_t i) { return i % 3 + (n > 0 ? i / n : 0); };
      const Tensor in =
          filled({world.size() * n}, dtype, [&](auto i) { return (world.rank() + 1) * value(i); });
      const Tensor out = Tensor::empty({n}, dtype);
      world.reduce_scatter(out, in).wait();
      EXPECT_EQ(
          values(out),
          values(filled({n}, dtype,
                        [&](auto i) { return rank_sum(world) * value(world.rank() * n + i); })))
          << name(dtype) << " " << n;
    }
}

/// Parts of 0, 1, 2, ... times `unit` elements, the last rank's first.
inline void scatters_and_gathers_parts_of(std::int64_t unit, Communicator& world) {
  std::vector<std::int64_t> parts;
  for (int p = world.size(); p-- > 0;) parts.push_back(unit * p);
  const auto own = std::size_t(world.rank());
  const std::int64_t first = std::accumulate(parts.begin(), parts.begin() + own, std::int64_t{0});
  const std::int64_t total = std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
  for (const DType dtype : kSummable)
    for (const bool in_place : {false, true}) {
      const Tensor in =
          filled({total}, dtype, [&](auto i) { return (world.rank() + 1) * (i % 5); });
      const Tensor part =
          in_place ? in.slice(first, parts[own]) : Tensor::empty({parts[own]}, dtype);
      world.reduce_scatter(part, in, parts).wait();
      EXPECT_EQ(values(part),
                values(filled({parts[own]}, dtype,
                              [&](auto i) { return rank_sum(world) * ((first + i) % 5); })))
          << name(dtype);
      const Tensor all = in_place ? in : Tensor::empty({total}, dtype);
      world.all_gather(all, part, parts).wait();
      EXPECT_EQ(values(all),
                values(filled({total}, dtype, [&](auto i) { return rank_sum(world) * (i % 5); })))
          << name(dtype);
    }
}

inline void uneven_parts_are_scattered_and_gathered(Communicator& world) {
  scatters_and_gathers_parts_of(3, world);
}

/// What a transport moves in several pieces.
inline void large_parts_are_scattered_and_gathered(Communicator& world) {
  scatters_and_gathers_parts_of(300001, world);
}

inline void bf16_parts_are_summed_into_f32(Communicator& world) {
  const std::int64_t n = world.size();
  // 256 and 1 are bf16, 257 is not.
  const Tensor in = filled({n}, DType::bf16, [&](auto) { return world.rank() == 0 ? 256 : 1; });
  const Tensor out = Tensor::empty({1}, DType::f32);
  world.reduce_scatter(out, in).wait();
  EXPECT_EQ(out.data<float>()[0], 256.f + float(n - 1));
}

inline void all_gather_keeps_rank_order(Communicator& world) {
  for (const DType dtype : kAll)
    for (const std::int64_t n : {0, 1, 6, 3000})
      for (const bool in_place : {false, true}) {
        const Tensor out = Tensor::empty({world.size() * n}, dtype);
        const Tensor part = filled({n}, dtype, [&](auto i) { return world.rank() * 10 + i % 7; });
        Tensor in = part;
        if (in_place) {
          in = out.slice(world.rank() * n, n);
          in.copy_from(part);
        }
        world.all_gather(out, in).wait();
        EXPECT_EQ(values(out), values(filled({world.size() * n}, dtype,
                                             [&](auto i) { return i / n * 10 + i % n % 7; })))
            << name(dtype) << " " << n;
      }
}

/// Rows of `cols` elements from every rank to every rank, rows(from, to) of them, coded by sender,
/// receiver and place.
struct Exchange {
  template <class Rows>
  Exchange(const Communicator& world, DType dtype, std::int64_t cols, Rows rows) {
    const auto total = [](const auto& n) { return std::accumulate(n.begin(), n.end(), 0l); };
    for (int p = 0; p < world.size(); ++p) {
      send.push_back(rows(world.rank(), p));
      recv.push_back(rows(p, world.rank()));
    }
    std::vector<double> sent, expected_values;
    const auto add = [&](std::vector<double>& to, int from, int receiver, std::int64_t n) {
      for (std::int64_t i = 0; i < n * cols; ++i) to.push_back(from * 32 + receiver * 8 + i % 8);
    };
    for (int p = 0; p < world.size(); ++p) {
      add(sent, world.rank(), p, send[std::size_t(p)]);
      add(expected_values, p, world.rank(), recv[std::size_t(p)]);
    }
    const auto at = [](const std::vector<double>& v) {
      return [&v](std::int64_t i) { return v[std::size_t(i)]; };
    };
    in = filled({total(send), cols}, dtype, at(sent));
    expected = filled({total(recv), cols}, dtype, at(expected_values));
    out = empty_like(expected);
  }
  Pending start(Communicator& world, RowCounts counts = RowCounts::compared) const {
    return world.all_to_all(out, recv, in, send, counts);
  }
  void check() const { EXPECT_EQ(values(out), values(expected)) << name(in.dtype()); }

  std::vector<std::int64_t> send, recv;
  Tensor in, out, expected;
};

inline void all_to_all_moves_uneven_rows(Communicator& world) {
  for (const DType dtype : kAll)
    for (const std::int64_t cols : {1, 3, 64}) {
      const Exchange uneven(world, dtype, cols,
                            [](int from, int to) { return (from + 2 * to) % 3; });
      uneven.start(world).wait();
      uneven.check();
      const Exchange to_last(world, dtype, cols,
                             [&](int, int to) { return to == world.size() - 1 ? 50 : 0; });
      to_last.start(world).wait();
      to_last.check();
    }
}

inline void collectives_work_without_any_rows(Communicator& world) {
  const Exchange rows(world, DType::f32, 4, [](int, int) { return 0; });
  rows.start(world).wait();
  const Exchange columns(world, DType::f32, 0, [](int, int) { return 2; });
  columns.start(world).wait();
  const Tensor none = Tensor::empty({0, 4}, DType::f32);
  world.broadcast(none, 0).wait();
  world.all_gather(none, none).wait();
  world.reduce_scatter(none, none).wait();
}

inline void broadcast_works_from_every_root(Communicator& world) {
  for (const DType dtype : kAll)
    for (int root = 0; root < world.size(); ++root) {
      const Tensor x = filled({33}, dtype, [&](auto i) { return world.rank() * 10 + i % 9; });
      world.broadcast(x, root).wait();
      EXPECT_EQ(values(x), values(filled({33}, dtype, [&](auto i) { return root * 10 + i % 9; })))
          << name(dtype) << " from " << root;
    }
}

inline void barrier_holds_until_all_have_come(Communicator& world) {
  const auto start = std::chrono::steady_clock::now();
  if (world.rank() == world.size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(60));
  world.barrier().wait();
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(50));
}

/// Each rank waits in an order of its own, so payloads of the exchanges become ready in different
/// orders on different ranks.
inline void collectives_in_flight_finish_in_any_order(Communicator& world) {
  for (int round = 0; round < 8; ++round) {
    const Exchange a(world, DType::f32, 5, [](int from, int to) { return (from + to) % 4; });
    const Exchange b(world, DType::i32, 2, [](int from, int to) { return (from * to + 1) % 3; });
    const Exchange c(world, DType::bf16, 300, [](int from, int to) { return 20 + from - to; });
    const Exchange d(world, DType::f32, 2, [](int from, int to) { return (from + to) % 3; });
    const Tensor sum = filled({1000}, DType::f64, [&](auto i) { return world.rank() + i; });
    const Tensor in = filled({2}, DType::i64, [&](auto) { return world.rank(); });
    const Tensor gathered = Tensor::empty({2 * world.size()}, DType::i64);
    const Tensor x = filled({4}, DType::f32, [&](auto) { return world.rank(); });

    std::vector<Pending> pending;
    stagger(world, round);
    pending.push_back(a.start(world));
    pending.push_back(world.all_reduce(sum, ReduceOp::sum));
    pending.push_back(b.start(world));
    pending.push_back(world.all_gather(gathered, in));
    world.progress();
    pending.push_back(d.start(world, RowCounts::known));
    pending.push_back(c.start(world));
    pending.push_back(world.barrier());
    pending.push_back(world.broadcast(x, world.size() - 1));

    std::vector<std::int64_t> order = permutation(
        std::int64_t(pending.size()),
        Philox(7, RandomPurpose::test, {std::uint64_t(world.rank()), std::uint64_t(round)}));
    for (const std::int64_t i : order) pending[std::size_t(i)].wait();
    a.check();
    b.check();
    c.check();
    d.check();
    const std::int64_t n = world.size();
    EXPECT_EQ(values(sum), values(filled({1000}, DType::f64,
                                         [&](auto i) { return rank_sum(world) - n + n * i; })));
    EXPECT_EQ(values(gathered), values(filled({2 * n}, DType::i64, [](auto i) { return i / 2; })));
    EXPECT_EQ(values(x), values(filled({4}, DType::f32, [&](auto) { return n - 1; })));
  }
}

/// A split must not block what a peer still waits for.
inline void split_works_with_collectives_in_flight(Communicator& world) {
  const Exchange a(world, DType::f32, 5, [](int from, int to) { return (from + to) % 4; });
  Pending pending = a.start(world);
  if (world.rank() == 0) pending.wait();
  const auto group = world.split(0, world.rank());
  pending.wait();
  a.check();
  EXPECT_EQ(group->size(), world.size());
}

inline void test_moves_a_collective_to_its_end(Communicator& world) {
  const Exchange a(world, DType::f32, 5, [](int from, int to) { return from + to; });
  Pending pending = a.start(world);
  while (!pending.test()) std::this_thread::yield();
  a.check();
  EXPECT_TRUE(pending.test());
  pending.wait();
}

inline void a_pending_waits_when_it_ends_or_is_replaced(Communicator& world) {
  const Exchange a(world, DType::f32, 5, [](int from, int to) { return from + to; });
  { const Pending pending = a.start(world); }
  a.check();
  const Exchange b(world, DType::f64, 2, [](int from, int to) { return from + 2 * to; });
  Pending pending = b.start(world);
  pending = world.barrier();
  b.check();
}

/// A started collective keeps its tensors alive without the caller.
inline void tensors_live_until_the_end(Communicator& world) {
  Pending pending =
      world.all_reduce(filled({100000}, DType::f32, [](auto) { return 1; }), ReduceOp::sum);
  std::vector<Tensor> others;
  for (int i = 0; i < 4; ++i)
    others.push_back(filled({100000}, DType::f32, [&](auto) { return 7; }));
  pending.wait();
  for (const Tensor& t : others) EXPECT_EQ(t.data<float>()[99999], 7.f);
}

inline std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// The first rank sends two rows where the last expects one; both say so, the rest works on.
inline void row_counts_that_disagree_name_both_ranks(Communicator& world) {
  if (world.size() == 1) return;
  const int last = world.size() - 1;
  Exchange wrong(world, DType::f32, 2, [](int, int) { return 1; });
  const Exchange right(world, DType::f32, 2, [](int, int) { return 3; });
  if (world.rank() == 0) {
    wrong.send.back() = 2;
    wrong.in = Tensor::zeros({world.size() + 1, 2}, DType::f32);
  }
  Pending first = wrong.start(world);
  Pending second = right.start(world);
  const std::string error = error_of([&] { first.wait(); });
  second.wait();
  right.check();
  if (world.rank() == 0 || world.rank() == last)
    EXPECT_EQ(error, str("all_to_all: rank 0 sends 2 rows to rank ", last, ", which expects 1"));
  else
    EXPECT_EQ(error, "no error");
}

/// Such calls fail before any peer is asked.
inline void wrong_arguments_are_refused(Communicator& world) {
  using testing::HasSubstr;
  const Tensor x = Tensor::zeros({4, 2}, DType::f32);
  const std::int64_t n = world.size();
  const std::vector<std::int64_t> few(std::size_t(n), 0), negative(std::size_t(n), -1);
  const auto expect = [](const char* part, const std::function<Pending()>& call) {
    EXPECT_THAT(error_of([&] { call().wait(); }), HasSubstr(part));
  };
  expect("does not reduce u8",
         [&] { return world.all_reduce(Tensor::zeros({1}, DType::u8), ReduceOp::sum); });
  expect("needs defined", [&] { return world.all_reduce(Tensor(), ReduceOp::sum); });
  expect("reduce_scatter of 8 elements",
         [&] { return world.reduce_scatter(Tensor::zeros({9}, DType::f32), x); });
  expect("reduce_scatter from f32 to f64",
         [&] { return world.reduce_scatter(Tensor::zeros({8 / n}, DType::f64), x); });
  expect("elements in parts of 8",
         [&] { return world.all_gather(Tensor::zeros({8 * n + 1}, DType::f32), x); });
  expect("a tensor of 4 rows and send counts", [&] { return world.all_to_all(x, few, x, few); });
  expect("negative send counts", [&] { return world.all_to_all(x, few, x, negative); });
  expect("with 0 send counts", [&] { return world.all_to_all(x, few, x, {}); });
  expect("rows of 2 elements into rows of 3", [&] {
    return world.all_to_all(Tensor::zeros({4, 3}, DType::f32), few, x, few);
  });
  expect("broadcast from rank", [&] { return world.broadcast(x, world.size()); });
}

/// The sum of 2^rank over a group is the set of its world ranks.
inline void every_rank_is_in_the_right_groups(Communicator& world) {
  for (int ep = 1; ep <= world.size(); ++ep) {
    if (world.size() % ep != 0) continue;
    const ProcessGrid grid(world, ep);
    EXPECT_EQ(grid.ep(), ep);
    EXPECT_EQ(grid.dp(), world.size() / ep);
    EXPECT_EQ(grid.world().rank(), grid.data_group().rank() * ep + grid.expert_group().rank());
    const auto own = [&] {
      return filled({1}, DType::f64, [&](auto) { return 1 << world.rank(); });
    };
    const Tensor all = own(), expert = own(), data = own();
    std::vector<Pending> pending;
    pending.push_back(grid.data_group().all_reduce(data, ReduceOp::sum));
    pending.push_back(grid.world().all_reduce(all, ReduceOp::sum));
    pending.push_back(grid.expert_group().all_reduce(expert, ReduceOp::sum));
    for (Pending& p : pending) p.wait();
    double expert_set = 0, data_set = 0;
    for (int r = 0; r < world.size(); ++r) {
      if (r / ep == world.rank() / ep) expert_set += 1 << r;
      if (r % ep == world.rank() % ep) data_set += 1 << r;
    }
    EXPECT_EQ(values(all)[0], (1 << world.size()) - 1);
    EXPECT_EQ(values(expert)[0], expert_set) << "ep " << ep;
    EXPECT_EQ(values(data)[0], data_set) << "ep " << ep;
  }
}

inline void split_orders_members_by_key_and_splits_again(Communicator& world) {
  const auto reversed = world.split(3, -world.rank());
  EXPECT_EQ(reversed->rank(), world.size() - 1 - world.rank());
  const auto as_before = world.split(world.rank() % 2, 0);
  EXPECT_EQ(as_before->rank(), world.rank() / 2);
  const auto alone = reversed->split(reversed->rank(), 0);
  EXPECT_EQ(alone->size(), 1);
  for (Communicator* group : {reversed.get(), as_before.get(), alone.get()}) {
    Exchange rows(*group, DType::f32, 3, [](int from, int to) { return 1 + (from + 2 * to) % 3; });
    rows.start(*group).wait();
    rows.check();
  }
}

/// In a group of a group, too, messages name ranks of the world.
inline void errors_in_a_group_name_world_ranks(Communicator& world) {
  if (world.size() < 2) return;
  const auto reversed = world.split(0, -world.rank());
  Exchange wrong(*reversed, DType::f32, 1, [](int, int) { return 1; });
  const int last = world.size() - 1;
  if (world.rank() == last) {  // it is rank 0 of the group
    wrong.send.back() = 5;
    wrong.in = Tensor::zeros({world.size() + 4, 1}, DType::f32);
  }
  const std::string error = error_of([&] { wrong.start(*reversed).wait(); });
  if (world.rank() == 0 || world.rank() == last) {
    EXPECT_EQ(error, str("all_to_all: rank ", last, " sends 5 rows to rank 0, which expects 1"));
  }
}

/// Random numbers, whose sums depend on the order of additions; ranks arrive in different orders.
inline void sums_repeat_to_the_bit(Communicator& world) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (const std::int64_t n : {3, 600, 5000, 50000}) {
      const Philox random(11, RandomPurpose::test, {std::uint64_t(world.rank())});
      const std::int64_t parts = n / world.size();
      const Tensor in = filled({parts * world.size()}, dtype,
                               [&](auto i) { return random.uniform(std::uint64_t(i)); });
      Tensor first_sum, first_part;
      for (int round = 0; round < 5; ++round) {
        const Tensor sum = in.clone(), part = Tensor::empty({parts}, dtype);
        stagger(world, round);
        Pending reduced = world.all_reduce(sum, ReduceOp::sum);
        Pending scattered = world.reduce_scatter(part, in);
        scattered.wait();
        reduced.wait();
        if (round == 0) {
          first_sum = sum;
          first_part = part;
        }
        EXPECT_TRUE(same_bits(sum, first_sum)) << name(dtype) << " " << n << " round " << round;
        EXPECT_TRUE(same_bits(part, first_part)) << name(dtype) << " " << n << " round " << round;
      }
      // Replicas stay equal only if every rank holds the very same sum.
      const Tensor of_root = first_sum.clone();
      world.broadcast(of_root, 0).wait();
      EXPECT_TRUE(same_bits(of_root, first_sum)) << name(dtype) << " " << n;
    }
}

inline void progress_without_collectives_does_nothing(Communicator& world) {
  for (int i = 0; i < 3; ++i) world.progress();
}

struct Check {
  const char* name;
  void (*run)(Communicator& world);
};
inline void PrintTo(const Check& check, std::ostream* out) { *out << check.name; }

inline const std::vector<Check> kChecks = {
    {"AllReduceSumsAndTakesTheMaximum", all_reduce_sums_and_takes_the_maximum},
    {"AllReduceTakesTheMaximumOfNegativeValues", all_reduce_takes_the_maximum_of_negative_values},
    {"Bf16SumsAreMadeInF32", bf16_sums_are_made_in_f32},
    {"ReduceScatterGivesEachRankItsPart", reduce_scatter_gives_each_rank_its_part},
    {"UnevenPartsAreScatteredAndGathered", uneven_parts_are_scattered_and_gathered},
    {"LargePartsAreScatteredAndGathered", large_parts_are_scattered_and_gathered},
    {"Bf16PartsAreSummedIntoF32", bf16_parts_are_summed_into_f32},
    {"AllGatherKeepsRankOrder", all_gather_keeps_rank_order},
    {"AllToAllMovesUnevenRows", all_to_all_moves_uneven_rows},
    {"CollectivesWorkWithoutAnyRows", collectives_work_without_any_rows},
    {"BroadcastWorksFromEveryRoot", broadcast_works_from_every_root},
    {"BarrierHoldsUntilAllHaveCome", barrier_holds_until_all_have_come},
    {"CollectivesInFlightFinishInAnyOrder", collectives_in_flight_finish_in_any_order},
    {"SplitWorksWithCollectivesInFlight", split_works_with_collectives_in_flight},
    {"TestMovesACollectiveToItsEnd", test_moves_a_collective_to_its_end},
    {"APendingWaitsWhenItEndsOrIsReplaced", a_pending_waits_when_it_ends_or_is_replaced},
    {"TensorsLiveUntilTheEnd", tensors_live_until_the_end},
    {"RowCountsThatDisagreeNameBothRanks", row_counts_that_disagree_name_both_ranks},
    {"WrongArgumentsAreRefused", wrong_arguments_are_refused},
    {"EveryRankIsInTheRightGroups", every_rank_is_in_the_right_groups},
    {"SplitOrdersMembersByKeyAndSplitsAgain", split_orders_members_by_key_and_splits_again},
    {"ErrorsInAGroupNameWorldRanks", errors_in_a_group_name_world_ranks},
    {"SumsRepeatToTheBit", sums_repeat_to_the_bit},
    {"ProgressWithoutCollectivesDoesNothing", progress_without_collectives_does_nothing},
};

}  // namespace moe::checks
