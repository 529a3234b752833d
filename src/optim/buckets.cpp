// SPDX-License-Identifier: Apache-2.0
#include "optim/buckets.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <ranges>

namespace moe {
namespace {

/// Elements that count for filling a bucket: of the largest share of any expert rank, so that every
/// rank closes its buckets at the same parameters.
std::int64_t counted_elements(const HeldParameter& p, int ep) {
  const auto& offsets = p.spec.expert_offsets;
  if (offsets.empty()) return p.size();
  std::int64_t rows = 0;
  for (int r = 0; r < ep; ++r) {
    const Share share = share_of(std::int64_t(offsets.size()) - 1, r, ep);
    rows = std::max(
        rows, offsets[std::size_t(share.first + share.count)] - offsets[std::size_t(share.first)]);
  }
  return rows * p.cols();
}

/// Elements of each member's part.
std::vector<std::int64_t> parts_of(const Bucket& bucket, const std::vector<HeldParameter>& all,
                                   int members) {
  std::vector<std::int64_t> parts;
  std::int64_t begin = 0;
  std::size_t next = 0;  // the first parameter that ends behind the cut
  for (int member = 1; member < members; ++member) {
    std::int64_t end = bucket.size * member / members;
    const auto parameter = [&]() -> const HeldParameter& { return all[bucket.parameters[next]]; };
    const auto start = [&] { return parameter().offset - bucket.first; };
    while (next < bucket.parameters.size() && start() + parameter().size() <= end) ++next;
    if (next < bucket.parameters.size() && end > start())
      end = start() + (end - start()) / parameter().cols() * parameter().cols();
    parts.push_back(end - begin);
    begin = end;
  }
  parts.push_back(bucket.size - begin);
  return parts;
}

}  // namespace

BucketPlan::BucketPlan(const ParameterLayout& layout, const GridPosition& position,
                       DType gradient_type, std::int64_t part_bytes, bool sharded)
    : position_(position), sharded_(sharded) {
  const std::vector<HeldParameter>& all = layout.all();
  const std::int64_t part = part_bytes / std::int64_t(size_of(gradient_type));
  // One bucket of each placement is open at a time.
  std::array<Bucket, 2> open;
  open[1].placement = Placement::expert;
  std::array<std::int64_t, 2> filled{};
  const auto close = [&](std::size_t kind) {
    if (open[kind].parameters.empty()) return;
    buckets_.push_back(std::move(open[kind]));
    open[kind] = Bucket();
    open[kind].placement = Placement(kind);
    filled[kind] = 0;
  };
  for (std::size_t i = all.size(); i-- > 0;) {
    if (!all[i].trained) continue;
    const auto kind = std::size_t(all[i].spec.placement);
    if (open[kind].parameters.empty()) open[kind].first = all[i].offset;
    open[kind].parameters.push_back(i);
    filled[kind] += counted_elements(all[i], position.ep);
    if (filled[kind] >= part * position.holders(Placement(kind))) close(kind);
  }
  close(1);
  close(0);

  std::array<std::int64_t, 2> end = {layout.elements(Placement::replicated),
                                     layout.elements(Placement::expert)};
  for (Bucket& bucket : buckets_ | std::views::reverse) {
    std::int64_t& next = end[std::size_t(bucket.placement)];
    bucket.size = next - bucket.first;
    next = bucket.first;
    const int members = position.holders(bucket.placement);
    if (sharded && members > 1) bucket.parts = parts_of(bucket, all, members);
  }
  for (std::size_t b = buckets_.size(); b-- > 0;) {
    const Bucket& bucket = buckets_[b];
    const Share mine = own_part(bucket);
    for (const std::size_t i : bucket.parameters) {
      const HeldParameter& p = all[i];
      const std::int64_t cols = p.cols(), at = p.offset - bucket.first;
      const auto row = [&](std::int64_t element) {
        return std::clamp<std::int64_t>((element - at + cols - 1) / cols, 0, p.rows());
      };
      const std::int64_t first = row(mine.first), rows = row(mine.first + mine.count) - first;
      if (rows > 0) owned_.push_back({i, b, first, rows});
    }
  }
}

Share BucketPlan::own_part(const Bucket& bucket) const {
  if (bucket.parts.empty()) return {0, bucket.size};
  const auto own = bucket.parts.begin() + position_.holder_rank(bucket.placement);
  return {std::accumulate(bucket.parts.begin(), own, std::int64_t{0}), *own};
}

}  // namespace moe
