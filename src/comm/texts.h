// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace moe {

// Short texts between ranks. Collective; they wait.

/// Every rank's text, by rank.
std::vector<std::string> gather_texts(const std::string& text, Communicator& world);

/// The root's text; the others' is not looked at.
std::string broadcast_text(const std::string& text, int root, Communicator& world);

/// What failed on which rank, as one line for people: "rank 1: the disk is full; rank 3: ...".
/// Empty when every text is.
std::string join_failures(const std::vector<std::string>& by_rank);

/// The same for failures that have nothing to do with the rank that met them: without the ranks,
/// and what many say, once.
std::string distinct_failures(const std::vector<std::string>& by_rank);

}  // namespace moe
