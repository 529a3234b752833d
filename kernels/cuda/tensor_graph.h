// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace moe {

/// A computation over tensors of four dimensions, as data: a library makes one kernel of it, and
/// tests compute it by hand to see what it means.
struct TensorGraph {
  enum class Type : std::uint8_t { bf16, f32, i32, boolean };
  enum class Place : std::uint8_t {
    argument,  // memory of the caller
    inner,     // need not exist anywhere
    constant,  // one number, of all indices
  };
  using Extents = std::array<std::int64_t, 4>;

  struct Value {
    std::string name;
    Extents dims, strides;  // element (i, j, k, l) lies at the sum of index * stride
    Type type;
    Place place;
    double number = 0;  // of a constant
  };

  /// y is the output, a, b and c are the inputs. An input with fewer heads (the second dimension)
  /// than the output has every head once for each of as many consecutive heads of the output; one
  /// with a single element along another dimension has it at every index.
  enum class Op : std::uint8_t {
    matmul,        // y[i, j] = sum_p a[i, p] b[p, j], for each sequence and head
    reshape,       // y has the elements of a, in memory, under its own dims and strides
    multiply,      // a b
    add,           // a + b
    subtract,      // a - b
    divide,        // a / b
    exp,           // e^a
    log,           // natural logarithm of a
    row_index,     // the third index of the element
    column_index,  // the fourth
    at_least,      // a >= b
    select,        // c ? a : b
    sum,           // over what y lacks: a dimension in which it has one element, heads of a group
    maximum,       // likewise
  };

  struct Node {
    Op op;
    std::vector<int> inputs;  // indices of values
    int output;
  };

  std::vector<Value> values;
  std::vector<Node> nodes;  // in an order in which they can be computed

  int argument(std::string name, Extents dims, Extents strides, Type type) {
    return append({std::move(name), dims, strides, type, Place::argument});
  }
  int constant(std::string name, double number) {
    return append(
        {std::move(name), {1, 1, 1, 1}, {1, 1, 1, 1}, Type::f32, Place::constant, number});
  }
  int inner(std::string name, Extents dims, Type type = Type::f32) {
    return append({std::move(name), dims, packed(dims), type, Place::inner});
  }
  /// Adds a node that writes `output`, and returns that.
  int node(Op op, std::vector<int> inputs, int output) {
    nodes.push_back({op, std::move(inputs), output});
    return output;
  }

  static Extents packed(const Extents& dims) {
    return {dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1};
  }

 private:
  int append(Value value) {
    values.push_back(std::move(value));
    return int(values.size()) - 1;
  }
};

}  // namespace moe
