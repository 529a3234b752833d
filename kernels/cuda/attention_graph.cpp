// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_graph.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

// cuDNN knows attention by the pattern of a graph. Which operations stand in which order, what is
// inner, and which inner values are bf16 is part of that pattern (NVIDIA's cudnn-frontend 1.x has
// it as scaled_dot_product_flash_attention.h): the least change may make it fall to no kernel at
// all.

namespace moe {
namespace {

using Op = TensorGraph::Op;
using Type = TensorGraph::Type;
using Extents = TensorGraph::Extents;

// Score of a key before the query's document. A row may have whole tiles of them before the first
// key that it sees. The largest score so far is finite then, and what the softmax has summed up to
// there is made exactly 0 by the first score that counts; -inf - -inf would be NaN.
constexpr double kHidden = -1e30;

Extents transposed(const Extents& e) { return {e[0], e[1], e[3], e[2]}; }

class Builder {
 public:
  explicit Builder(const AttentionPart& part)
      : s_(part.shape),
        queries_{s_.batch, s_.heads, s_.q_length, s_.head_dim},
        keys_{s_.batch, s_.kv_heads, s_.kv_length, s_.head_dim},
        scores_{s_.batch, s_.heads, s_.q_length, s_.kv_length},
        rows_{s_.batch, s_.heads, s_.q_length, 1},
        query_strides_(strides(s_.q_length, part.row_heads)),
        key_strides_(strides(s_.kv_length, part.row_kv_heads)) {}

  int query_argument(const char* name) {
    return graph.argument(name, queries_, query_strides_, Type::bf16);
  }
  int key_argument(const char* name) {
    return graph.argument(name, keys_, key_strides_, Type::bf16);
  }
  /// [head_dim, keys] for each head.
  int transposed_key_argument(const char* name) {
    return graph.argument(name, transposed(keys_), transposed(key_strides_), Type::bf16);
  }
  int row_argument(const char* name) {
    return graph.argument(name, rows_, TensorGraph::packed(rows_), Type::f32);
  }

  /// Where each query's document begins.
  void starts_argument() {
    const Extents dims = {s_.batch, 1, s_.q_length, 1};
    starts_ = graph.argument("starts", dims, TensorGraph::packed(dims), Type::i32);
  }

  int on_scores(Op op, std::vector<int> inputs, const char* name, Type type = Type::f32) {
    return graph.node(op, std::move(inputs), graph.inner(name, scores_, type));
  }
  int on_rows(Op op, std::vector<int> inputs, const char* name) {
    return graph.node(op, std::move(inputs), graph.inner(name, rows_));
  }
  int on_queries(Op op, std::vector<int> inputs, const char* name) {
    return graph.node(op, std::move(inputs), graph.inner(name, queries_));
  }

  int scale() { return graph.constant("scale", 1 / std::sqrt(double(s_.head_dim))); }

  /// scores where the key is not after the query and, given starts, not before its document, else
  /// -inf.
  int masked(int scores) {
    const int row = on_scores(Op::row_index, {scores}, "row", Type::i32);
    const int column = on_scores(Op::column_index, {scores}, "column", Type::i32);
    const int seen = on_scores(Op::at_least, {row, column}, "seen", Type::boolean);
    const int never = graph.constant("never", -std::numeric_limits<double>::infinity());
    const int causal = on_scores(Op::select, {scores, never, seen}, "causal");
    if (starts_ < 0) return causal;
    const int inside = on_scores(Op::at_least, {column, starts_}, "inside", Type::boolean);
    return on_scores(Op::select, {causal, graph.constant("hidden", kHidden), inside},
                     "within_document");
  }

  /// y = scores^T x, summed over the heads that share a key: dk and dv.
  void to_keys(int scores, int x, int y, const std::string& name) {
    const int weights = transpose(scores, name + "_weights", Type::bf16);
    if (s_.heads == s_.kv_heads) {
      graph.node(Op::matmul, {weights, x}, y);
      return;
    }
    const int each = graph.inner(name + "_of_heads",
                                 {s_.batch, s_.heads, s_.kv_length, s_.head_dim}, Type::bf16);
    graph.node(Op::sum, {graph.node(Op::matmul, {weights, x}, each)}, y);
  }

  /// The transpose of each head's matrix, where it lies.
  int transpose(int x, const std::string& name, Type type) {
    const Extents dims = transposed(graph.values[std::size_t(x)].dims);
    const Extents strides = transposed(graph.values[std::size_t(x)].strides);
    const int y = graph.inner(name, dims, type);
    graph.values[std::size_t(y)].strides = strides;
    return graph.node(Op::reshape, {x}, y);
  }

  TensorGraph graph;

 private:
  Extents strides(std::int64_t length, std::int64_t heads) const {
    return {length * heads * s_.head_dim, s_.head_dim, heads * s_.head_dim, 1};
  }

  int starts_ = -1;  // an argument, if there is one
  const AttentionShape s_;
  const Extents queries_, keys_, scores_, rows_, query_strides_, key_strides_;
};

/// The largest divisor of n that is at most `limit`, 1 at least.
std::int64_t divisor_up_to(std::int64_t n, std::int64_t limit) {
  std::int64_t d = std::max<std::int64_t>(std::min(limit, n), 1);
  while (n % d != 0) --d;
  return d;
}

}  // namespace

AttentionPart backward_part(const AttentionShape& shape, std::int64_t score_bytes) {
  AttentionPart part{shape, shape.heads, shape.kv_heads};
  const std::int64_t heads =
      score_bytes / std::max<std::int64_t>(2 * shape.q_length * shape.kv_length, 1);
  if (heads >= shape.heads) {
    part.shape.batch = divisor_up_to(shape.batch, heads / shape.heads);
  } else {
    const std::int64_t group = shape.heads / shape.kv_heads;
    part.shape.batch = 1;
    part.shape.kv_heads = divisor_up_to(shape.kv_heads, heads / group);
    part.shape.heads = part.shape.kv_heads * group;
  }
  return part;
}

TensorGraph attention_forward_graph(const AttentionPart& part, bool documents) {
  Builder b(part);
  const int q = b.query_argument("q"), k = b.transposed_key_argument("k"), v = b.key_argument("v");
  const int out = b.query_argument("out"), lse = b.row_argument("lse");
  if (documents) b.starts_argument();
  const int products = b.on_scores(Op::matmul, {q, k}, "products");
  const int scores = b.masked(b.on_scores(Op::multiply, {products, b.scale()}, "scores"));
  const int largest = b.on_rows(Op::maximum, {scores}, "largest");
  const int shifted = b.on_scores(Op::subtract, {scores, largest}, "shifted");
  const int weights = b.on_scores(Op::exp, {shifted}, "weights");
  const int total = b.on_rows(Op::sum, {weights}, "total");
  b.graph.node(Op::add, {largest, b.on_rows(Op::log, {total}, "log_total")}, lse);
  const int p = b.on_scores(Op::divide, {weights, total}, "p", Type::bf16);
  b.graph.node(Op::matmul, {p, v}, out);
  return std::move(b.graph);
}

TensorGraph attention_backward_graph(const AttentionPart& part, bool documents) {
  Builder b(part);
  const int q = b.query_argument("q"), k = b.transposed_key_argument("k"),
            v = b.transposed_key_argument("v"), out = b.query_argument("out"),
            dout = b.query_argument("dout"), lse = b.row_argument("lse"),
            delta = b.row_argument("delta"), dq = b.query_argument("dq"), dk = b.key_argument("dk"),
            dv = b.key_argument("dv"), scale = b.scale();
  if (documents) b.starts_argument();
  const int dout_out = b.on_queries(Op::multiply, {dout, out}, "dout_out");
  const int row_sum = b.on_rows(Op::sum, {dout_out}, "row_sum");
  b.graph.node(Op::multiply, {row_sum, b.graph.constant("one", 1)}, delta);
  const int products = b.on_scores(Op::matmul, {q, k}, "products");
  const int scores = b.on_scores(Op::multiply, {products, scale}, "scores");
  const int logs = b.masked(b.on_scores(Op::subtract, {scores, lse}, "logs"));
  const int p = b.on_scores(Op::exp, {logs}, "p");
  b.to_keys(p, dout, dv, "dv");
  const int dp = b.on_scores(Op::matmul, {dout, v}, "dp");
  const int centred = b.on_scores(Op::subtract, {dp, delta}, "centred");
  const int dsoftmax = b.on_scores(Op::multiply, {centred, p}, "dsoftmax");
  const int dscores = b.on_scores(Op::multiply, {dsoftmax, scale}, "dscores");
  b.to_keys(dscores, q, dk, "dk");
  b.graph.node(Op::matmul, {dscores, b.transpose(k, "k_rows", Type::f32)}, dq);
  return std::move(b.graph);
}

}  // namespace moe
