// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/engine.h"

namespace moe {

/// A fault that `moe-train --inject KIND:key=value,...` asks for (docs/drills.md).
struct Fault {
  enum class Kind : std::uint8_t {
    late,
    dead,
    stopped,
    hot_expert,
    nan,
    flipped_byte,
    full_disk,
    failing_disk
  } kind = Kind::late;
  std::int64_t first_step = 0, last_step = 0;  // happens at each of them
  std::int64_t rank = 0;
  double seconds = 0;          // late
  std::int64_t expert = -1;    // hot-expert
  double share = 1;            // hot-expert: of the tokens
  std::string stage;           // happens in that stage alone; empty: in every one
  std::int64_t rollbacks = 0;  // happens while the run has rolled back so many times
  std::string text;            // as it was given
};

/// Throws InputError that says what is wrong and what the kind takes.
Fault parse_fault(const std::string& text);

/// Carries the faults out that concern this rank, each announced on standard error.
class FaultDrills {
 public:
  /// Throws InputError for a rank or expert that the run has not. Rank 0 announces what is to come.
  FaultDrills(std::vector<Fault> faults, int rank, int ranks, std::int64_t experts);

  /// At the beginning of a step: waits, dies or stops. `rollbacks`: of the run up to now.
  void begin_step(std::int64_t step, std::int64_t rollbacks) const;
  /// What the step's computation is to suffer.
  StepFaults faults_of(std::int64_t step, std::int64_t rollbacks) const;
  /// Before and after the checkpoint of a step is written; `folder`: where it now lies.
  void before_save(std::int64_t step) const;
  void after_save(std::int64_t step, const std::filesystem::path& folder) const;

 private:
  template <class Act>
  void at(std::int64_t step, std::int64_t rollbacks, Act&& act) const;

  std::vector<Fault> faults_;
  int rank_;
};

}  // namespace moe
