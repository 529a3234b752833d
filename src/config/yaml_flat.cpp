// SPDX-License-Identifier: Apache-2.0
#include "config/yaml_flat.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "core/error.h"

namespace moe {
namespace {

using Flat = std::vector<std::pair<std::string, std::string>>;

void flatten(const YAML::Node& node, const std::string& key, Flat& out) {
  const auto below = [&](const std::string& name) { return key.empty() ? name : key + "." + name; };
  if (node.IsMap()) {
    for (const auto& entry : node) flatten(entry.second, below(entry.first.Scalar()), out);
  } else if (node.IsSequence()) {
    if (std::all_of(node.begin(), node.end(), [](const auto& item) { return item.IsScalar(); })) {
      std::string list;
      for (const auto& item : node) list += (list.empty() ? "" : ", ") + item.Scalar();
      out.emplace_back(key, "[" + list + "]");
    } else {
      for (std::size_t i = 0; i < node.size(); ++i) flatten(node[i], below(std::to_string(i)), out);
    }
  } else {
    out.emplace_back(key, node.IsScalar() ? node.Scalar() : "");
  }
}

}  // namespace

Flat flat_yaml(const std::string& text, const std::string& name) {
  try {
    Flat out;
    const YAML::Node root = YAML::Load(text);
    if (!root.IsNull()) flatten(root, "", out);
    return out;
  } catch (const YAML::Exception& e) {
    throw InputError(str(name, ":", e.mark.line + 1, ": bad YAML: ", e.msg));
  }
}

}  // namespace moe
