// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/vector.h"

namespace moe {
namespace {

// y[i] = f(x[i]...), with f on accumulators; y may be one of x. Bytes: each tensor once.
template <class F, class Y, class... X>
__global__ void __launch_bounds__(kThreads)
    map_kernel(F f, std::int64_t size, bool whole, Y* y, const X*... x) {
  constexpr int n = kWidth<Y, X...>;
  for (std::int64_t i = grid_thread() * n; i < size; i += grid_threads() * n) {
    const auto apply = [&](const Vector<X, n>&... in) {
      Vector<Y, n> out;
#pragma unroll
      for (int j = 0; j < n; ++j) out.at[j] = narrow<Y>(f(widen(in.at[j])...));
      store(y + i, out, size - i, whole);
    };
    apply(load<n>(x + i, size - i, whole)...);
  }
}

template <class F, class Y, class... X>
void map(cudaStream_t stream, std::int64_t size, F f, Y* y, const X*... x) {
  if (size == 0) return;
  launch(map_kernel<F, Y, X...>, blocks_for(ceil_div(size, kWidth<Y, X...>)), kThreads, 0, stream,
         f, size, aligned(y, x...), y, x...);
}

template <class A>
struct Constant {
  A value;
  __device__ A operator()() const { return value; }
};
struct Same {
  template <class A>
  __device__ A operator()(A x) const {
    return x;
  }
};
struct Sum {
  template <class A, class B>
  __device__ auto operator()(A a, B b) const {
    return a + b;
  }
};
template <class A>
struct Scaled {
  A factor;
  __device__ A operator()(A x) const { return x * factor; }
};
template <class A>
struct ScaledByMemory {
  const A* factor;
  __device__ A operator()(A x) const { return x * *factor; }
};
struct ProductAdded {
  template <class A>
  __device__ A operator()(A a, A b, A c) const {
    return a + b * c;
  }
};
struct Product {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return a * b;
  }
};
struct Tanh {
  template <class A>
  __device__ A operator()(A x) const {
    return tanh(x);
  }
};
struct TanhSlope {
  template <class A>
  __device__ A operator()(A dy, A y) const {
    return dy * (1 - y * y);
  }
};
template <class A>
struct Softplus {
  A offset;
  __device__ A operator()(A x) const {
    const A positive = x < 0 ? A(0) : x;
    return positive + log1p(exp(-fabs(x))) + offset;
  }
};
struct SoftplusSlope {
  template <class A>
  __device__ A operator()(A dy, A x) const {
    return dy * sigmoid(x);
  }
};
struct Swiglu {
  template <class A>
  __device__ A operator()(A gate, A up) const {
    return gate * sigmoid(gate) * up;
  }
};

// Bytes: six tensors once. No pointer is restricted: outputs may be inputs.
template <class T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(std::int64_t size, bool whole, T* dgate, T* dup, T* y, const T* dy,
                           const T* gate, const T* up) {
  using A = Acc<T>;
  constexpr int n = kWidth<T>;
  for (std::int64_t i = grid_thread() * n; i < size; i += grid_threads() * n) {
    const Vector<T, n> dys = load<n>(dy + i, size - i, whole),
                       gates = load<n>(gate + i, size - i, whole),
                       ups = load<n>(up + i, size - i, whole);
    Vector<T, n> dgates, dups, ys;
#pragma unroll
    for (int j = 0; j < n; ++j) {
      const A d = widen(dys.at[j]), g = widen(gates.at[j]), u = widen(ups.at[j]);
      const A s = sigmoid(g), silu = g * s;
      dgates.at[j] = narrow<T>(d * u * (s + silu * (1 - s)));
      dups.at[j] = narrow<T>(d * silu);
      ys.at[j] = narrow<T>(silu * u);
    }
    store(dgate + i, dgates, size - i, whole);
    store(dup + i, dups, size - i, whole);
    store(y + i, ys, size - i, whole);
  }
}

// Blocks that share a sum: their parts are added up by one block.
constexpr unsigned kParts = 1024;

// parts[block] = the sum of f(x[i]) over the block's share. Bytes: x once.
template <class F, class T>
__global__ void __launch_bounds__(kThreads)
    sum_parts_kernel(F f, std::int64_t size, bool whole, double* parts, const T* x) {
  constexpr int n = kWidth<T>;
  double sum = 0;
  for (std::int64_t i = grid_thread() * n; i < size; i += grid_threads() * n) {
    const Vector<T, n> in = load<n>(x + i, size - i, whole);  // zeros behind the end
#pragma unroll
    for (int j = 0; j < n; ++j) sum += f(double(widen(in.at[j])));
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// out[0] = the sum of the parts, after out[0] if `add`. One block.
template <class A>
__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(A* out, bool add, int count, const double* parts) {
  double sum = 0;
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = A(add ? double(*out) + sum : sum);
}

struct Square {
  __device__ double operator()(double x) const { return x * x; }
};

// out[0] (+)= sum of f(x[i])
template <class F, class A, class T>
void reduce(cudaStream_t stream, F f, A* out, bool add, const Tensor& x, const T* px) {
  const dim3 blocks = std::min(blocks_for(ceil_div(x.size(), kWidth<T>)).x, kParts);
  const Tensor parts = Tensor::empty({blocks.x}, DType::f64, x.device());
  double* partial = parts.data<double>();
  if (blocks.x > 0)
    launch(sum_parts_kernel<F, T>, blocks, kThreads, 0, stream, f, x.size(), aligned(px), partial,
           px);
  launch(add_parts_kernel<A>, 1, kThreads, 0, stream, out, add, int(blocks.x), partial);
}

}  // namespace

void CudaBackend::fill(Tensor& x, double value) {
  for_float(x.dtype(), [&]<class T>(T) {
    map(stream_, x.size(), Constant<Acc<T>>{static_cast<Acc<T>>(value)}, x.data<T>());
  });
}

void CudaBackend::cast(Tensor& y, const Tensor& x) {
  for_float(x.dtype(), [&]<class T>(T) {
    for_float(y.dtype(),
              [&]<class U>(U) { map(stream_, x.size(), Same{}, y.data<U>(), x.data<T>()); });
  });
}

void CudaBackend::add(Tensor& y, const Tensor& a, const Tensor& b) {
  for_float(y.dtype(), [&]<class T>(T) {
    map(stream_, y.size(), Sum{}, y.data<T>(), a.data<T>(), b.data<T>());
  });
}

void CudaBackend::add_into(Tensor& y, const Tensor& x) {
  const auto add = [&]<class U, class T>(U* py, const T* px) {
    map(stream_, y.size(), Sum{}, py, py, px);
  };
  if (x.dtype() == DType::i64) return add(y.data<std::int64_t>(), x.data<std::int64_t>());
  for_float(x.dtype(), [&]<class T>(T) {
    for_float(y.dtype(), [&]<class U>(U) { add(y.data<U>(), x.data<T>()); });
  });
}

void CudaBackend::scale(Tensor& x, double factor) {
  for_float(x.dtype(), [&]<class T>(T) {
    T* px = x.data<T>();
    map(stream_, x.size(), Scaled<Acc<T>>{static_cast<Acc<T>>(factor)}, px, px);
  });
}

void CudaBackend::scale_by(Tensor& x, const Tensor& factor) {
  for_float(x.dtype(), [&]<class T>(T) {
    T* px = x.data<T>();
    map(stream_, x.size(), ScaledByMemory<Acc<T>>{factor.data<Acc<T>>()}, px, px);
  });
}

void CudaBackend::multiply_add(Tensor& y, const Tensor& a, const Tensor& b, const Tensor& c) {
  for_float(y.dtype(), [&]<class T>(T) {
    map(stream_, y.size(), ProductAdded{}, y.data<T>(), a.data<T>(), b.data<T>(), c.data<T>());
  });
}

void CudaBackend::multiply(Tensor& y, const Tensor& a, const Tensor& b) {
  for_float(y.dtype(), [&]<class T>(T) {
    map(stream_, y.size(), Product{}, y.data<T>(), a.data<T>(), b.data<T>());
  });
}

void CudaBackend::tanh_forward(Tensor& y, const Tensor& x) {
  for_float(y.dtype(),
            [&]<class T>(T) { map(stream_, y.size(), Tanh{}, y.data<T>(), x.data<T>()); });
}

void CudaBackend::tanh_backward(Tensor& dx, const Tensor& dy, const Tensor& y) {
  for_float(y.dtype(), [&]<class T>(T) {
    map(stream_, y.size(), TanhSlope{}, dx.data<T>(), dy.data<T>(), y.data<T>());
  });
}

void CudaBackend::softplus_forward(Tensor& y, const Tensor& x, double offset) {
  for_float(y.dtype(), [&]<class T>(T) {
    map(stream_, y.size(), Softplus<Acc<T>>{static_cast<Acc<T>>(offset)}, y.data<T>(), x.data<T>());
  });
}

void CudaBackend::softplus_backward(Tensor& dx, const Tensor& dy, const Tensor& x) {
  for_float(x.dtype(), [&]<class T>(T) {
    map(stream_, x.size(), SoftplusSlope{}, dx.data<T>(), dy.data<T>(), x.data<T>());
  });
}

void CudaBackend::swiglu_forward(Tensor& y, const Tensor& gate, const Tensor& up) {
  for_float(y.dtype(), [&]<class T>(T) {
    map(stream_, y.size(), Swiglu{}, y.data<T>(), gate.data<T>(), up.data<T>());
  });
}

void CudaBackend::swiglu_backward(Tensor& dgate, Tensor& dup, Tensor& y, const Tensor& dy,
                                  const Tensor& gate, const Tensor& up) {
  if (y.size() == 0) return;
  for_float(y.dtype(), [&]<class T>(T) {
    T *pdg = dgate.data<T>(), *pdu = dup.data<T>(), *py = y.data<T>();
    const T *pdy = dy.data<T>(), *pg = gate.data<T>(), *pu = up.data<T>();
    launch(swiglu_backward_kernel<T>, blocks_for(ceil_div(y.size(), kWidth<T>)), kThreads, 0,
           stream_, y.size(), aligned(pdg, pdu, py, pdy, pg, pu), pdg, pdu, py, pdy, pg, pu);
  });
}

void CudaBackend::add_squared_norm(Tensor& out, const Tensor& x) {
  for_float(x.dtype(), [&]<class T>(T) {
    reduce(stream_, Square{}, out.data<double>(), true, x, x.data<T>());
  });
}

void CudaBackend::sum(Tensor& out, const Tensor& x) {
  for_accumulator(x.dtype(), [&]<class A>(A) {
    reduce(stream_, Same{}, out.data<A>(), false, x, x.data<A>());
  });
}

}  // namespace moe
