// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "comm/process_grid.h"
#include "nn/parameter_layout.h"

namespace moe {

/// A run of neighbours in ParameterLayout's piece of a placement whose gradients are reduced, whose
/// rows are updated and whose weights are sent together.
struct Bucket {
  Placement placement = Placement::replicated;
  std::vector<std::size_t> parameters;  // of the store, last first: as they lie in memory
  std::int64_t first = 0, size = 0;     // elements of that piece
  /// Elements of each member of the group, one part after the other: which member updates what.
  /// Parts end where rows end. Not sharded: every member updates all, and this is empty.
  std::vector<std::int64_t> parts;
};

/// Rows [first, first + rows) of a parameter as this rank holds it, which its optimiser updates.
struct OwnedRows {
  std::size_t parameter = 0, bucket = 0;
  std::int64_t first = 0, rows = 0;
};

/// The trained parameters in buckets, and whose optimiser updates what (ZeRO stage 1, Rajbhandari
/// et al. 2020): sharded, the members of the group that replicates a parameter own a part of each
/// bucket; a replicated parameter is shared by the world, an expert's by its data group, so that
/// every rank keeps 1/W of the model's optimiser state. Buckets are numbered in the order in which
/// backward fills them, the same on every rank.
class BucketPlan {
 public:
  /// A bucket is closed when it holds `part_bytes` of gradients for each rank that shares it: that
  /// is the size of a message, for any number of ranks.
  BucketPlan(const ParameterLayout& layout, const GridPosition& position, DType gradient_type,
             std::int64_t part_bytes, bool sharded);

  const std::vector<Bucket>& buckets() const { return buckets_; }
  /// By bucket, the last bucket first: in the order of the forward pass.
  const std::vector<OwnedRows>& owned() const { return owned_; }
  bool sharded() const { return sharded_; }

  /// This rank's elements of a bucket, counted from its first.
  Share own_part(const Bucket& bucket) const;

 private:
  GridPosition position_;
  bool sharded_;
  std::vector<Bucket> buckets_;
  std::vector<OwnedRows> owned_;
};

}  // namespace moe
