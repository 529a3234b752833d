// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/record.h"
#include "eval/task.h"

namespace moe {

/// How likely is `continuation` behind `context`?
struct Request {
  std::string context, continuation;
};

/// One record of a task, without the examples before it. Option i is continuations[i] behind
/// contexts[i]; options that share a context or a continuation repeat it.
struct Question {
  std::string where;  // "sciq.jsonl:12"
  std::vector<std::string> contexts, continuations;
  std::size_t gold = 0;          // the right option; of form several the first of them
  std::vector<bool> right = {};  // of form several: of each option

  /// As an example: the right option and its context.
  std::string solved(const TaskSpec& task) const;
  friend bool operator==(const Question& a, const Question& b) {
    return a.contexts == b.contexts && a.continuations == b.continuations;
  }
};

/// The questions that records ask, in order; records of ready requests with the same doc_id that
/// follow each other make one question. At most `limit`. Throws InputError at the record for a
/// missing field, no choices, an empty continuation, no right option or one that is out of range.
std::vector<Question> questions_of(const std::vector<Record>& records, const TaskSpec& task);

/// The examples before question `number` of its file, as places in `pool`: task.shots of them, none
/// equal to the question. Drawn by (seed, number) alone, or the first of the pool. Throws
/// InputError where the pool has too few.
std::vector<std::size_t> choose_examples(const Question& question, std::int64_t number,
                                         const std::vector<Question>& pool, const TaskSpec& task,
                                         std::uint64_t seed);

/// One request an option: `preamble` (description and examples) stands before its context.
std::vector<Request> requests_of(const Question& question, const std::string& preamble,
                                 const TaskSpec& task);

}  // namespace moe
