// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cudnn_attention.h"

#include <compare>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "core/log.h"
#include "core/memory.h"
#include "kernels/cuda/attention_graph.h"
#include "kernels/cuda/cudnn_plan.h"

namespace moe {
namespace {

constexpr std::int64_t kMaxHeadDim = 256, kLengthStep = 64;

/// All that a plan depends on. Length stands for that of queries and keys, which are the same here.
struct PlanKey {
  bool backward, documents;
  std::int64_t batch, length, heads, kv_heads, head_dim, row_heads, row_kv_heads;
  auto operator<=>(const PlanKey&) const = default;
};

class CudnnAttention final : public Attention {
 public:
  CudnnAttention(const CudnnTarget& target, std::unique_ptr<Attention> others,
                 std::int64_t score_bytes)
      : target_(target), others_(std::move(others)), score_bytes_(score_bytes) {}

  void forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& starts, const AttentionShape& shape) override {
    const AttentionPart whole{shape, shape.heads, shape.kv_heads};
    const CudnnPlan* plan = plan_for(false, starts.defined(), shape, whole, q.dtype());
    if (plan == nullptr) return others_->forward(out, lse, q, k, v, starts, shape);
    const std::shared_ptr<std::byte> workspace = allocate(q.device(), plan->workspace_bytes());
    std::vector<void*> arguments = {q.bytes(), k.bytes(), v.bytes(), out.bytes(), lse.bytes()};
    if (starts.defined()) arguments.push_back(starts.bytes());
    plan->run(target_.handle, arguments, workspace.get());
  }

  void backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                const Tensor& starts, const AttentionShape& shape) override {
    const AttentionPart part = backward_part(shape, score_bytes_);
    const CudnnPlan* plan = plan_for(true, starts.defined(), shape, part, q.dtype());
    if (plan == nullptr)
      return others_->backward(dq, dk, dv, dout, q, k, v, out, lse, starts, shape);
    const std::shared_ptr<std::byte> workspace = allocate(q.device(), plan->workspace_bytes());
    const Tensor delta = Tensor::empty({part.shape.batch, part.shape.heads, part.shape.q_length},
                                       DType::f32, q.device());
    for (std::int64_t b = 0; b < shape.batch; b += part.shape.batch)
      for (std::int64_t g = 0; g < shape.kv_heads; g += part.shape.kv_heads) {
        const std::int64_t h = g * (shape.heads / shape.kv_heads), length = shape.q_length;
        // Of sequence b and head h (g).
        const auto query = [&](const Tensor& t) {
          return t.bytes() + 2 * (b * length * shape.heads + h) * shape.head_dim;
        };
        const auto key = [&](const Tensor& t) {
          return t.bytes() + 2 * (b * length * shape.kv_heads + g) * shape.head_dim;
        };
        std::byte* const lse_here = lse.bytes() + 4 * (b * shape.heads + h) * length;
        std::vector<void*> arguments = {query(q), key(k),        key(v),    query(out), query(dout),
                                        lse_here, delta.bytes(), query(dq), key(dk),    key(dv)};
        if (starts.defined()) arguments.push_back(starts.bytes() + 4 * b * length);
        plan->run(target_.handle, arguments, workspace.get());
      }
  }

 private:
  /// Null when `others_` must do it.
  const CudnnPlan* plan_for(bool backward, bool documents, const AttentionShape& shape,
                            const AttentionPart& part, DType dtype) {
    const std::string objection = why_not_cudnn(shape, dtype, target_.capability);
    if (!objection.empty()) {
      if (dtype == DType::bf16) say(shape, objection);
      return nullptr;
    }
    const AttentionShape& s = part.shape;
    const PlanKey key{backward,   documents,  s.batch,        s.q_length,       s.heads,
                      s.kv_heads, s.head_dim, part.row_heads, part.row_kv_heads};
    const auto [entry, is_new] = plans_.try_emplace(key);
    if (is_new) {
      std::string refusal;
      entry->second = CudnnPlan::make(backward ? attention_backward_graph(part, documents)
                                               : attention_forward_graph(part, documents),
                                      target_, refusal);
      if (entry->second == nullptr)
        say(shape, str(backward ? "backward" : "forward", documents ? " within documents: " : ": ",
                       refusal));
    }
    return entry->second.get();
  }

  void say(const AttentionShape& s, const std::string& reason) {
    if (said_.insert(reason).second)
      log_info(
          "attention (length {}, {}/{} heads of {}) does not run by cuDNN but by own, slower "
          "kernels: {}",
          s.q_length, s.heads, s.kv_heads, s.head_dim, reason);
  }

  const CudnnTarget target_;
  const std::unique_ptr<Attention> others_;
  const std::int64_t score_bytes_;
  std::map<PlanKey, std::unique_ptr<CudnnPlan>> plans_;  // null where cuDNN has none
  std::set<std::string> said_;
};

}  // namespace

std::string why_not_cudnn(const AttentionShape& s, DType dtype, int capability) {
  if (dtype != DType::bf16) return str("its type is ", name(dtype));
  // Blackwell's kernels repeat to the bit only by settings that differ from release to release.
  if (capability < 80 || capability >= 100)
    return str("a device of compute capability ", capability / 10, ".", capability % 10);
  if (s.head_dim % 8 != 0 || s.head_dim > kMaxHeadDim)
    return str("heads must be of a multiple of 8 up to ", kMaxHeadDim);
  if (s.q_length != s.kv_length) return "queries that follow a cache";
  if (s.q_length % kLengthStep != 0) return str("lengths must be multiples of ", kLengthStep);
  if (s.batch * s.q_length * s.heads == 0) return "no queries";
  return "";
}

std::unique_ptr<Attention> cudnn_attention(const CudnnTarget& target,
                                           std::unique_ptr<Attention> others,
                                           std::int64_t score_bytes) {
  return std::make_unique<CudnnAttention>(target, std::move(others), score_bytes);
}

}  // namespace moe
