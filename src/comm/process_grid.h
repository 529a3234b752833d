// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "config/exchange_options.h"

namespace moe {

/// The ranks as EP x DP: rank = data_rank * ep + expert_rank. Tokens travel within an expert group
/// (ranks that together hold all experts once); the copies of one expert sit in a data group.
class ProcessGrid {
 public:
  /// Throws InputError when ep does not divide the world's size. Collective. Keeps a reference to
  /// `world`.
  ProcessGrid(Communicator& world, int ep, const ExchangeOptions& exchange = {});

  Communicator& world() const { return world_; }
  Communicator& expert_group() const { return *expert_; }
  Communicator& data_group() const { return *data_; }
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
