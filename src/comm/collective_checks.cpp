// SPDX-License-Identifier: Apache-2.0
#include "comm/collective_checks.h"

#include <algorithm>
#include <numeric>

namespace moe {
namespace {

void check_place(const char* operation, const Tensor& x, Device device) {
  MOE_CHECK(x.defined() && x.device() == device, operation, " needs defined tensors, all on ",
            name(device));
}

void check_same_type(const char* operation, const Tensor& out, const Tensor& in) {
  MOE_CHECK(out.dtype() == in.dtype(), operation, " from ", name(in.dtype()), " to ",
            name(out.dtype()));
}

void check_summable(const char* operation, DType dtype) {
  MOE_CHECK(is_float(dtype) || dtype == DType::i64, operation, " does not reduce ", name(dtype),
            ": use f32, bf16, f64 or i64");
}

/// `whole` in `parts`, of which this rank's is `own`.
void check_parts(const char* operation, const Tensor& whole, const Tensor& own,
                 std::span<const std::int64_t> parts, const Communicator& group) {
  MOE_CHECK(parts.size() == std::size_t(group.size()), operation, " among ", group.size(),
            " ranks in ", parts.size(), " parts");
  MOE_CHECK(std::ranges::all_of(parts, [](std::int64_t n) { return n >= 0; }) &&
                std::accumulate(parts.begin(), parts.end(), std::int64_t{0}) == whole.size() &&
                parts[std::size_t(group.rank())] == own.size(),
            operation, " of ", whole.size(), " elements in parts of ", join(parts, ", "),
            ", given ", own.size(), " for that of member ", group.rank());
}

void check_rows(const char* direction, const Tensor& tensor, std::span<const std::int64_t> rows,
                int size) {
  MOE_CHECK(rows.size() == std::size_t(size), "all_to_all among ", size, " ranks with ",
            rows.size(), " ", direction, " counts");
  MOE_CHECK(std::ranges::all_of(rows, [](std::int64_t n) { return n >= 0; }),
            "all_to_all with negative ", direction, " counts: ", join(rows, ", "));
  MOE_CHECK(std::accumulate(rows.begin(), rows.end(), std::int64_t{0}) == tensor.rows(),
            "all_to_all with a tensor of ", tensor.rows(), " rows and ", direction,
            " counts: ", join(rows, ", "));
}

}  // namespace

void check_all_reduce(const Tensor& x, Device device) {
  check_place("all_reduce", x, device);
  check_summable("all_reduce", x.dtype());
}

void check_reduce_scatter(const Tensor& out, const Tensor& in, std::span<const std::int64_t> parts,
                          const Communicator& group, Device device) {
  check_place("reduce_scatter", out, device);
  check_place("reduce_scatter", in, device);
  if (in.dtype() != DType::bf16 || out.dtype() != DType::f32)
    check_same_type("reduce_scatter", out, in);
  check_summable("reduce_scatter", in.dtype());
  check_parts("reduce_scatter", in, out, parts, group);
}

void check_all_gather(const Tensor& out, const Tensor& in, std::span<const std::int64_t> parts,
                      const Communicator& group, Device device) {
  check_place("all_gather", out, device);
  check_place("all_gather", in, device);
  check_same_type("all_gather", out, in);
  check_parts("all_gather", out, in, parts, group);
}

void check_all_to_all(const Tensor& out, std::span<const std::int64_t> recv_rows, const Tensor& in,
                      std::span<const std::int64_t> send_rows, int size, Device device) {
  check_place("all_to_all", out, device);
  check_place("all_to_all", in, device);
  check_same_type("all_to_all", out, in);
  MOE_CHECK(out.cols() == in.cols(), "all_to_all of rows of ", in.cols(), " elements into rows of ",
            out.cols());
  check_rows("send", in, send_rows, size);
  check_rows("receive", out, recv_rows, size);
}

void check_broadcast(const Tensor& x, int root, int size, Device device) {
  check_place("broadcast", x, device);
  MOE_CHECK(root >= 0 && root < size, "broadcast from rank ", root, " of ", size);
}

std::string rows_disagree(int sender, std::int64_t sent, int receiver, std::int64_t expected) {
  return str("all_to_all: rank ", sender, " sends ", sent, " rows to rank ", receiver,
             ", which expects ", expected);
}

}  // namespace moe
