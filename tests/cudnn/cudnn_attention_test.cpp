// SPDX-License-Identifier: Apache-2.0
// cuDNN plans attention for a device that is only described, with a driver that does nothing
// (fake_driver.cpp); what it would run is computed by hand from the graph, on the memory that it
// was given. What cuDNN's kernels themselves compute, and how fast, only a device can show.
#include "kernels/cuda/cudnn_attention.h"

#include <cudnn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cudnn/described_device.h"
#include "cudnn/recorded_graph.h"
#include "kernels/cuda/attention_graph.h"
#include "kernels/cuda/cudnn_plan.h"
#include "support/document_starts.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;
using ::testing::HasSubstr;

constexpr int kHopper = 90;

std::string description(const AttentionShape& s) {
  return str("batch ", s.batch, " length ", s.q_length, " heads ", s.heads, "/", s.kv_heads, " of ",
             s.head_dim);
}

std::unique_ptr<CudnnPlan> plan_of(const TensorGraph& graph, std::string& refusal,
                                   int capability = kHopper) {
  return CudnnPlan::make(graph, described_device(capability), refusal);
}

std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

/// Plans for forward and for a part of backward, and their memory, as cudnn_attention.h states it.
void expect_plans(const AttentionShape& shape, int capability = kHopper, bool documents = false) {
  SCOPED_TRACE(str(description(shape), documents ? " in documents" : ""));
  ASSERT_EQ(why_not_cudnn(shape, DType::bf16, capability), "");
  std::string refusal;
  const auto forward =
      plan_of(attention_forward_graph({shape, shape.heads, shape.kv_heads}, documents), refusal,
              capability);
  ASSERT_NE(forward, nullptr) << refusal;
  EXPECT_LE(forward->workspace_bytes(), 4096u);

  const AttentionPart part = backward_part(shape, kMaxScoreBytes);
  const auto backward = plan_of(attention_backward_graph(part, documents), refusal, capability);
  ASSERT_NE(backward, nullptr) << refusal;
  const AttentionShape& s = part.shape;
  const std::int64_t scores =
      2 * s.batch * s.heads * round_up(s.q_length, 64) * round_up(s.kv_length, 128);
  EXPECT_LE(scores, kMaxScoreBytes);
  const std::int64_t full_heads =
      s.heads == s.kv_heads ? 0 : 2 * 2 * s.batch * s.heads * s.kv_length * s.head_dim;
  EXPECT_GE(std::int64_t(backward->workspace_bytes()), scores + full_heads);
  EXPECT_LE(std::int64_t(backward->workspace_bytes()), scores + full_heads + 4096);
}

TEST(CudnnAttention, HasPlansForTheModelsThatWeTrain) {
  expect_plans({1, 4096, 4096, 32, 32, 128});  // LLaMA-2 7B, so LLaMA-MoE-3.5B
  expect_plans({8, 2048, 2048, 32, 32, 128});
  expect_plans({1, 8192, 8192, 32, 8, 128});  // LLaMA-3 8B
  expect_plans({4, 1024, 1024, 32, 8, 64});
  expect_plans({1, 64, 64, 4, 2, 8});
}

TEST(CudnnAttention, HasPlansForDocuments) {
  expect_plans({2, 4096, 4096, 32, 32, 128}, kHopper, true);
  expect_plans({4, 2048, 2048, 32, 8, 128}, kHopper, true);
}

TEST(CudnnAttention, HasPlansForAmpere) { expect_plans({2, 4096, 4096, 32, 8, 128}, 80); }

TEST(CudnnAttentionSlow, HasPlansForAllOrdinaryShapes) {
  for (const std::int64_t head_dim : {64, 128})
    for (const std::int64_t kv_heads : {8, 32})
      for (const std::int64_t length : {1024, 2048, 4096, 8192})
        for (const std::int64_t batch : {1, 2, 4, 8})
          expect_plans({batch, length, length, 32, kv_heads, head_dim});
  expect_plans({1, 4096, 4096, 32, 32, 256});
  expect_plans({1, 4096, 4096, 40, 40, 128});
  expect_plans({1, 4096, 4096, 32, 1, 80});
}

/// The node of this operation that comes first.
TensorGraph::Node& first(TensorGraph& graph, TensorGraph::Op op) {
  return *std::find_if(graph.nodes.begin(), graph.nodes.end(),
                       [&](const TensorGraph::Node& n) { return n.op == op; });
}

// A mask or a scale that is wrong has a plan: cuDNN takes any computation on the scores. What the
// graphs mean is tested in tests/emulated/attention_graph_test.cpp.
TEST(CudnnAttention, AGraphWithoutSoftmaxOrItsStatisticsHasNoPlan) {
  const AttentionShape shape = {1, 1024, 1024, 8, 8, 64};
  using Op = TensorGraph::Op;
  const auto has_no_plan = [&](auto change) {
    TensorGraph graph = attention_forward_graph({shape, 8, 8}, false);
    change(graph);
    std::string refusal;
    EXPECT_EQ(plan_of(graph, refusal), nullptr);
    EXPECT_NE(refusal, "");
  };
  has_no_plan([](TensorGraph& g) { first(g, Op::maximum).op = Op::sum; });
  has_no_plan([](TensorGraph& g) { first(g, Op::exp).op = Op::log; });
  has_no_plan([](TensorGraph& g) { first(g, Op::divide).op = Op::multiply; });
  has_no_plan([](TensorGraph& g) { first(g, Op::add).op = Op::subtract; });
  has_no_plan([](TensorGraph& g) {
    std::erase_if(g.nodes, [](const auto& n) { return n.op == Op::log || n.op == Op::add; });
  });
}

TEST(CudnnAttention, IsAskedForWhatItServesAlone) {
  const AttentionShape good = {2, 512, 512, 8, 2, 128};
  EXPECT_EQ(why_not_cudnn(good, DType::bf16, 80), "");
  EXPECT_EQ(why_not_cudnn(good, DType::bf16, 90), "");
  const auto refuses = [&](auto change, const std::string& word, DType dtype = DType::bf16,
                           int capability = kHopper) {
    AttentionShape s = good;
    change(s);
    EXPECT_THAT(why_not_cudnn(s, dtype, capability), HasSubstr(word)) << description(s);
  };
  const auto same = [](AttentionShape&) {};
  refuses(same, "f32", DType::f32);
  refuses(same, "f64", DType::f64);
  refuses(same, "7.5", DType::bf16, 75);
  refuses(same, "10.0", DType::bf16, 100);
  refuses([](AttentionShape& s) { s.head_dim = 100; }, "multiple of 8");
  refuses([](AttentionShape& s) { s.head_dim = 264; }, "256");
  refuses([](AttentionShape& s) { s.q_length = 1; }, "cache");
  refuses([](AttentionShape& s) { s.q_length = s.kv_length = 500; }, "multiples of 64");
  refuses([](AttentionShape& s) { s.batch = 0; }, "no queries");
}

TEST(CudnnAttention, SaysWhatIsWrongWithTheLibrary) {
  EXPECT_EQ(cudnn_mismatch(cudnnGetVersion(), cudnnGetCudartVersion()), "");
  EXPECT_EQ(cudnn_mismatch(CUDNN_VERSION + 100, 13010), "");
  EXPECT_THAT(cudnn_mismatch(90100, 13000), HasSubstr("cuDNN 9.1.0 was loaded"));
  EXPECT_THAT(cudnn_mismatch(100000, 13000), HasSubstr("cuDNN 10.0.0 was loaded"));
  EXPECT_THAT(cudnn_mismatch(CUDNN_VERSION, 12090), HasSubstr("CUDA 12"));
}

/// Stands in for the kernels of what cuDNN does not serve.
class Others final : public Attention {
 public:
  explicit Others(int& calls) : calls_(calls) {}
  void forward(Tensor&, Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
               const AttentionShape&) override {
    ++calls_;
  }
  void backward(Tensor&, Tensor&, Tensor&, const Tensor&, const Tensor&, const Tensor&,
                const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                const AttentionShape&) override {
    ++calls_;
  }

 private:
  int& calls_;
};

/// Tensors of an attention; results are poisoned.
struct Tensors {
  Tensor q, k, v, dout, out, lse, dq, dk, dv;
  Tensors(const AttentionShape& s, DType dtype)
      : q(random_tensor({s.batch * s.q_length, s.heads * s.head_dim}, dtype, 1)),
        k(random_tensor({s.batch * s.kv_length, s.kv_heads * s.head_dim}, dtype, 2)),
        v(random_tensor(k.shape(), dtype, 3)),
        dout(random_tensor(q.shape(), dtype, 4)),
        out(poisoned(q.shape(), dtype)),
        lse(poisoned({s.batch, s.heads, s.q_length}, accumulator(dtype))),
        dq(poisoned(q.shape(), dtype)),
        dk(poisoned(k.shape(), dtype)),
        dv(poisoned(k.shape(), dtype)) {}
  void run(Attention& attention, const AttentionShape& s, const Tensor& starts = {}) {
    attention.forward(out, lse, q, k, v, starts, s);
    attention.backward(dq, dk, dv, dout, q, k, v, out, lse, starts, s);
  }
};

TEST(CudnnAttention, LeavesTheRestToOthersAndSaysSoOnce) {
  int calls = 0;
  const auto attention =
      cudnn_attention(described_device(kHopper), std::make_unique<Others>(calls));
  const AttentionShape odd = {1, 10, 10, 2, 1, 8}, good = {1, 64, 64, 2, 1, 8};
  Tensors in_f32(good, DType::f32), in_bf16(odd, DType::bf16);
  ::testing::internal::CaptureStderr();
  in_f32.run(*attention, good);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 3; ++i) in_bf16.run(*attention, odd);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr("multiples of 64"));
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_EQ(calls, 8);
}

TEST(CudnnAttention, LeavesWhatHasNoPlanToOthers) {
  int calls = 0;
  CudnnTarget turing = described_device(75);
  turing.capability = kHopper;  // so that cuDNN itself has to refuse
  const auto attention = cudnn_attention(turing, std::make_unique<Others>(calls));
  const AttentionShape shape = {1, 64, 64, 2, 1, 8};
  Tensors t(shape, DType::bf16);
  ::testing::internal::CaptureStderr();
  t.run(*attention, shape);
  t.run(*attention, shape);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("own, slower kernels: forward"));
  EXPECT_EQ(calls, 4);
}

TEST(CudnnAttention, TellsCudnnToComputeAttention) {
  const std::int64_t head_bytes = 2 * 64 * 64;
  struct Case {
    AttentionShape shape;
    std::int64_t score_bytes;
    int parts;
  };
  for (const Case& c : {Case{{2, 64, 64, 4, 2, 8}, kMaxScoreBytes, 1},
                        Case{{4, 64, 64, 2, 2, 8}, 4 * head_bytes, 2},
                        Case{{2, 64, 64, 4, 2, 8}, 2 * head_bytes, 4},
                        Case{{1, 64, 64, 6, 6, 16}, 3 * head_bytes, 2}}) {
    for (const bool documents : {false, true}) {
      if (documents && c.parts == 2) continue;  // a plan takes a second
      SCOPED_TRACE(str(description(c.shape), " in ", c.parts, " parts, documents: ", documents));
      const Tensor starts = documents ? random_documents(c.shape.batch, 64, 40) : Tensor();
      executed_graphs().clear();
      int calls = 0;
      const auto attention = cudnn_attention(described_device(kHopper),
                                             std::make_unique<Others>(calls), c.score_bytes);
      Tensors t(c.shape, DType::bf16), expected(c.shape, DType::bf16);
      t.run(*attention, c.shape, starts);
      EXPECT_EQ(calls, 0);
      EXPECT_EQ(std::int64_t(executed_graphs().size()), 1 + c.parts);
      cpu_backend().attention_forward(expected.out, expected.lse, t.q, t.k, t.v, starts, c.shape);
      cpu_backend().attention_backward(expected.dq, expected.dk, expected.dv, t.dout, t.q, t.k, t.v,
                                       expected.out, expected.lse, starts, c.shape);
      for (const auto& [mine, other] : {std::pair(t.out, expected.out),
                                        {t.lse, expected.lse},
                                        {t.dq, expected.dq},
                                        {t.dk, expected.dk},
                                        {t.dv, expected.dv}})
        EXPECT_TRUE(near(mine, to_doubles(other), 6e-3));
    }
  }
}

}  // namespace
}  // namespace moe
