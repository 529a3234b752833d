// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <compare>
#include <cstring>
#include <map>
#include <unordered_map>
#include <vector>

#include <dnnl.hpp>
#include "kernels/cpu/few_rows.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/vectorize.h"

namespace moe {
namespace {

// oneDNN makes one primitive per shape, which costs as much as a small product. The number of rows
// of an expert changes at every step, so row counts are cut into a multiple of kBucket and a
// remainder padded to kBucket: then few shapes exist.
constexpr std::int64_t kBucket = 64;
constexpr std::size_t kCachedPrimitives = 512;

bool has_bf16_products() {
  static const bool has = (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) ==
                          dnnl_cpu_isa_avx512_core_bf16;
  return has;
}

struct Key {
  std::int64_t m, n, k, a_stride, b_stride, c_stride;
  bool transpose_a, transpose_b, c_is_f32;
  int beta, threads;
  auto operator<=>(const Key&) const = default;
};

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

// A primitive and the memory objects it is called with. Its scratchpad belongs to the caller.
class Primitive {
 public:
  explicit Primitive(const Key& key) {
    using Desc = dnnl::memory::desc;
    using Type = dnnl::memory::data_type;
    const auto strides = [](bool transposed, std::int64_t stride) {
      return transposed ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1};
    };
    const Desc a({key.m, key.k}, Type::bf16, strides(key.transpose_a, key.a_stride));
    const Desc b({key.k, key.n}, Type::bf16, strides(key.transpose_b, key.b_stride));
    const Desc c({key.m, key.n}, key.c_is_f32 ? Type::f32 : Type::bf16,
                 strides(false, key.c_stride));
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (key.beta == 1) {
      dnnl::post_ops add_to_c;
      add_to_c.append_sum(1.0f);
      attributes.set_post_ops(add_to_c);
    }
    const dnnl::matmul::primitive_desc desc({a, b, c}, attributes, engine());
    matmul_ = dnnl::matmul(desc);
    scratch_bytes_ = desc.scratchpad_desc().get_size();
    arguments_ = {{DNNL_ARG_SRC, {a, engine(), nullptr}},
                  {DNNL_ARG_WEIGHTS, {b, engine(), nullptr}},
                  {DNNL_ARG_DST, {c, engine(), nullptr}},
                  {DNNL_ARG_SCRATCHPAD, {desc.scratchpad_desc(), engine(), nullptr}}};
  }

  std::size_t scratch_bytes() const { return scratch_bytes_; }

  void run(const bf16* a, const bf16* b, void* c, void* scratch, const dnnl::stream& stream) {
    arguments_.at(DNNL_ARG_SRC).set_data_handle(const_cast<bf16*>(a));
    arguments_.at(DNNL_ARG_WEIGHTS).set_data_handle(const_cast<bf16*>(b));
    arguments_.at(DNNL_ARG_DST).set_data_handle(c);
    arguments_.at(DNNL_ARG_SCRATCHPAD).set_data_handle(scratch);
    matmul_.execute(stream, arguments_);
  }

 private:
  dnnl::matmul matmul_;
  std::size_t scratch_bytes_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

// What one thread keeps between calls.
struct ThreadState {
  std::map<Key, Primitive> primitives;
  dnnl::stream stream{engine()};
  std::vector<std::byte> scratch;
  std::vector<bf16> padded_a, padded_b, padded_c;
  std::vector<float> wide_a, wide_b, wide_c;
};

ThreadState& thread_state() {
  thread_local ThreadState state;
  return state;
}

template <class T>
T* at_least(std::vector<T>& buffer, std::int64_t size) {
  if (std::int64_t(buffer.size()) < size) buffer.resize(std::size_t(size));
  return buffer.data();
}

template <class C>
void native_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b, Matrix<C> c) {
  ThreadState& state = thread_state();
  const Key key = {p.m,
                   p.n,
                   p.k,
                   a.stride,
                   b.stride,
                   c.stride,
                   p.transpose_a,
                   p.transpose_b,
                   std::is_same_v<C, float>,
                   p.beta,
                   compute_threads()};
  auto found = state.primitives.find(key);
  if (found == state.primitives.end()) {
    if (state.primitives.size() >= kCachedPrimitives) state.primitives.clear();
    found = state.primitives.try_emplace(key, key).first;
  }
  Primitive& primitive = found->second;
  constexpr std::size_t kAlignment = 64;
  std::byte* scratch =
      at_least(state.scratch, std::int64_t(primitive.scratch_bytes() + kAlignment));
  scratch += (kAlignment - reinterpret_cast<std::uintptr_t>(scratch) % kAlignment) % kAlignment;
  primitive.run(a.data, b.data, c.data, scratch, state.stream);
}

template <class T>
void copy_rows(Matrix<const T> from, std::int64_t rows, std::int64_t cols, Matrix<T> to) {
  for (std::int64_t i = 0; i < rows; ++i)
    std::memcpy(to.data + i * to.stride, from.data + i * from.stride,
                std::size_t(cols) * sizeof(T));
}

// The last p.m < kBucket rows of a product that does not transpose a.
template <class C>
void native_remaining_rows(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b,
                           Matrix<C> c) {
  ThreadState& state = thread_state();
  const std::int64_t rows = (p.m + 15) / 16 * 16;
  const Matrix<bf16> padded_a = {at_least(state.padded_a, rows * p.k), p.k};
  const auto c_buffer = [&] {
    if constexpr (std::is_same_v<C, float>)
      return at_least(state.wide_c, rows * p.n);
    else
      return at_least(state.padded_c, rows * p.n);
  };
  const Matrix<C> padded_c = {c_buffer(), p.n};
  copy_rows<bf16>(a, p.m, p.k, padded_a);
  std::fill_n(padded_a.data + p.m * p.k, (rows - p.m) * p.k, bf16(0.0f));
  if (p.beta == 1) {
    copy_rows<C>({c.data, c.stride}, p.m, p.n, padded_c);
    std::fill_n(padded_c.data + p.m * p.n, (rows - p.m) * p.n, C(0.0f));
  }
  native_product<C>({rows, p.n, p.k, false, p.transpose_b, p.beta}, {padded_a.data, p.k}, b,
                    padded_c);
  copy_rows<C>({padded_c.data, p.n}, p.m, p.n, c);
}

// The last p.k < kBucket terms of a^T b, where k counts rows of both.
void native_remaining_terms(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b,
                            Matrix<float> c) {
  ThreadState& state = thread_state();
  const Matrix<bf16> padded_a = {at_least(state.padded_a, kBucket * p.m), p.m};
  const Matrix<bf16> padded_b = {at_least(state.padded_b, kBucket * p.n), p.n};
  copy_rows<bf16>(a, p.k, p.m, padded_a);
  copy_rows<bf16>(b, p.k, p.n, padded_b);
  std::fill_n(padded_a.data + p.k * p.m, (kBucket - p.k) * p.m, bf16(0.0f));
  std::fill_n(padded_b.data + p.k * p.n, (kBucket - p.k) * p.n, bf16(0.0f));
  native_product<float>({p.m, p.n, kBucket, true, false, p.beta}, {padded_a.data, p.m},
                        {padded_b.data, p.n}, c);
}

template <class C>
void bucketed_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b, Matrix<C> c) {
  if (!p.transpose_a) {
    const std::int64_t rest = p.m % kBucket, whole = p.m - rest;
    if (whole > 0) native_product<C>({whole, p.n, p.k, false, p.transpose_b, p.beta}, a, b, c);
    if (rest > 0)
      native_remaining_rows<C>({rest, p.n, p.k, false, p.transpose_b, p.beta},
                               {a.data + whole * a.stride, a.stride}, b,
                               {c.data + whole * c.stride, c.stride});
    return;
  }
  if constexpr (std::is_same_v<C, float>) {
    if (!p.transpose_b) {
      const std::int64_t rest = p.k % kBucket, whole = p.k - rest;
      if (whole > 0) native_product<float>({p.m, p.n, whole, true, false, p.beta}, a, b, c);
      if (rest > 0)
        native_remaining_terms({p.m, p.n, rest, true, false, whole > 0 ? 1 : p.beta},
                               {a.data + whole * a.stride, a.stride},
                               {b.data + whole * b.stride, b.stride}, c);
      return;
    }
  }
  native_product<C>(p, a, b, c);
}

// Panels of at most about a million elements of a and b as f32, through sgemm.
template <class C>
void widened_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b, Matrix<C> c) {
  ThreadState& state = thread_state();
  const std::int64_t panel = std::clamp<std::int64_t>((1 << 20) / p.k, 64, 1024);
  const auto widen_panel = [&](std::vector<float>& buffer, Matrix<const bf16> from, bool along_rows,
                               std::int64_t first, std::int64_t count) {
    const Matrix<const bf16> part = {from.data + first * (along_rows ? from.stride : 1),
                                     from.stride};
    const std::int64_t rows = along_rows ? count : p.k, cols = along_rows ? p.k : count;
    const Matrix<float> wide = {at_least(buffer, rows * cols), cols};
    widen(part, rows, cols, wide);
    return Matrix<const float>{wide.data, wide.stride};
  };
  for (std::int64_t j = 0; j < p.n; j += panel) {
    const std::int64_t cols = std::min(panel, p.n - j);
    const auto wide_b = widen_panel(state.wide_b, b, p.transpose_b, j, cols);
    for (std::int64_t i = 0; i < p.m; i += panel) {
      const std::int64_t rows = std::min(panel, p.m - i);
      const auto wide_a = widen_panel(state.wide_a, a, !p.transpose_a, i, rows);
      const Product part = {rows, cols, p.k, p.transpose_a, p.transpose_b, p.beta};
      const Matrix<C> to = {c.data + i * c.stride + j, c.stride};
      if constexpr (std::is_same_v<C, float>) {
        matrix_product(part, wide_a, wide_b, to);
      } else {
        const Matrix<float> wide_c = {at_least(state.wide_c, rows * cols), cols};
        if (p.beta == 1) widen({to.data, to.stride}, rows, cols, wide_c);
        matrix_product(part, wide_a, wide_b, wide_c);
        narrow({wide_c.data, cols}, rows, cols, to);
      }
    }
  }
}

template <class C>
void product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b, Matrix<C> c) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (p.beta == 0)
      for (std::int64_t i = 0; i < p.m; ++i) std::fill_n(c.data + i * c.stride, p.n, C(0.0f));
  } else if (has_few_rows(p)) {
    few_rows_product(p, a, b, c);
  } else if (has_bf16_products()) {
    bucketed_product(p, a, b, c);
  } else {
    widened_product(p, a, b, c);
  }
}

}  // namespace

void matrix_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b, Matrix<float> c) {
  product(p, a, b, c);
}

void matrix_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b, Matrix<bf16> c) {
  product(p, a, b, c);
}

void widen(Matrix<const bf16> from, std::int64_t rows, std::int64_t cols, Matrix<float> to) {
  parallel_for(rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const bf16* x = from.data + i * from.stride;
      float* y = to.data + i * to.stride;
      each(0, cols, [=](std::int64_t j) { y[j] = x[j]; });
    }
  });
}

void narrow(Matrix<const float> from, std::int64_t rows, std::int64_t cols, Matrix<bf16> to) {
  parallel_for(rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* x = from.data + i * from.stride;
      bf16* y = to.data + i * to.stride;
      each(0, cols, [=](std::int64_t j) { y[j] = bf16(x[j]); });
    }
  });
}

}  // namespace moe
