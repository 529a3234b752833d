// SPDX-License-Identifier: Apache-2.0
#include "core/memory.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/vectorize.h"

namespace moe {
namespace {

// Rows whose part of dw is added up in order by one thread; the parts are added in double.
constexpr std::int64_t kRowsPerPart = 64;

/// dw[j] = sum over the parts of partial[part, j].
template <class A>
void add_parts(A* dw, const A* partial, std::int64_t parts, std::int64_t cols) {
  constexpr std::int64_t kBlock = 256;
  parallel_for(cols, kBlock, [=](std::int64_t begin, std::int64_t end) {
    double sum[kBlock] = {};
    double* s = sum;
    for (std::int64_t p = 0; p < parts; ++p) {
      const A* row = partial + p * cols + begin;
      each(0, end - begin, [=](std::int64_t j) { s[j] += double(row[j]); });
    }
    each(0, end - begin, [=](std::int64_t j) { dw[begin + j] = A(s[j]); });
  });
}

}  // namespace

void CpuBackend::rmsnorm_forward(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& w,
                                 double eps) {
  const std::int64_t rows = x.rows(), cols = x.cols();
  for_float(x.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    T* py = y.data<T>();
    A* pr = rstd.data<A>();
    const T *px = x.data<T>(), *pw = w.data<T>();
    parallel_for(rows, row_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T* xi = px + i * cols;
        T* yi = py + i * cols;
        const double squares = sum_of(0, cols, [=](std::int64_t j) { return A(xi[j]) * A(xi[j]); });
        const A r = pr[i] = A(1 / std::sqrt(squares / double(cols) + eps));
        each(0, cols, [=](std::int64_t j) { yi[j] = T(xi[j] * r * pw[j]); });
      }
    });
  });
}

void CpuBackend::rmsnorm_backward(Tensor& dx, Tensor& dw, const Tensor& dy, const Tensor& x,
                                  const Tensor& w, const Tensor& rstd) {
  const std::int64_t rows = x.rows(), cols = x.cols();
  const std::int64_t parts = (rows + kRowsPerPart - 1) / kRowsPerPart;
  for_float(x.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    T* pdx = dx.data<T>();
    A* pdw = dw.data<A>();
    const T *pdy = dy.data<T>(), *px = x.data<T>(), *pw = w.data<T>();
    const A* pr = rstd.data<A>();
    const auto scratch = allocate(Device::cpu, std::size_t(parts * cols) * sizeof(A));
    A* partial = reinterpret_cast<A*>(scratch.get());
    parallel_for(rows, kRowsPerPart, [=](std::int64_t begin, std::int64_t end) {
      A* part = partial + begin / kRowsPerPart * cols;
      std::fill_n(part, cols, A(0));
      for (std::int64_t i = begin; i < end; ++i) {
        const T *xi = px + i * cols, *gi = pdy + i * cols;
        T* dxi = pdx + i * cols;
        const A r = pr[i];
        const double dot =
            sum_of(0, cols, [=](std::int64_t j) { return A(gi[j]) * pw[j] * A(xi[j]); });
        const A mean = A(dot * double(r) / double(cols));
        each(0, cols, [=](std::int64_t j) {
          const A g = gi[j], normal = xi[j] * r;
          dxi[j] = T(r * (g * pw[j] - normal * mean));
          part[j] += g * normal;
        });
      }
    });
    add_parts(pdw, partial, parts, cols);
  });
}

}  // namespace moe
