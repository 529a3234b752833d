// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/vectorize.h"

namespace moe {

void CpuBackend::rope(Tensor& y, const Tensor& x, const Tensor& cos, const Tensor& sin,
                      const Tensor& positions, std::int64_t heads, std::int64_t length,
                      std::int64_t first_position, bool inverse) {
  const std::int64_t rows = x.rows(), cols = x.cols(), half = cols / heads / 2;
  for_float(x.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    T* py = y.data<T>();
    const T* px = x.data<T>();
    const A *pc = cos.data<A>(), *ps = sin.data<A>();
    const std::int32_t* places = positions.defined() ? positions.data<std::int32_t>() : nullptr;
    const A direction = inverse ? A(-1) : A(1);
    parallel_for(rows, row_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t position = places ? places[r] : first_position + r % length;
        const A *c = pc + position * half, *s = ps + position * half;
        for (std::int64_t h = 0; h < heads; ++h) {
          const T* xh = px + r * cols + h * 2 * half;
          T* yh = py + r * cols + h * 2 * half;
          each(0, half, [=](std::int64_t j) {
            const A a = xh[j], b = xh[j + half], sine = direction * s[j];
            yh[j] = T(a * c[j] - b * sine);
            yh[j + half] = T(b * c[j] + a * sine);
          });
        }
      }
    });
  });
}

}  // namespace moe
