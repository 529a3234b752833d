// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <compare>
#include <cstddef>
#include <map>

#include "core/cuda_check.h"
#include "core/memory.h"
#include "kernels/cuda/products.h"

namespace moe {
namespace {

void check(cublasStatus_t status, const char* call) {
  MOE_CHECK(status == CUBLAS_STATUS_SUCCESS, call, ": ", cublasLtGetStatusString(status));
}

/// What NVIDIA recommends for Hopper.
constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

/// Experts get another number of rows in every step: old shapes are forgotten.
constexpr std::size_t kMaxPlans = 4096;

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f32:
      return CUDA_R_32F;
    case DType::f64:
      return CUDA_R_64F;
    default:
      throw Error(str("no matrix products of ", name(dtype)));
  }
}

/// The largest power of two, up to 256, that divides the address.
std::uint32_t alignment_of(const void* p) {
  const auto address = std::bit_cast<std::uintptr_t>(p);
  return 1u << std::min(8, std::countr_zero(address | 256));
}

/// cuBLASLt takes matrices by columns: ours is the transpose of what it sees.
struct Stored {
  std::int64_t rows, cols;  // as cuBLASLt sees them
  bool transposed;
  std::uint32_t alignment;
  auto operator<=>(const Stored&) const = default;
};

Stored stored(const MatrixView& m) { return {m.cols, m.rows, m.transposed, alignment_of(m.data)}; }

/// All that a choice of kernel may depend on.
struct Shape {
  Stored first, second, result;
  DType in, out;
  auto operator<=>(const Shape&) const = default;
};

/// Descriptors of one shape and the kernel for it.
class Plan {
 public:
  Plan(cublasLtHandle_t lt, const Shape& shape) {
    const bool wide = shape.in == DType::f64;
    check(cublasLtMatmulDescCreate(&operation_, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                   wide ? CUDA_R_64F : CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    set_transposed(CUBLASLT_MATMUL_DESC_TRANSA, shape.first);
    set_transposed(CUBLASLT_MATMUL_DESC_TRANSB, shape.second);
    first_ = layout(shape.first, shape.in);
    second_ = layout(shape.second, shape.in);
    result_ = layout(shape.result, shape.out);
    choose(lt, shape);
  }
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {first_, second_, result_})
      cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(operation_);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  void run(cublasLtHandle_t lt, void* result, const void* first, const void* second, double beta,
           void* workspace, cudaStream_t stream, bool wide) const {
    const double one = 1;
    const float short_one = 1, short_beta = static_cast<float>(beta);
    const void* alpha_at = wide ? static_cast<const void*>(&one) : &short_one;
    const void* beta_at = wide ? static_cast<const void*>(&beta) : &short_beta;
    check(cublasLtMatmul(lt, operation_, alpha_at, first, first_, second, second_, beta_at, result,
                         result_, result, result_, &algorithm_, workspace, kWorkspaceBytes, stream),
          "cublasLtMatmul");
  }

 private:
  void set_transposed(cublasLtMatmulDescAttributes_t which, const Stored& matrix) {
    const cublasOperation_t op = matrix.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(operation_, which, &op, sizeof op),
          "cublasLtMatmulDescSetAttribute");
  }

  static cublasLtMatrixLayout_t layout(const Stored& m, DType dtype) {
    cublasLtMatrixLayout_t layout = nullptr;
    check(cublasLtMatrixLayoutCreate(&layout, type_of(dtype), static_cast<std::uint64_t>(m.rows),
                                     static_cast<std::uint64_t>(m.cols), m.rows),
          "cublasLtMatrixLayoutCreate");
    return layout;
  }

  void choose(cublasLtHandle_t lt, const Shape& shape) {
    cublasLtMatmulPreference_t wishes = nullptr;
    check(cublasLtMatmulPreferenceCreate(&wishes), "cublasLtMatmulPreferenceCreate");
    const auto wish = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(wishes, what, &value, sizeof value),
            "cublasLtMatmulPreferenceSetAttribute");
    };
    wish(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kWorkspaceBytes});
    wish(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         std::uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    wish(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.first.alignment);
    wish(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.second.alignment);
    wish(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.result.alignment);
    wish(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.result.alignment);
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        lt, operation_, first_, second_, result_, result_, wishes, 1, &found, &count);
    cublasLtMatmulPreferenceDestroy(wishes);
    check(status, "cublasLtMatmulAlgoGetHeuristic");
    MOE_CHECK(count > 0 && found.state == CUBLAS_STATUS_SUCCESS, "cuBLASLt has no kernel for ",
              name(shape.in), " matrices of ", shape.second.cols, " x ", shape.second.rows, " and ",
              shape.first.cols, " x ", shape.first.rows, " into ", name(shape.out));
    algorithm_ = found.algo;
  }

  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t first_ = nullptr, second_ = nullptr, result_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
};

class CublasLt final : public Products {
 public:
  explicit CublasLt(cudaStream_t stream)
      : stream_(stream), workspace_(allocate(Device::cuda, kWorkspaceBytes)) {
    check(cublasLtCreate(&handle_), "cublasLtCreate");
  }
  ~CublasLt() override {
    plans_.clear();
    cublasLtDestroy(handle_);
  }
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  void multiply(void* c, DType out, const MatrixView& a, const MatrixView& b, DType in,
                double beta) override {
    const std::int64_t m = a.transposed ? a.cols : a.rows, k = a.transposed ? a.rows : a.cols;
    const std::int64_t n = b.transposed ? b.rows : b.cols;
    if (m == 0 || n == 0) return;
    if (k == 0) {
      if (beta == 0)
        CUDA_CHECK(cudaMemsetAsync(c, 0, static_cast<std::size_t>(m * n) * size_of(out), stream_));
      return;
    }
    // c^T = op(b)^T op(a)^T
    const Shape shape{stored(b), stored(a), {n, m, false, alignment_of(c)}, in, out};
    if (plans_.size() >= kMaxPlans) plans_.clear();
    const Plan& plan = plans_.try_emplace(shape, handle_, shape).first->second;
    plan.run(handle_, c, b.data, a.data, beta, workspace_.get(), stream_, in == DType::f64);
  }

 private:
  cudaStream_t stream_;
  cublasLtHandle_t handle_ = nullptr;
  std::shared_ptr<std::byte> workspace_;
  std::map<Shape, Plan> plans_;
};

}  // namespace

std::unique_ptr<Products> cublas_lt_products(CUstream_st* stream) {
  return std::make_unique<CublasLt>(stream);
}

}  // namespace moe
