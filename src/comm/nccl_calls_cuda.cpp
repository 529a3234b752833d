// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "comm/nccl_calls.h"
#include "core/cuda_check.h"
#include "kernels/cuda/ordered_sum.h"

namespace moe {
namespace {

// Everything but a maximum moves as bytes: NCCL adds nothing up here.
constexpr ncclDataType_t kBytes = ncclUint8;

/// NCCL's calls between start and end are one kernel, in which they wait for each other's peers.
template <class Body>
void in_one_kernel(Body body) {
  NCCL_CHECK(ncclGroupStart());
  try {
    body();
  } catch (const Error&) {
    static_cast<void>(ncclGroupEnd());
    throw;
  }
  NCCL_CHECK(ncclGroupEnd());
}

Tensor flat(const Tensor& x) { return x.view({x.size()}); }

/// Scratch memory as rows of `cols` elements.
Tensor scratch_rows(const NcclLink& link, std::int64_t rows, std::int64_t cols, DType dtype) {
  const std::shared_ptr<std::byte> owner(link.scratch.bytes(), [](std::byte*) {});
  return Tensor::wrap(owner, {rows, cols}, dtype, Device::cuda);
}

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f64:
      return ncclFloat64;
    default:
      return ncclInt64;  // the checks let no other pass
  }
}

}  // namespace

std::vector<Share> shares_of(std::span<const std::int64_t> parts) {
  std::vector<Share> shares;
  std::int64_t first = 0;
  for (const std::int64_t n : parts) {
    shares.push_back({first, n});
    first += n;
  }
  return shares;
}

void nccl_all_gather(const NcclCall& call, const Tensor& whole, const Tensor& own,
                     std::span<const std::int64_t> parts) {
  if (whole.size() == 0) return;
  cudaStream_t const stream = call.link.stream;
  if (std::ranges::all_of(parts, [&](std::int64_t n) { return n == parts[0]; })) {
    NCCL_CHECK(ncclAllGather(own.bytes(), whole.bytes(), own.nbytes(), kBytes, call.comm, stream));
    return;
  }
  const std::vector<Share> places = shares_of(parts);
  in_one_kernel([&] {
    for (int p = 0; p < call.size; ++p) {
      const Share& part = places[std::size_t(p)];
      const Tensor place = flat(whole).slice(part.first, part.count);
      if (part.count > 0)
        NCCL_CHECK(ncclBroadcast((p == call.rank ? own : place).bytes(), place.bytes(),
                                 place.nbytes(), kBytes, p, call.comm, stream));
    }
  });
}

void nccl_reduce_scatter(const NcclCall& call, const Tensor& out, const Tensor& in,
                         std::span<const std::int64_t> parts) {
  cudaStream_t const stream = call.link.stream;
  const std::vector<Share> places = shares_of(parts);
  const std::int64_t largest = *std::ranges::max_element(parts);
  // A piece of every other member's summand fits into the scratch memory, rows on whole vectors.
  constexpr std::int64_t kVectorBytes = 32;
  const std::int64_t piece = call.link.scratch.size() / (call.size - 1) / kVectorBytes *
                             (kVectorBytes / std::int64_t(size_of(in.dtype())));
  MOE_CHECK(piece > 0, "scratch memory of ", call.link.scratch.size(), " bytes for ", call.size,
            " ranks");
  const Tensor from = flat(in),
               received = scratch_rows(call.link, call.size - 1, piece, in.dtype());
  for (std::int64_t first = 0; first < largest; first += piece) {
    const auto piece_of = [&](int p) {
      const Share& part = places[std::size_t(p)];
      const std::int64_t begin = std::min(first, part.count);
      return from.slice(part.first + begin, std::min(piece, part.count - begin));
    };
    const Tensor own = piece_of(call.rank);
    in_one_kernel([&] {
      for (int p = 0; p < call.size; ++p) {
        if (p == call.rank) continue;
        const Tensor sent = piece_of(p);
        if (sent.size() > 0)
          NCCL_CHECK(ncclSend(sent.bytes(), sent.nbytes(), kBytes, p, call.comm, stream));
        const Tensor place = received.slice(p < call.rank ? p : p - 1, 1);
        if (own.size() > 0)
          NCCL_CHECK(ncclRecv(place.bytes(), own.nbytes(), kBytes, p, call.comm, stream));
      }
    });
    if (own.size() > 0)
      sum_on_stream(stream, flat(out).slice(first, own.size()), own, call.rank, received,
                    call.size);
  }
}

bool fits_small_sum(const NcclLink& link, const Tensor& x, int size) {
  return std::int64_t(x.nbytes()) * size <= link.scratch.size();
}

void nccl_small_sum(const NcclCall& call, const Tensor& x) {
  if (x.size() == 0) return;
  const Tensor all = scratch_rows(call.link, call.size, x.size(), x.dtype());
  NCCL_CHECK(
      ncclAllGather(x.bytes(), all.bytes(), x.nbytes(), kBytes, call.comm, call.link.stream));
  sum_on_stream(call.link.stream, flat(x), {}, 0, all, call.size);
}

void nccl_max(const NcclCall& call, const Tensor& x) {
  NCCL_CHECK(ncclAllReduce(x.bytes(), x.bytes(), std::size_t(x.size()), type_of(x.dtype()), ncclMax,
                           call.comm, call.link.stream));
}

void nccl_exchange(const NcclCall& call, const Tensor& out, std::span<const Share> received,
                   const Tensor& in, std::span<const Share> sent) {
  // Not ncclAlltoAll: no rank knows whether all counts of all ranks are equal, and NCCL 2.28 makes
  // the same sends and receives of it.
  cudaStream_t const stream = call.link.stream;
  const auto rows = [](const Tensor& x, const Share& s) { return x.slice(s.first, s.count); };
  const auto self = std::size_t(call.rank);
  const Tensor to = rows(out, received[self]), from = rows(in, sent[self]);
  // Sender and receiver leave out the same: nothing.
  in_one_kernel([&] {
    for (int p = 0; p < call.size; ++p) {
      if (p == call.rank) continue;
      const Tensor leaving = rows(in, sent[std::size_t(p)]);
      const Tensor arriving = rows(out, received[std::size_t(p)]);
      if (leaving.nbytes() > 0)
        NCCL_CHECK(ncclSend(leaving.bytes(), leaving.nbytes(), kBytes, p, call.comm, stream));
      if (arriving.nbytes() > 0)
        NCCL_CHECK(ncclRecv(arriving.bytes(), arriving.nbytes(), kBytes, p, call.comm, stream));
    }
  });
  if (to.nbytes() > 0)
    CUDA_CHECK(
        cudaMemcpyAsync(to.bytes(), from.bytes(), to.nbytes(), cudaMemcpyDeviceToDevice, stream));
}

void nccl_broadcast(const NcclCall& call, const Tensor& x, int root) {
  NCCL_CHECK(
      ncclBroadcast(x.bytes(), x.bytes(), x.nbytes(), kBytes, root, call.comm, call.link.stream));
}

}  // namespace moe
