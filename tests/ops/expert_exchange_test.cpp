// SPDX-License-Identifier: Apache-2.0
#include "ops/expert_exchange.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "comm/process_grid.h"
#include "kernels/backend.h"
#include "ops/experts.h"
#include "support/grad_check.h"

namespace moe {
namespace {

using Counts = std::vector<std::int64_t>;

Tensor random(Shape shape, DType dtype, std::initializer_list<std::uint64_t> key) {
  Tensor t = Tensor::empty(std::move(shape), DType::f64), cast = t;
  const Philox stream(5, RandomPurpose::test, key);
  for (std::int64_t i = 0; i < t.size(); ++i)
    t.data<double>()[i] = 0.3 * stream.normal(std::uint64_t(i));
  if (dtype == DType::f64) return t;
  cast = Tensor::empty(t.shape(), dtype);
  backend(Device::cpu).cast(cast, t);
  return cast;
}

/// rows(rank, expert) rows from each rank for each expert, through experts of hidden width `width`
/// and 3 + expert neurons times `scale`.
struct Case {
  std::int64_t experts, width, scale;
  std::function<std::int64_t(int rank, std::int64_t expert)> rows;

  Counts neurons() const {
    Counts offsets = {0};
    for (std::int64_t e = 0; e < experts; ++e) offsets.push_back(offsets.back() + (3 + e) * scale);
    return offsets;
  }
  Tensor weight(std::uint64_t which, DType dtype) const {
    return random({neurons().back(), width}, dtype, {which});
  }
  /// kind 0: inputs, 1: gradients of the outputs.
  Tensor rows_of(int rank, std::int64_t expert, std::uint64_t kind, DType dtype) const {
    return random({rows(rank, expert), width}, dtype,
                  {9, std::uint64_t(rank), std::uint64_t(expert), kind});
  }
};

Tensor stacked(const std::vector<Tensor>& parts, std::int64_t width, DType dtype) {
  std::int64_t rows = 0;
  for (const Tensor& t : parts) rows += t.rows();
  Tensor all = Tensor::empty({rows, width}, dtype);
  rows = 0;
  for (const Tensor& t : parts) {
    all.slice(rows, t.rows()).copy_from(t);
    rows += t.rows();
  }
  return all;
}

/// y and dx of this rank's rows by (expert, row), and the weight gradients of its experts.
struct Result {
  Tensor y, dx, dgate, dup, ddown;
};

/// The op on this rank of `world`.
Result run(Communicator& world, const Case& c, std::int64_t chunks, DType dtype) {
  const ops::ExpertChunks cut(c.experts, world.size(), chunks);
  const Tensor order = cut.order();
  std::vector<Tensor> x, dy;
  Counts sent(std::size_t(c.experts), 0);
  for (std::int64_t i = 0; i < c.experts; ++i) {
    const std::int64_t e = order.data<std::int32_t>()[i];
    x.push_back(c.rows_of(world.rank(), e, 0, dtype));
    dy.push_back(c.rows_of(world.rank(), e, 1, dtype));
    sent[std::size_t(e)] = x.back().rows();
  }
  const Share own = share_of(c.experts, world.rank(), world.size());
  const Counts all = c.neurons();
  Counts neurons(all.begin() + own.first, all.begin() + own.first + own.count + 1);
  const std::int64_t first = neurons.front();
  for (std::int64_t& n : neurons) n -= first;
  const auto mine = [&](std::uint64_t which) {
    return Variable::leaf(c.weight(which, dtype).slice(first, neurons.back()));
  };
  const Variable in = Variable::leaf(stacked(x, c.width, dtype)), gate = mine(0), up = mine(1),
                 down = mine(2);
  Tape tape;
  const Variable y = ops::exchange_experts(in, gate, up, down, neurons, cut,
                                           ops::exchange_counts(sent, world), world, 0);
  const Tensor grad = stacked(dy, c.width, dtype);
  tape.backward(std::span(&y, 1), std::span(&grad, 1));

  // Back from the order of sending to the order of experts.
  std::vector<Tensor> ys(std::size_t(c.experts)), dxs = ys;
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < c.experts; ++i) {
    const auto e = std::size_t(order.data<std::int32_t>()[i]);
    ys[e] = y.value.slice(row, sent[e]);
    dxs[e] = in.slot->grad.slice(row, sent[e]);
    row += sent[e];
  }
  return {stacked(ys, c.width, dtype), stacked(dxs, c.width, dtype), gate.slot->grad, up.slot->grad,
          down.slot->grad};
}

/// What `rank` of `ranks` must get: all rows through all experts in one place.
Result expected(const Case& c, int rank, int ranks, DType dtype) {
  std::vector<Tensor> x, dy;
  Counts offsets = {0};
  for (std::int64_t e = 0; e < c.experts; ++e) {
    offsets.push_back(offsets.back());
    for (int r = 0; r < ranks; ++r) {
      x.push_back(c.rows_of(r, e, 0, dtype));
      dy.push_back(c.rows_of(r, e, 1, dtype));
      offsets.back() += c.rows(r, e);
    }
  }
  const Variable in = Variable::leaf(stacked(x, c.width, dtype)),
                 gate = Variable::leaf(c.weight(0, dtype)), up = Variable::leaf(c.weight(1, dtype)),
                 down = Variable::leaf(c.weight(2, dtype));
  Tape tape;
  const Variable y = ops::expert_ffn(in, gate, up, down, offsets, c.neurons());
  const Tensor grad = stacked(dy, c.width, dtype);
  tape.backward(std::span(&y, 1), std::span(&grad, 1));
  std::vector<Tensor> ys, dxs;
  std::int64_t row = 0;
  for (std::int64_t e = 0; e < c.experts; ++e)
    for (int r = 0; r < ranks; ++r) {
      if (r == rank) {
        ys.push_back(y.value.slice(row, c.rows(r, e)));
        dxs.push_back(in.slot->grad.slice(row, c.rows(r, e)));
      }
      row += c.rows(r, e);
    }
  const Share own = share_of(c.experts, rank, ranks);
  const Counts neurons = c.neurons();
  const std::int64_t first = neurons[std::size_t(own.first)],
                     count = neurons[std::size_t(own.first + own.count)] - first;
  return {stacked(ys, c.width, dtype), stacked(dxs, c.width, dtype),
          gate.slot->grad.slice(first, count), up.slot->grad.slice(first, count),
          down.slot->grad.slice(first, count)};
}

/// The first tensor whose bits differ.
std::string difference(const Result& a, const Result& b) {
  const auto differs = [](const Tensor& x, const Tensor& y) {
    return x.shape() != y.shape() || x.dtype() != y.dtype() ||
           (x.nbytes() > 0 && std::memcmp(x.bytes(), y.bytes(), x.nbytes()) != 0);
  };
  if (differs(a.y, b.y)) return "y";
  if (differs(a.dx, b.dx)) return "dx";
  if (differs(a.dgate, b.dgate)) return "dgate";
  if (differs(a.dup, b.dup)) return "dup";
  if (differs(a.ddown, b.ddown)) return "ddown";
  return "";
}

/// Two experts without rows, a rank without tokens.
const Case kUneven = {7, 6, 1, [](int rank, std::int64_t e) {
                        return rank == 1 || e == 2 || e == 6 ? 0 : (rank * 3 + e * 5) % 4 + 1;
                      }};

TEST(ExpertExchange, EqualsAllExpertsInOnePlaceToTheBit) {
  for (const int ranks : {2, 3})
    for (const std::int64_t chunks : {1, 2, 4, 100})
      run_ranks(ranks, [&](Communicator& world) {
        EXPECT_EQ(difference(run(world, kUneven, chunks, DType::f64),
                             expected(kUneven, world.rank(), ranks, DType::f64)),
                  "")
            << ranks << " ranks, " << chunks << " chunks, rank " << world.rank();
      });
}

TEST(ExpertExchange, WorksWithoutAnyTokenAndWithAllAtOneExpert) {
  for (const std::int64_t busy : {std::int64_t{-1}, std::int64_t{4}}) {
    const Case c = {5, 4, 1,
                    [busy](int, std::int64_t e) { return std::int64_t(e == busy ? 9 : 0); }};
    for (const std::int64_t chunks : {1, 3})
      run_ranks(2, [&](Communicator& world) {
        EXPECT_EQ(
            difference(run(world, c, chunks, DType::f64), expected(c, world.rank(), 2, DType::f64)),
            "");
      });
  }
}

/// Products large enough to be cut into tiles, whose size depends on how many there are.
TEST(ExpertExchange, ChunksChangeNoBit) {
  const Case c = {5, 96, 40,
                  [](int rank, std::int64_t e) { return (rank * 61 + e * 37) % 90 + 20; }};
  for (const int threads : {1, omp_get_max_threads()})
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
      run_ranks(2, [&](Communicator& world) {
        omp_set_num_threads(threads);
        const Result whole = run(world, c, 1, dtype);
        for (const std::int64_t chunks : {2, 3})
          EXPECT_EQ(difference(run(world, c, chunks, dtype), whole), "")
              << name(dtype) << ", " << chunks << " chunks, " << threads << " threads";
      });
}

TEST(ExpertExchange, OrderIsByChunkThenMemberThenExpert) {
  const auto order = [](const ops::ExpertChunks& c) {
    const Tensor t = c.order();
    return std::vector<std::int32_t>(t.data<std::int32_t>(), t.data<std::int32_t>() + t.size());
  };
  EXPECT_EQ(order({7, 2, 2}), (std::vector<std::int32_t>{0, 1, 4, 5, 2, 3, 6}));
  EXPECT_EQ(order({7, 2, 1}), (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(ops::ExpertChunks(7, 2, 9).chunks, 4);
}

}  // namespace
}  // namespace moe
