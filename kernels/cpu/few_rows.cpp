// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/few_rows.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/vectorize.h"

namespace moe {
namespace {

// Columns of b whose sums stay in the first cache.
constexpr std::int64_t kColumns = 1024;
// Elements of b that are worth handing to a thread.
constexpr std::int64_t kReadGrain = 1 << 17;

float* at_least(std::vector<float>& buffer, std::int64_t size) {
  if (std::int64_t(buffer.size()) < size) buffer.resize(std::size_t(size));
  return buffer.data();
}

// <a, b>
MOE_VECTORIZE static float dot(const float* a, const bf16* b, std::int64_t k) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < k; ++j) sum += a[j] * float(b[j]);
  return sum;
}

// sums += a b[:]
MOE_VECTORIZE static void add_row(float* __restrict sums, float a, const bf16* b,
                                  std::int64_t cols) {
#pragma GCC ivdep
  for (std::int64_t j = 0; j < cols; ++j) sums[j] += a * float(b[j]);
}

// Two rows ahead: the processor alone fetches them too late.
void fetch_ahead(Matrix<const bf16> b, std::int64_t row, std::int64_t end, std::int64_t cols) {
  constexpr std::int64_t kLine = 32, kAhead = 2;
  if (row + kAhead >= end) return;
  const bf16* ahead = b.data + (row + kAhead) * b.stride;
  for (std::int64_t j = 0; j < cols; j += kLine) __builtin_prefetch(ahead + j);
}

// Columns [begin, end) of c = a b^T: each is a row of b.
template <class C>
void rows_of_b(const Product& p, const float* a, Matrix<const bf16> b, Matrix<C> c,
               std::int64_t begin, std::int64_t end) {
  for (std::int64_t j = begin; j < end; ++j) {
    fetch_ahead(b, j, end, p.k);
    for (std::int64_t i = 0; i < p.m; ++i) {
      C& to = c.data[i * c.stride + j];
      const float sum = dot(a + i * p.k, b.data + j * b.stride, p.k);
      to = C(p.beta == 1 ? sum + float(to) : sum);
    }
  }
}

// Columns [begin, end) of c = a b, at most kColumns.
template <class C>
void columns_of_b(const Product& p, const float* a, Matrix<const bf16> b, Matrix<C> c,
                  std::int64_t begin, std::int64_t end) {
  const std::int64_t cols = end - begin;
  thread_local std::vector<float> buffer;
  float* sums = at_least(buffer, p.m * cols);
  for (std::int64_t i = 0; i < p.m; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      sums[i * cols + j] = p.beta == 1 ? float(c.data[i * c.stride + begin + j]) : 0.0f;
  for (std::int64_t r = 0; r < p.k; ++r)
    for (std::int64_t i = 0; i < p.m; ++i)
      add_row(sums + i * cols, a[i * p.k + r], b.data + r * b.stride + begin, cols);
  for (std::int64_t i = 0; i < p.m; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      c.data[i * c.stride + begin + j] = C(sums[i * cols + j]);
}

template <class C>
void few_rows(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b, Matrix<C> c) {
  thread_local std::vector<float> buffer;
  float* wide = at_least(buffer, p.m * p.k);
  for (std::int64_t i = 0; i < p.m; ++i) {
    const bf16* row = a.data + i * a.stride;
    for (std::int64_t j = 0; j < p.k; ++j) wide[i * p.k + j] = float(row[j]);
  }
  if (p.transpose_b) {
    const std::int64_t grain = std::max<std::int64_t>(16, kReadGrain / p.k);
    parallel_for(p.n, grain, [&](std::int64_t begin, std::int64_t end) {
      rows_of_b(p, wide, b, c, begin, end);
    });
  } else {
    parallel_for(p.n, kColumns, [&](std::int64_t begin, std::int64_t end) {
      columns_of_b(p, wide, b, c, begin, end);
    });
  }
}

}  // namespace

void few_rows_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b,
                      Matrix<float> c) {
  few_rows(p, a, b, c);
}
void few_rows_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b,
                      Matrix<bf16> c) {
  few_rows(p, a, b, c);
}

}  // namespace moe
