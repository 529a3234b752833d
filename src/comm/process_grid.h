// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "config/exchange_options.h"
#include "config/model_parameters.h"

namespace moe {

/// A rank's place among EP x DP ranks: rank = data_rank * ep + expert_rank.
struct GridPosition {
  int rank = 0, world = 1, ep = 1;

  int dp() const { return world / ep; }
  int expert_rank() const { return rank % ep; }
  int data_rank() const { return rank / ep; }
  /// How many ranks hold copies of a parameter that this rank holds, and this rank's number among
  /// them.
  int holders(Placement p) const { return p == Placement::expert ? dp() : world; }
  int holder_rank(Placement p) const { return p == Placement::expert ? data_rank() : rank; }
};

/// Throws InputError when ep does not divide the number of ranks.
void require_grid(int world, int ep);

/// The ranks as EP x DP. Tokens travel within an expert group (ranks that together hold all experts
/// once); the copies of one expert sit in a data group.
class ProcessGrid {
 public:
  /// host: a number that stands for this rank's host. As require_grid(). Collective. Keeps a
  /// reference to `world`.
  ProcessGrid(Communicator& world, int ep, const ExchangeOptions& exchange = {}, int host = 0);

  Communicator& world() const { return world_; }
  Communicator& expert_group() const { return *expert_; }
  Communicator& data_group() const { return *data_; }
  /// The ranks that hold copies of a parameter of this placement.
  Communicator& holders(Placement p) const { return p == Placement::expert ? *data_ : world_; }
  GridPosition position() const { return {world_.rank(), world_.size(), ep()}; }
  int ep() const { return expert_->size(); }
  int dp() const { return data_->size(); }
  const ExchangeOptions& exchange() const { return exchange_; }

 private:
  Communicator& world_;
  ExchangeOptions exchange_;
  std::unique_ptr<Communicator> expert_, data_;
};

/// Contiguous share of `count` things for member `rank` of `size`: the first count % size members
/// hold one more. `first` is the first index held, `count` how many.
struct Share {
  std::int64_t first, count;
};
Share share_of(std::int64_t count, int rank, int size);

}  // namespace moe
