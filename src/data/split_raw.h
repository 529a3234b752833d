// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/intake.h"

namespace moe {

struct SplitRawOptions {
  IntakeOptions intake;
  std::filesystem::path output;             // the folder, which gets DOMAIN/00000.jsonl.zst, ...
  std::int64_t file_bytes = 1'000'000'000;  // of lines; a file ends soon after it has so many
  bool force = false;                       // replace existing files
  int threads = 0;                          // 0: all cores
  double save_every = 30;                   // seconds of work that a kill may cost
};

struct SplitRawReport {
  struct Domain {
    std::string name;
    std::int64_t documents = 0;
    std::int64_t text_bytes = 0;
    std::int64_t files = 0;
  };
  std::vector<Domain> domains;  // in the order in which the inputs first have them
  IntakeCounts left_out;
  double seconds = 0;
};

/// Hears the bytes of input read and the documents seen so far; first, where an earlier run
/// stopped.
using SplitRawProgress = std::function<void(std::int64_t bytes, std::int64_t documents)>;

/// Parts raw jsonl by domain: every line that is taken goes unchanged, in order, to the files of
/// its domain. The bytes written do not depend on the number of threads; after a kill the same call
/// goes on, to the same bytes. Files get their names when all are complete. Throws InputError.
SplitRawReport split_raw(const SplitRawOptions& options, const SplitRawProgress& progress = {});

}  // namespace moe
