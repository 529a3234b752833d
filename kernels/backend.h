// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "core/rng.h"
#include "core/tensor.h"

namespace moe {

/// Which rows and which weight rows belong to each expert of a grouped GEMM. Expert e owns rows
/// [rows[e], rows[e+1]) of the tokens and [neurons[e], neurons[e+1]) of the neuron-major weights.
/// Its hidden activations, [rows of e, neurons of e] row-major, start at hidden_offset(e) of a
/// flat buffer of hidden_size() elements. Experts may have no rows; sizes may differ.
struct ExpertGroups {
  std::span<const std::int64_t> rows;     // E + 1 offsets
  std::span<const std::int64_t> neurons;  // E + 1 offsets
  /// How a product is cut among threads follows from each expert's own size and from this number
  /// of experts that share the threads. So some experts of a layer alone give the bits they give
  /// among all of them. 0: the experts of this call.
  std::int64_t sharing = 0;

  std::int64_t experts() const { return std::int64_t(rows.size()) - 1; }
  std::int64_t rows_of(std::int64_t e) const {
    return rows[std::size_t(e) + 1] - rows[std::size_t(e)];
  }
  std::int64_t neurons_of(std::int64_t e) const {
    return neurons[std::size_t(e) + 1] - neurons[std::size_t(e)];
  }
  std::int64_t hidden_offset(std::int64_t e) const {
    std::int64_t offset = 0;
    for (std::int64_t i = 0; i < e; ++i) offset += rows_of(i) * neurons_of(i);
    return offset;
  }
  std::int64_t hidden_size() const { return hidden_offset(experts()); }
};

/// Causal grouped-query attention. Query i of a sequence sits at position i + kv_length - q_length
/// and sees every key up to its own position, or those of its document
/// (Backend::attention_forward).
struct AttentionShape {
  std::int64_t batch, q_length, kv_length, heads, kv_heads, head_dim;
};

/// Attention of rows of queries that each see a span of the key rows. The rows lie in runs, one for
/// each group and segment, group-major; a segment's keys are what the runs of all groups see of it.
struct SpanAttentionShape {
  std::int64_t groups, segments, heads, kv_heads, head_dim;  // heads, kv_heads: of a row
};

/// Which keys each row of queries sees. Within a run neither `begin` nor `end` ever falls. Runs and
/// segments may be empty.
struct AttentionSpans {
  Tensor begin, end;     // i32[rows]: row r sees the key rows [begin[r], end[r]), at least one
  Tensor query_offsets;  // i32[groups * segments + 1]: the rows of each run, group-major
  Tensor key_offsets;    // i32[segments + 1]: the key rows of each segment, 0 to all of them
};

/// How the scores of the chosen experts become weights (docs/numerics.md).
enum class RouterWeights : std::uint8_t {
  softmax_of_chosen,  // softmax over the k chosen logits: LLaMA-MoE, Mixtral
  softmax_of_all,     // softmax over all E logits, the chosen entries taken: Switch
};

/// One AdamW step (Loshchilov & Hutter 2019): with g = gradient * gradient_scale,
/// m = beta1 m + (1-beta1) g,  v = beta2 v + (1-beta2) g^2,
/// w -= lr * ( (m/correction1) / (sqrt(v/correction2) + eps) + weight_decay * w ).
struct AdamWStep {
  double learning_rate, beta1, beta2, eps, weight_decay;
  double gradient_scale;            // the clip factor
  double correction1, correction2;  // 1 - beta^t
};

/// How much of each loss a student learns from, and how soft its teacher is.
struct DistillationStep {
  double temperature = 1;
  double loss_scale = 0, divergence_scale = 0;
};

/// Every computation a device must offer. One method is one kernel: it writes into outputs the
/// caller allocated, allocates no tensors, communicates nothing and leaves its inputs alone unless
/// it says otherwise. Outputs come first. Outputs are overwritten unless a `beta` or "+=" says
/// that they are added to. Every result is the same to the bit on each call with the same number
/// of threads.
///
/// Types: T is f32, bf16 or f64, the same for all T arguments of a call; acc is accumulator(T):
/// f64 for f64, else f32. Sums are kept in acc. Index tensors are i32. Shapes are checked by the
/// ops that call this; a kernel may assume them.
class Backend {
 public:
  virtual ~Backend() = default;

  // ---- elementwise: any shape, the same for all arguments -------------------------------------
  virtual void fill(Tensor& x, double value) = 0;
  /// y = x, between any two of f32, bf16, f64.
  virtual void cast(Tensor& y, const Tensor& x) = 0;
  /// y = a + b
  virtual void add(Tensor& y, const Tensor& a, const Tensor& b) = 0;
  /// y += x; y and x may differ in type, or both be i64.
  virtual void add_into(Tensor& y, const Tensor& x) = 0;
  /// x *= factor
  virtual void scale(Tensor& x, double factor) = 0;
  /// x *= factor[0], a number that stays on the device. factor: acc[1].
  virtual void scale_by(Tensor& x, const Tensor& factor) = 0;
  /// y = a + b * c
  virtual void multiply_add(Tensor& y, const Tensor& a, const Tensor& b, const Tensor& c) = 0;
  /// y = a * b
  virtual void multiply(Tensor& y, const Tensor& a, const Tensor& b) = 0;
  /// y = tanh(x)
  virtual void tanh_forward(Tensor& y, const Tensor& x) = 0;
  /// dx = dy * (1 - y^2)
  virtual void tanh_backward(Tensor& dx, const Tensor& dy, const Tensor& y) = 0;
  /// y = log(1 + exp(x)) + offset, without overflow
  virtual void softplus_forward(Tensor& y, const Tensor& x, double offset) = 0;
  /// dx = dy / (1 + exp(-x))
  virtual void softplus_backward(Tensor& dx, const Tensor& dy, const Tensor& x) = 0;
  /// y = silu(gate) * up,  silu(z) = z / (1 + exp(-z))
  virtual void swiglu_forward(Tensor& y, const Tensor& gate, const Tensor& up) = 0;
  /// dgate = dy * up * silu'(gate),  dup = dy * silu(gate); also recomputes y = silu(gate) * up.
  /// dgate, dup and y may be any of dy, gate and up (each element is read before it is written).
  virtual void swiglu_backward(Tensor& dgate, Tensor& dup, Tensor& y, const Tensor& dy,
                               const Tensor& gate, const Tensor& up) = 0;
  /// Standard normal numbers: x's rows in streams.size() equal consecutive parts, element i of part
  /// s is streams[s].normal(i). x: acc.
  virtual void normal(Tensor& x, std::span<const Philox> streams) = 0;
  /// out[0] += sum(x^2); out is f64[1] on the CPU.
  virtual void add_squared_norm(Tensor& out, const Tensor& x) = 0;
  /// out[0] = sum(x); out is acc[1], x is acc.
  virtual void sum(Tensor& out, const Tensor& x) = 0;

  // ---- matrix products ------------------------------------------------------------------------
  /// c = op(a) op(b) + beta c, with op(x) = x or x^T. c: [m, n]; op(a): [m, k]; op(b): [k, n].
  /// a and b share a type T; c is T or acc. beta is 0 or 1. k may be 0.
  virtual void gemm(Tensor& c, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                    double beta) = 0;
  /// hidden_e = x_e w_e^T for every expert e. hidden: flat T[hidden_size]; x: T[R, H];
  /// w: T[neurons, H].
  virtual void grouped_gemm_up(Tensor& hidden, const Tensor& x, const Tensor& w,
                               const ExpertGroups& groups) = 0;
  /// y_e = hidden_e w_e + beta y_e. y: T[R, H]. beta is 0 or 1.
  virtual void grouped_gemm_down(Tensor& y, const Tensor& hidden, const Tensor& w,
                                 const ExpertGroups& groups, double beta) = 0;
  /// dw_e = hidden_e^T x_e + beta dw_e: an expert without rows gets zeros when beta is 0.
  /// dw: acc[neurons, H].
  virtual void grouped_gemm_weight(Tensor& dw, const Tensor& hidden, const Tensor& x,
                                   const ExpertGroups& groups, double beta) = 0;

  // ---- normalisation, positions, embedding, attention ------------------------------------------
  /// y[i,:] = x[i,:] * rstd[i] * w,  rstd[i] = 1 / sqrt(mean(x[i,:]^2) + eps).
  /// x, y, w: T; rstd: acc[rows]. (Zhang & Sennrich 2019)
  virtual void rmsnorm_forward(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& w,
                               double eps) = 0;
  /// xhat = x * rstd:  dx = rstd * (dy*w - xhat * mean(dy*w*xhat)),  dw = sum_i dy[i,:] *
  /// xhat[i,:]. dw: acc[cols].
  virtual void rmsnorm_backward(Tensor& dx, Tensor& dw, const Tensor& dy, const Tensor& x,
                                const Tensor& w, const Tensor& rstd) = 0;
  /// Rotary positions, half-split layout (Su et al. 2021; Hugging Face's rotate_half). For each
  /// head's vector x of length d and angle a_j of position p and pair j < d/2:
  ///   y[j] = x[j] cos a - x[j+d/2] sin a,   y[j+d/2] = x[j+d/2] cos a + x[j] sin a.
  /// x, y: T[rows, heads * d] (y may be x); cos, sin: acc[positions, d/2]. Row r has position
  /// positions[r]; positions: i32[rows], undefined = first_position + r % length. `inverse` rotates
  /// back: the gradient.
  virtual void rope(Tensor& y, const Tensor& x, const Tensor& cos, const Tensor& sin,
                    const Tensor& positions, std::int64_t heads, std::int64_t length,
                    std::int64_t first_position, bool inverse) = 0;
  /// y[i,:] = table[ids[i],:], zeros where ids[i] < 0. table: T[vocabulary, H].
  virtual void embedding_forward(Tensor& y, const Tensor& table, const Tensor& ids) = 0;
  /// dtable[v,:] = sum over i with ids[i] = v of dy[i,:]. dtable: acc[vocabulary, H].
  virtual void embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) = 0;
  /// out = softmax(q k^T / sqrt(head_dim) + causal mask) v per head, head h reading key/value head
  /// h / (heads/kv_heads). q, out: T[batch*q_length, heads*head_dim]; k, v: T[batch*kv_length,
  /// kv_heads*head_dim]; lse: acc[batch, heads, q_length], the log-sum-exp of each row's scores.
  /// Working memory does not grow with q_length * kv_length.
  /// starts: i32[batch, q_length], for q_length = kv_length: query i sees the keys [starts[i], i]
  /// of its sequence, 0 <= starts[i] <= i. Undefined: all 0. What is not seen adds nothing, neither
  /// to the output nor to any gradient.
  virtual void attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                 const Tensor& v, const Tensor& starts,
                                 const AttentionShape& shape) = 0;
  virtual void attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                                  const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& out, const Tensor& lse, const Tensor& starts,
                                  const AttentionShape& shape) = 0;

  // ---- attention of routed tokens: the rows are (token, slot) pairs sorted by expert, then token
  // --
  /// offsets[e * segments + s] = the rows of all (expert, segment) before (e, s), then of all.
  /// counts: i64[segments, E], as count_experts writes them; offsets: i32[E * segments + 1].
  virtual void segment_offsets(Tensor& offsets, const Tensor& counts) = 0;
  /// Of row r, which is of token t = row_to_slot[r] / k in the sequence of tokens t / length:
  /// positions[r] = t % length - starts[t], its place in its document. What it sees: without
  /// `offsets` the keys are all tokens, [begin[r], end[r]) = [t - positions[r], t + 1). With those
  /// of segment_offsets for segments of a sequence each, the keys are the rows, end[r] = r + 1, and
  /// begin[r] is the first row of r's run with a token of t's document. begin, end, positions:
  /// i32[rows]; row_to_slot: i32[rows]; starts: i32[tokens], undefined = all 0.
  virtual void attention_spans(Tensor& begin, Tensor& end, Tensor& positions,
                               const Tensor& row_to_slot, std::int64_t k, const Tensor& starts,
                               std::int64_t length, const Tensor& offsets) = 0;
  /// out = softmax(q k^T / sqrt(head_dim)) v per head over each row's span, head h reading
  /// key/value head h / (heads/kv_heads). q, out: T[rows, heads*head_dim]; k, v: T[keys,
  /// kv_heads*head_dim]; lse: acc[rows, heads]. Working memory grows with the longest segment and
  /// run, not with their product.
  virtual void span_attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                      const Tensor& v, const AttentionSpans& spans,
                                      const SpanAttentionShape& shape) = 0;
  /// Keys that nobody sees get zeros. dk and dv are sums over the groups in their order.
  virtual void span_attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                                       const Tensor& q, const Tensor& k, const Tensor& v,
                                       const Tensor& out, const Tensor& lse,
                                       const AttentionSpans& spans,
                                       const SpanAttentionShape& shape) = 0;

  // ---- loss -----------------------------------------------------------------------------------
  /// loss[i] = logsumexp(logits[i,:]) - logits[i, labels[i]], 0 where labels[i] < 0. When
  /// `gradient_scale` is not 0, logits[i,:] is overwritten by its gradient:
  /// gradient_scale * (softmax(logits[i,:]) - onehot(labels[i])), zeros where labels[i] < 0.
  /// loss: acc[rows]; logits: acc[rows, vocabulary].
  virtual void cross_entropy(Tensor& loss, Tensor& logits, const Tensor& labels,
                             double gradient_scale) = 0;
  /// Cross-entropy as above, and how far the student's distribution is from the teacher's, both
  /// softened by the temperature T: with q = softmax(teacher[i,:] / T), p = softmax(logits[i,:] /
  /// T), divergence[i] = sum_j q_j (log q_j - log p_j); both 0 where labels[i] < 0. When one of the
  /// step's scales is not 0, logits[i,:] is overwritten by its gradient (Hinton et al. 2015):
  ///   loss_scale * (softmax(logits[i,:]) - onehot(labels[i])) + divergence_scale * T * (p - q),
  /// that of loss_scale * loss + divergence_scale * T^2 * divergence; zeros where labels[i] < 0.
  /// loss, divergence: acc[rows]; logits, teacher: acc[rows, vocabulary].
  virtual void distillation(Tensor& loss, Tensor& divergence, Tensor& logits, const Tensor& teacher,
                            const Tensor& labels, const DistillationStep& step) = 0;

  // ---- routing: logits and everything derived from them are acc[tokens, E] ---------------------
  /// Each row's m largest scores in descending order, ties to the lowest index. values:
  /// acc[tokens, m]; indices: i32[tokens, m]. Where valid (u8[tokens], may be undefined = all
  /// valid) is 0, indices are -1 and values 0.
  virtual void topk(Tensor& values, Tensor& indices, const Tensor& scores, const Tensor& valid) = 0;
  /// y[i,:] = the first columns of x[i,:], as many as y has. i32.
  virtual void leading_columns(Tensor& y, const Tensor& x) = 0;
  /// Each expert keeps the capacities[s] heaviest of the pairs that segment s sends it: kept[t,j] =
  /// indices[t,j], or -1 where that is -1 or at least capacities[s] pairs of t's segment s with the
  /// same expert come before (t, j), in the order of descending weight, then of ascending t (NaN
  /// comes first). kept, indices: i32[tokens, k]; weights: acc[tokens, k]; capacities:
  /// i64[segments], of tokens / segments consecutive tokens each.
  virtual void drop_over_capacity(Tensor& kept, const Tensor& indices, const Tensor& weights,
                                  const Tensor& capacities) = 0;
  /// p = softmax of each row. NaN-free for any finite logits.
  virtual void softmax_forward(Tensor& p, const Tensor& logits) = 0;
  /// dlogits = p * (dp - sum(dp * p))
  virtual void softmax_backward(Tensor& dlogits, const Tensor& dp, const Tensor& p) = 0;
  /// weights[t,j] of the chosen experts indices[t,j] by `form`; 0 where the index is -1.
  /// weights: acc[tokens, k].
  virtual void router_weights_forward(Tensor& weights, const Tensor& logits, const Tensor& indices,
                                      RouterWeights form) = 0;
  virtual void router_weights_backward(Tensor& dlogits, const Tensor& dweights,
                                       const Tensor& weights, const Tensor& logits,
                                       const Tensor& indices, RouterWeights form) = 0;
  /// dense[t, indices[t,j]] = weights[t,j], all else 0.
  virtual void scatter_columns(Tensor& dense, const Tensor& weights, const Tensor& indices) = 0;
  /// weights[t,j] = dense[t, indices[t,j]], 0 where the index is -1.
  virtual void gather_columns(Tensor& weights, const Tensor& dense, const Tensor& indices) = 0;
  /// counts[s, e] = how often expert e stands in the rows of segment s. Segments are
  /// tokens / counts.rows() consecutive tokens. counts: i64[segments, E].
  virtual void count_experts(Tensor& counts, const Tensor& indices) = 0;
  /// sums[s, :] = sum of x[t, :] over the tokens t of segment s that are valid (see topk).
  virtual void segment_sum(Tensor& sums, const Tensor& x, const Tensor& valid) = 0;
  /// dx[t, :] = dsums[segment of t, :], zeros where not valid.
  virtual void segment_broadcast(Tensor& dx, const Tensor& dsums, const Tensor& valid) = 0;
  /// The smooth load of Shazeer et al. 2017: the probability that expert e would be among the k
  /// chosen if its noise alone were drawn again. With Phi the normal distribution function and
  /// t(1) >= t(2) >= ... the sorted noisy logits (`top_values`, k+1 of them):
  ///   load[t,e] = Phi((clean[t,e] - threshold) / sigma[t,e]),
  ///   threshold = t(k+1) if noisy[t,e] > t(k+1), else t(k).
  /// `compatible` tests noisy - clean > t(k+1) instead, as LLaMA-MoE v1 does. Rows whose
  /// top_indices are -1 get zeros.
  virtual void noisy_load_forward(Tensor& load, const Tensor& clean, const Tensor& noisy,
                                  const Tensor& sigma, const Tensor& top_values,
                                  const Tensor& top_indices, bool compatible) = 0;
  /// Gradients by clean, sigma, and by noisy (through the thresholds, which are entries of noisy).
  virtual void noisy_load_backward(Tensor& dclean, Tensor& dnoisy, Tensor& dsigma,
                                   const Tensor& dload, const Tensor& clean, const Tensor& noisy,
                                   const Tensor& sigma, const Tensor& top_values,
                                   const Tensor& top_indices, bool compatible) = 0;
  /// loss[0] = sum_s segment_weights[s] * var_unbiased(x[s,:]) / (mean(x[s,:])^2 + 1e-10); 0 when
  /// E is 1. x: acc[segments, E]; segment_weights: acc[segments]; loss: acc[1].
  virtual void cv_squared_forward(Tensor& loss, const Tensor& x, const Tensor& segment_weights) = 0;
  /// dx for dloss = 1.
  virtual void cv_squared_backward(Tensor& dx, const Tensor& x, const Tensor& segment_weights) = 0;
  /// The top-k generalisation of the Switch loss (Fedus et al. 2021), 1 at uniform routing:
  ///   loss[0] = sum_s segment_weights[s] * E * sum_e (counts[s,e] / C_s) * (p[s,e] / P_s),
  /// C_s = sum_e counts[s,e],  P_s = sum_e p[s,e] taken as a constant; segments with C_s = 0 add 0.
  /// p: acc[segments, E], sums of softmax probabilities; counts: i64[segments, E].
  virtual void switch_loss_forward(Tensor& loss, const Tensor& p, const Tensor& counts,
                                   const Tensor& segment_weights) = 0;
  /// dp for dloss = 1.
  virtual void switch_loss_backward(Tensor& dp, const Tensor& p, const Tensor& counts,
                                    const Tensor& segment_weights) = 0;
  /// loss[0] = factor * sum over valid t of logsumexp(logits[t,:])^2 (ST-MoE, Zoph et al. 2022).
  virtual void z_loss_forward(Tensor& loss, const Tensor& logits, const Tensor& valid,
                              double factor) = 0;
  /// dlogits for dloss = 1.
  virtual void z_loss_backward(Tensor& dlogits, const Tensor& logits, const Tensor& valid,
                               double factor) = 0;

  // ---- permutation ----------------------------------------------------------------------------
  /// Stable counting sort of the (token, slot) pairs by expert; pairs with index -1 get no row.
  /// counts: i64[E], by expert; slot_to_row: i32[tokens, k], the row of each pair or -1;
  /// row_to_slot: i32[tokens * k], of which the first sum(counts) entries are token * k + slot.
  /// order: i32[E], the experts as their rows follow each other; undefined: ascending.
  virtual void sort_by_expert(Tensor& counts, Tensor& slot_to_row, Tensor& row_to_slot,
                              const Tensor& indices, const Tensor& order) = 0;
  /// y[i,:] = x[index[i] / divisor, :], zeros where index[i] < 0. index: i32[rows of y].
  virtual void gather_rows(Tensor& y, const Tensor& x, const Tensor& index,
                           std::int64_t divisor) = 0;
  /// y[t,:] = factor * sum_j weights[t,j] * rows[slot_to_row[t,j],:] in order of j, skipping -1.
  /// weights: acc[tokens, k], undefined = all 1. rows, y: T.
  virtual void combine_forward(Tensor& y, const Tensor& rows, const Tensor& weights,
                               const Tensor& slot_to_row, double factor) = 0;
  /// drows[slot_to_row[t,j],:] = factor * weights[t,j] * dy[t,:];
  /// dweights[t,j] = factor * <dy[t,:], rows[slot_to_row[t,j],:]>, 0 where -1.
  /// Every row of drows belongs to exactly one pair.
  virtual void combine_backward(Tensor& drows, Tensor& dweights, const Tensor& dy,
                                const Tensor& rows, const Tensor& weights,
                                const Tensor& slot_to_row, double factor) = 0;

  // ---- optimiser --------------------------------------------------------------------------------
  /// Updates master, m and v (acc) in place, then weight = master. `master` may be the same tensor
  /// as weight when T is acc. gradient: acc.
  virtual void adamw(Tensor& weight, Tensor& master, Tensor& m, Tensor& v, const Tensor& gradient,
                     const AdamWStep& step) = 0;
};

/// The backend of a device. Throws Error for a device this build does not have.
Backend& backend(Device device);

Backend& cpu_backend();
Backend& cuda_backend();

}  // namespace moe
