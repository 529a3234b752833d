// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "config/model_json.h"
#include "core/error.h"
#include "train/checkpoint_files.h"

namespace moe {
namespace {

using nlohmann::json;

std::string value_text(const Tensor& t, std::int64_t i) {
  switch (t.dtype()) {
    case DType::f32:
      return fmt::format("{}", t.data<float>()[i]);
    case DType::f64:
      return fmt::format("{}", t.data<double>()[i]);
    case DType::bf16:
      return fmt::format("{}", float(t.data<bf16>()[i]));
    case DType::f16:
      return fmt::format("{}", float(t.data<f16>()[i]));
    case DType::i32:
      return fmt::format("{}", t.data<std::int32_t>()[i]);
    case DType::i64:
      return fmt::format("{}", t.data<std::int64_t>()[i]);
    case DType::u8:
      return fmt::format("{}", t.data<std::uint8_t>()[i]);
  }
  return "?";
}

/// The place of element i in a tensor of this shape: "[2, 5]".
std::string place(const Shape& shape, std::int64_t i) {
  std::vector<std::int64_t> at(shape.size());
  for (std::size_t d = shape.size(); d-- > 0; i /= shape[d]) at[d] = i % shape[d];
  return "[" + join(at, ", ") + "]";
}

/// What differs in a tensor that both have, or empty.
std::string compare(const CheckpointReader& a, const CheckpointReader& b,
                    const CheckpointTensor& tensor) {
  const std::int64_t rows = tensor.shape[0];
  std::int64_t cols = 1;
  for (std::size_t d = 1; d < tensor.shape.size(); ++d) cols *= tensor.shape[d];
  const auto width = std::int64_t(size_of(tensor.dtype));
  const std::int64_t step = rows_at_once(tensor.shape, tensor.dtype);
  std::int64_t different = 0;
  std::string first;
  for (std::int64_t row = 0; row < rows; row += step) {
    const std::int64_t count = std::min(step, rows - row);
    const Tensor x = a.read(tensor.name, row, count), y = b.read(tensor.name, row, count);
    if (std::memcmp(x.bytes(), y.bytes(), x.nbytes()) == 0) continue;
    for (std::int64_t i = 0; i < x.size(); ++i) {
      if (std::memcmp(x.bytes() + i * width, y.bytes() + i * width, std::size_t(width)) == 0)
        continue;
      if (different++ == 0)
        first = fmt::format("first at {}: {} and {}", place(tensor.shape, row * cols + i),
                            value_text(x, i), value_text(y, i));
    }
  }
  return different == 0 ? ""
                        : fmt::format("{} of {} values differ, {}", different, rows * cols, first);
}

void compare_json(const json& a, const json& b, const std::string& where,
                  std::vector<CheckpointDifference>& out) {
  if (a.is_object() && b.is_object()) {
    std::set<std::string> keys;
    for (const auto& [key, value] : a.items()) keys.insert(key);
    for (const auto& [key, value] : b.items()) keys.insert(key);
    for (const std::string& key : keys) {
      const std::string full = where + "/" + key;
      if (!b.contains(key))
        out.push_back({full, "only in the first"});
      else if (!a.contains(key))
        out.push_back({full, "only in the second"});
      else
        compare_json(a[key], b[key], full, out);
    }
  } else if (a != b) {
    const auto shown = [](const json& j) {
      const std::string text = j.dump();
      return text.size() <= 60 ? text : text.substr(0, 57) + "...";
    };
    out.push_back({where, shown(a) + " and " + shown(b)});
  }
}

json state_of(const CheckpointReader& reader) {
  try {
    json state = json::parse(reader.state_json());
    if (state.is_object()) state.erase("machine");
    return state;
  } catch (const json::exception& e) {
    throw InputError(str(reader.folder().string(), "/state.json: ", e.what()));
  }
}

}  // namespace

std::vector<CheckpointDifference> diff_checkpoints(const CheckpointReader& a,
                                                   const CheckpointReader& b) {
  std::vector<CheckpointDifference> out;
  if (a.step() != b.step()) out.push_back({"step", str(a.step(), " and ", b.step())});
  compare_json(json::parse(model_config_to_json(a.model_config())),
               json::parse(model_config_to_json(b.model_config())), "model", out);
  compare_json(state_of(a), state_of(b), "state", out);

  std::set<std::string> in_b;
  for (const CheckpointTensor& t : b.tensors()) in_b.insert(t.name);
  for (const CheckpointTensor& t : a.tensors()) {
    if (in_b.erase(t.name) == 0) {
      out.push_back({t.name, "only in the first"});
      continue;
    }
    const CheckpointTensor& other = b.tensor(t.name);
    if (t.dtype != other.dtype || t.shape != other.shape) {
      out.push_back({t.name, str(name(t.dtype), " ", join(t.shape), " and ", name(other.dtype), " ",
                                 join(other.shape))});
      continue;
    }
    if (std::string what = compare(a, b, t); !what.empty())
      out.push_back({t.name, std::move(what)});
  }
  for (const std::string& name : in_b) out.push_back({name, "only in the second"});
  return out;
}

}  // namespace moe
