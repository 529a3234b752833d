// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/vectorize.h"

namespace moe {

void CpuBackend::fill(Tensor& x, double value) {
  for_float(x.dtype(), [&]<class T>(T) {
    T* px = x.data<T>();
    const auto v = static_cast<Acc<T>>(value);
    each_parallel(x.size(), [=](std::int64_t i) { px[i] = T(v); });
  });
}

void CpuBackend::cast(Tensor& y, const Tensor& x) {
  for_float(x.dtype(), [&]<class T>(T) {
    for_float(y.dtype(), [&]<class U>(U) {
      const T* px = x.data<T>();
      U* py = y.data<U>();
      each_parallel(x.size(), [=](std::int64_t i) {
        py[i] = U(static_cast<Acc<U>>(static_cast<Acc<T>>(px[i])));
      });
    });
  });
}

void CpuBackend::add(Tensor& y, const Tensor& a, const Tensor& b) {
  for_float(y.dtype(), [&]<class T>(T) {
    T* py = y.data<T>();
    const T *pa = a.data<T>(), *pb = b.data<T>();
    each_parallel(y.size(), [=](std::int64_t i) { py[i] = T(pa[i] + pb[i]); });
  });
}

void CpuBackend::add_into(Tensor& y, const Tensor& x) {
  if (x.dtype() == DType::i64) {
    const std::int64_t* px = x.data<std::int64_t>();
    std::int64_t* py = y.data<std::int64_t>();
    return each_parallel(y.size(), [=](std::int64_t i) { py[i] += px[i]; });
  }
  for_float(x.dtype(), [&]<class T>(T) {
    for_float(y.dtype(), [&]<class U>(U) {
      const T* px = x.data<T>();
      U* py = y.data<U>();
      using A = std::common_type_t<Acc<T>, Acc<U>>;
      each_parallel(y.size(), [=](std::int64_t i) {
        py[i] = U(static_cast<Acc<U>>(static_cast<A>(py[i]) + static_cast<A>(px[i])));
      });
    });
  });
}

void CpuBackend::scale(Tensor& x, double factor) {
  for_float(x.dtype(), [&]<class T>(T) {
    T* px = x.data<T>();
    const auto f = static_cast<Acc<T>>(factor);
    each_parallel(x.size(), [=](std::int64_t i) { px[i] = T(px[i] * f); });
  });
}

void CpuBackend::scale_by(Tensor& x, const Tensor& factor) {
  for_accumulator(factor.dtype(), [&]<class A>(A) {
    const A by = *factor.data<A>();
    if (by != 1) scale(x, double(by));
  });
}

void CpuBackend::multiply_add(Tensor& y, const Tensor& a, const Tensor& b, const Tensor& c) {
  for_float(y.dtype(), [&]<class T>(T) {
    T* py = y.data<T>();
    const T *pa = a.data<T>(), *pb = b.data<T>(), *pc = c.data<T>();
    each_parallel(y.size(), [=](std::int64_t i) { py[i] = T(pa[i] + pb[i] * pc[i]); });
  });
}

void CpuBackend::multiply(Tensor& y, const Tensor& a, const Tensor& b) {
  for_float(y.dtype(), [&]<class T>(T) {
    T* py = y.data<T>();
    const T *pa = a.data<T>(), *pb = b.data<T>();
    each_parallel(y.size(), [=](std::int64_t i) { py[i] = T(pa[i] * pb[i]); });
  });
}

void CpuBackend::tanh_forward(Tensor& y, const Tensor& x) {
  for_float(y.dtype(), [&]<class T>(T) {
    T* py = y.data<T>();
    const T* px = x.data<T>();
    each_parallel(y.size(), [=](std::int64_t i) { py[i] = T(tanh_of(Acc<T>(px[i]))); });
  });
}

void CpuBackend::tanh_backward(Tensor& dx, const Tensor& dy, const Tensor& y) {
  for_float(y.dtype(), [&]<class T>(T) {
    T* pdx = dx.data<T>();
    const T *pdy = dy.data<T>(), *py = y.data<T>();
    each_parallel(y.size(), [=](std::int64_t i) {
      const Acc<T> v = py[i];
      pdx[i] = T(pdy[i] * (1 - v * v));
    });
  });
}

void CpuBackend::softplus_forward(Tensor& y, const Tensor& x, double offset) {
  for_float(y.dtype(), [&]<class T>(T) {
    T* py = y.data<T>();
    const T* px = x.data<T>();
    const auto shift = static_cast<Acc<T>>(offset);
    each_parallel(y.size(), [=](std::int64_t i) {
      const Acc<T> v = px[i];
      const Acc<T> positive = v < 0 ? Acc<T>(0) : v;
      py[i] = T(positive + log1p_of(exp_of(-std::fabs(v))) + shift);
    });
  });
}

void CpuBackend::softplus_backward(Tensor& dx, const Tensor& dy, const Tensor& x) {
  for_float(x.dtype(), [&]<class T>(T) {
    T* pdx = dx.data<T>();
    const T *pdy = dy.data<T>(), *px = x.data<T>();
    each_parallel(x.size(), [=](std::int64_t i) { pdx[i] = T(pdy[i] * sigmoid(Acc<T>(px[i]))); });
  });
}

void CpuBackend::swiglu_forward(Tensor& y, const Tensor& gate, const Tensor& up) {
  for_float(y.dtype(), [&]<class T>(T) {
    T* py = y.data<T>();
    const T *pg = gate.data<T>(), *pu = up.data<T>();
    each_parallel(y.size(), [=](std::int64_t i) {
      const Acc<T> g = pg[i];
      py[i] = T(g * sigmoid(g) * pu[i]);
    });
  });
}

void CpuBackend::swiglu_backward(Tensor& dgate, Tensor& dup, Tensor& y, const Tensor& dy,
                                 const Tensor& gate, const Tensor& up) {
  for_float(y.dtype(), [&]<class T>(T) {
    T *pdg = dgate.data<T>(), *pdu = dup.data<T>(), *py = y.data<T>();
    const T *pdy = dy.data<T>(), *pg = gate.data<T>(), *pu = up.data<T>();
    each_parallel(y.size(), [=](std::int64_t i) {
      const Acc<T> d = pdy[i], g = pg[i], u = pu[i];
      const Acc<T> s = sigmoid(g), silu = g * s;
      pdg[i] = T(d * u * (s + silu * (1 - s)));
      pdu[i] = T(d * silu);
      py[i] = T(silu * u);
    });
  });
}

void CpuBackend::add_squared_norm(Tensor& out, const Tensor& x) {
  for_float(x.dtype(), [&]<class T>(T) {
    const T* px = x.data<T>();
    out.data<double>()[0] += parallel_sum(x.size(), kGrain, [=](std::int64_t b, std::int64_t e) {
      return sum_of(b, e, [=](std::int64_t i) { return double(px[i]) * double(px[i]); });
    });
  });
}

void CpuBackend::sum(Tensor& out, const Tensor& x) {
  for_accumulator(x.dtype(), [&]<class A>(A) {
    const A* px = x.data<A>();
    out.data<A>()[0] = A(parallel_sum(x.size(), kGrain, [=](std::int64_t b, std::int64_t e) {
      return sum_of(b, e, [=](std::int64_t i) { return double(px[i]); });
    }));
  });
}

}  // namespace moe
