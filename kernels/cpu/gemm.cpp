// SPDX-License-Identifier: Apache-2.0
#include <dnnl.h>

#include <algorithm>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/few_rows.h"
#include "kernels/cpu/matrix_product.h"

namespace moe {

void matrix_product(const Product& p, Matrix<const float> a, Matrix<const float> b,
                    Matrix<float> c) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (p.beta == 0)
      for (std::int64_t i = 0; i < p.m; ++i) std::fill_n(c.data + i * c.stride, p.n, 0.0f);
    return;
  }
  const dnnl_status_t status =
      dnnl_sgemm(p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', p.m, p.n, p.k, 1.0f, a.data,
                 a.stride, b.data, b.stride, float(p.beta), c.data, c.stride);
  MOE_CHECK(status == dnnl_success, "oneDNN's sgemm returned ", int(status));
}

namespace {

// Calls f with the types of a product: T of its factors, C of its result.
template <class F>
void for_product(DType factor, DType result, F&& f) {
  for_float(factor, [&]<class T>(T) {
    if (result == factor) return f(T{}, T{});
    if constexpr (std::is_same_v<T, bf16>)
      if (result == DType::f32) return f(T{}, float{});
    throw Error(str("no product of ", name(factor), " factors gives ", name(result)));
  });
}

// A rectangle of an expert's result.
struct Tile {
  std::int64_t expert, row, rows, col, cols;
};

// The results of all experts, [rows(e), cols(e)], cut into squares large enough for full speed, or
// into smaller ones where that leaves threads idle. An expert is cut the same way in any company:
// oneDNN's sums depend on the shape of a product.
template <class Rows, class Cols>
std::vector<Tile> cut(const ExpertGroups& groups, Rows rows, Cols cols) {
  const std::int64_t threads = compute_threads();
  const std::int64_t sharing = groups.sharing > 0 ? groups.sharing : groups.experts();
  std::vector<Tile> tiles;
  for (std::int64_t e = 0; e < groups.experts(); ++e) {
    const auto count = [&](std::int64_t side) {
      return (rows(e) + side - 1) / side * ((cols(e) + side - 1) / side);
    };
    // Few rows read weights, and those best in long runs.
    std::int64_t side = threads == 1 ? 1024 : rows(e) <= kFewRows ? 512 : 256;
    while (threads > 1 && side > 64 && count(side) * sharing < 2 * threads) side /= 2;
    for (std::int64_t row = 0; row < rows(e); row += side)
      for (std::int64_t col = 0; col < cols(e); col += side)
        tiles.push_back(
            {e, row, std::min(side, rows(e) - row), col, std::min(side, cols(e) - col)});
  }
  return tiles;
}

std::vector<std::int64_t> hidden_offsets(const ExpertGroups& groups) {
  std::vector<std::int64_t> offsets = {0};
  for (std::int64_t e = 0; e < groups.experts(); ++e)
    offsets.push_back(offsets.back() + groups.rows_of(e) * groups.neurons_of(e));
  return offsets;
}

}  // namespace

void CpuBackend::gemm(Tensor& c, const Tensor& a, bool transpose_a, const Tensor& b,
                      bool transpose_b, double beta) {
  const std::int64_t k = transpose_a ? a.rows() : a.cols();
  const Product p = {c.rows(), c.cols(), k, transpose_a, transpose_b, beta == 0 ? 0 : 1};
  for_product(a.dtype(), c.dtype(), [&]<class T, class C>(T, C) {
    matrix_product(p, Matrix<const T>{a.data<T>(), a.cols()},
                   Matrix<const T>{b.data<T>(), b.cols()}, Matrix<C>{c.data<C>(), c.cols()});
  });
}

void CpuBackend::grouped_gemm_up(Tensor& hidden, const Tensor& x, const Tensor& w,
                                 const ExpertGroups& groups) {
  const std::int64_t width = w.cols();
  const auto offsets = hidden_offsets(groups);
  const auto tiles = cut(
      groups, [&](std::int64_t e) { return groups.rows_of(e); },
      [&](std::int64_t e) { return groups.neurons_of(e); });
  for_float(x.dtype(), [&]<class T>(T) {
    run_tasks(std::int64_t(tiles.size()), [&](std::int64_t task) {
      const auto [e, row, rows, col, cols] = tiles[std::size_t(task)];
      const std::size_t i = std::size_t(e);
      const std::int64_t neurons = groups.neurons_of(e);
      matrix_product({rows, cols, width, false, true, 0},
                     Matrix<const T>{x.data<T>() + (groups.rows[i] + row) * width, width},
                     Matrix<const T>{w.data<T>() + (groups.neurons[i] + col) * width, width},
                     Matrix<T>{hidden.data<T>() + offsets[i] + row * neurons + col, neurons});
    });
  });
}

void CpuBackend::grouped_gemm_down(Tensor& y, const Tensor& hidden, const Tensor& w,
                                   const ExpertGroups& groups, double beta) {
  const std::int64_t width = w.cols();
  const auto offsets = hidden_offsets(groups);
  const auto tiles = cut(
      groups, [&](std::int64_t e) { return groups.rows_of(e); },
      [&](std::int64_t) { return width; });
  for_float(y.dtype(), [&]<class T>(T) {
    run_tasks(std::int64_t(tiles.size()), [&](std::int64_t task) {
      const auto [e, row, rows, col, cols] = tiles[std::size_t(task)];
      const std::size_t i = std::size_t(e);
      const std::int64_t neurons = groups.neurons_of(e);
      matrix_product({rows, cols, neurons, false, false, beta == 0 ? 0 : 1},
                     Matrix<const T>{hidden.data<T>() + offsets[i] + row * neurons, neurons},
                     Matrix<const T>{w.data<T>() + groups.neurons[i] * width + col, width},
                     Matrix<T>{y.data<T>() + (groups.rows[i] + row) * width + col, width});
    });
  });
}

void CpuBackend::grouped_gemm_weight(Tensor& dw, const Tensor& hidden, const Tensor& x,
                                     const ExpertGroups& groups, double beta) {
  const std::int64_t width = dw.cols();
  const auto offsets = hidden_offsets(groups);
  const auto tiles = cut(
      groups, [&](std::int64_t e) { return groups.neurons_of(e); },
      [&](std::int64_t) { return width; });
  for_product(x.dtype(), dw.dtype(), [&]<class T, class C>(T, C) {
    run_tasks(std::int64_t(tiles.size()), [&](std::int64_t task) {
      const auto [e, row, rows, col, cols] = tiles[std::size_t(task)];
      const std::size_t i = std::size_t(e);
      const std::int64_t neurons = groups.neurons_of(e);
      matrix_product({rows, cols, groups.rows_of(e), true, false, beta == 0 ? 0 : 1},
                     Matrix<const T>{hidden.data<T>() + offsets[i] + row, neurons},
                     Matrix<const T>{x.data<T>() + groups.rows[i] * width + col, width},
                     Matrix<C>{dw.data<C>() + (groups.neurons[i] + row) * width + col, width});
    });
  });
}

}  // namespace moe
