// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>

#include "core/dtype.h"
#include "core/parallel.h"

namespace moe {

/// c = op(a) op(b) + beta c on raw row-major memory, with op(x) = x or x^T. op(a) is [m, k], op(b)
/// [k, n], c [m, n]; leading dimensions are the row strides of a, b and c as stored; beta is 0 (c
/// is never read) or 1. Any of m, n, k may be 0.
struct Product {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b;
  int beta;
};

/// Row-major memory and its row stride.
template <class T>
struct Matrix {
  T* data;
  std::int64_t stride;
};

/// oneDNN's sgemm. Inside a parallel region it runs on the calling thread alone, as do the others.
void matrix_product(const Product& p, Matrix<const float> a, Matrix<const float> b,
                    Matrix<float> c);

/// Every element of c is the sum over k in ascending order, begun at beta c, whatever the threads
/// and the shape of the rest: bit-equal between any two ways of cutting m and n.
void matrix_product(const Product& p, Matrix<const double> a, Matrix<const double> b,
                    Matrix<double> c);

/// Sums in f32, c rounded once. oneDNN's bf16 matmul where the processor multiplies bf16, else
/// widened panels through sgemm.
void matrix_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b, Matrix<float> c);
void matrix_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b, Matrix<bf16> c);

/// to = from as f32, and to = from rounded to bf16. [rows, cols]
void widen(Matrix<const bf16> from, std::int64_t rows, std::int64_t cols, Matrix<float> to);
void narrow(Matrix<const float> from, std::int64_t rows, std::int64_t cols, Matrix<bf16> to);

/// Calls body(task) for every task in [0, tasks), one at a time on each compute thread, in any
/// order; what a body calls runs on its thread alone, also where there is one task, so that its
/// bits do not depend on the others. The first exception of a body is thrown.
template <class Body>
void run_tasks(std::int64_t tasks, Body&& body) {
  if (tasks == 0 || compute_threads() == 1) {
    for (std::int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel
  {
    // oneDNN splits a primitive by this number when it is made, and must find the same later.
    omp_set_num_threads(1);
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t task = 0; task < tasks; ++task) {
      try {
        body(task);
      } catch (...) {
#pragma omp critical(moe_run_tasks)
        if (!failure) failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace moe
