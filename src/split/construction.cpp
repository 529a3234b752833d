// SPDX-License-Identifier: Apache-2.0
#include "split/construction.h"

#include "core/error.h"

namespace moe {

namespace {

struct Method {
  const char* name;
  std::unique_ptr<Construction> (*make)(const ConstructionOptions& options);
};

constexpr Method kMethods[] = {
    {"random", make_random_construction},
    {"clustering", make_clustering_construction},
};

}  // namespace

std::unique_ptr<Construction> make_construction(std::string_view method,
                                                const ConstructionOptions& options) {
  for (const Method& m : kMethods)
    if (method == m.name) return m.make(options);
  throw InputError(str("unknown method '", method, "': use ", join(construction_names(), " or ")));
}

std::vector<std::string> construction_names() {
  std::vector<std::string> names;
  for (const Method& m : kMethods) names.emplace_back(m.name);
  return names;
}

}  // namespace moe
