// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "comm/process_grid.h"
#include "nn/parameter_store.h"

namespace moe {

/// The rows of frozen parameters that this rank writes to checkpoints: each row is one rank's of
/// those that hold it. Where the model's type drops bits of what was loaded (bf16), these rows keep
/// them, on the host, so that a run gives frozen parameters back as it took them.
class FrozenMasters {
 public:
  struct Rows {
    std::size_t parameter = 0;  // of the store
    std::int64_t first = 0;     // of the rows that this rank holds
    Tensor value;               // of the accumulator's type
  };

  FrozenMasters(ParameterStore& parameters, const ProcessGrid& grid);
  void load(const ParameterRows& rows);

  const std::vector<Rows>& rows() const { return rows_; }

 private:
  ParameterStore& parameters_;
  std::vector<Rows> rows_;
};

}  // namespace moe
