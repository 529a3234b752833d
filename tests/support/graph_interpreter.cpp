// SPDX-License-Identifier: Apache-2.0
#include "support/graph_interpreter.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"

namespace moe::test {
namespace {

using Value = TensorGraph::Value;
using Extents = TensorGraph::Extents;
using Op = TensorGraph::Op;
using Type = TensorGraph::Type;
using Place = TensorGraph::Place;

template <class F>
void each_index(const Extents& dims, F&& f) {
  Extents i{};
  for (i[0] = 0; i[0] < dims[0]; ++i[0])
    for (i[1] = 0; i[1] < dims[1]; ++i[1])
      for (i[2] = 0; i[2] < dims[2]; ++i[2])
        for (i[3] = 0; i[3] < dims[3]; ++i[3]) f(i);
}

std::size_t offset_of(const Value& v, const Extents& i) {
  std::int64_t offset = 0;
  for (std::size_t d = 0; d < 4; ++d) offset += i[d] * v.strides[d];
  return std::size_t(offset);
}

std::size_t span_of(const Value& v) {
  Extents last = v.dims;
  for (std::int64_t& n : last) --n;
  return offset_of(v, last) + 1;
}

/// The index in a tensor of `dims` that stands for `i` of one of `outer`, which has as many
/// elements or a multiple: of heads, or of one element.
Extents index_within(const Extents& dims, const Extents& outer, const Extents& i) {
  Extents at{};
  for (std::size_t d = 0; d < 4; ++d) {
    MOE_CHECK(dims[d] == outer[d] || dims[d] == 1 || (d == 1 && outer[d] % dims[d] == 0),
              "dimension ", d, " of ", dims[d], " within ", outer[d]);
    at[d] = i[d] * dims[d] / outer[d];
  }
  return at;
}

class Interpreter {
 public:
  Interpreter(const TensorGraph& graph, std::span<void* const> arguments, ArgumentTypes types)
      : graph_(graph), wide_(types == ArgumentTypes::f64), memory_(graph.values.size()) {
    std::size_t next = 0;
    for (std::size_t v = 0; v < graph.values.size(); ++v) {
      if (graph.values[v].place == Place::constant) memory_[v] = {graph.values[v].number};
      if (graph.values[v].place != Place::argument) continue;
      MOE_CHECK(next < arguments.size(), "too few arguments");
      load(v, arguments[next++]);
    }
    MOE_CHECK(next == arguments.size(), "too many arguments");
    written_.resize(graph.values.size());
    for (const TensorGraph::Node& node : graph.nodes) {
      compute(node);
      MOE_CHECK(!written_[std::size_t(node.output)], "written twice: ", value(node.output).name);
      written_[std::size_t(node.output)] = true;
    }
    next = 0;
    for (std::size_t v = 0; v < graph.values.size(); ++v)
      if (graph.values[v].place == Place::argument) {
        if (written_[v]) store(v, arguments[next]);
        ++next;
      }
  }

 private:
  const Value& value(int v) const { return graph_.values[std::size_t(v)]; }

  void load(std::size_t v, const void* from) {
    const Value& x = graph_.values[v];
    std::vector<double> storage(span_of(x));
    each_index(x.dims, [&](const Extents& i) {
      const std::size_t at = offset_of(x, i);
      storage[at] = wide_                  ? static_cast<const double*>(from)[at]
                    : x.type == Type::bf16 ? double(float(static_cast<const bf16*>(from)[at]))
                    : x.type == Type::i32  ? double(static_cast<const std::int32_t*>(from)[at])
                                           : double(static_cast<const float*>(from)[at]);
    });
    memory_[v] = std::move(storage);
  }

  void store(std::size_t v, void* to) const {
    const Value& x = graph_.values[v];
    each_index(x.dims, [&](const Extents& i) {
      const std::size_t at = offset_of(x, i);
      if (wide_)
        static_cast<double*>(to)[at] = memory_[v][at];
      else if (x.type == Type::bf16)
        static_cast<bf16*>(to)[at] = bf16(float(memory_[v][at]));
      else
        static_cast<float*>(to)[at] = float(memory_[v][at]);
    });
  }

  double read(int v, const Extents& i) const {
    return memory_[std::size_t(v)][offset_of(value(v), i)];
  }
  double read_within(int v, const Extents& outer, const Extents& i) const {
    return read(v, index_within(value(v).dims, outer, i));
  }

  void compute(const TensorGraph::Node& node) {
    for (const int input : node.inputs)
      MOE_CHECK(!memory_[std::size_t(input)].empty(),
                "used before it is there: ", value(input).name);
    const Value& y = value(node.output);
    if (node.op == Op::reshape) {
      memory_[std::size_t(node.output)] = memory_[std::size_t(node.inputs[0])];
      MOE_CHECK(span_of(y) == span_of(value(node.inputs[0])), "reshape to another size: ", y.name);
      return;
    }
    std::vector<double> result(
        span_of(y), node.op == Op::maximum ? -std::numeric_limits<double>::infinity() : 0.0);
    const auto at = [&](const Extents& i) -> double& { return result[offset_of(y, i)]; };
    switch (node.op) {
      case Op::matmul:
        each_index(y.dims, [&](const Extents& i) { at(i) = product(node, i); });
        break;
      case Op::sum:
      case Op::maximum:
        each_index(value(node.inputs[0]).dims, [&](const Extents& i) {
          const double x = read(node.inputs[0], i);
          double& total = at(index_within(y.dims, value(node.inputs[0]).dims, i));
          total = node.op == Op::sum ? total + x : std::fmax(total, x);
        });
        break;
      default:
        each_index(y.dims, [&](const Extents& i) { at(i) = element(node, i); });
    }
    memory_[std::size_t(node.output)] = std::move(result);
  }

  double product(const TensorGraph::Node& node, const Extents& i) const {
    const Extents &y = value(node.output).dims, &a = value(node.inputs[0]).dims,
                  &b = value(node.inputs[1]).dims;
    MOE_CHECK(a[2] == y[2] && b[3] == y[3] && a[3] == b[2], "matmul of ", join(a), " and ",
              join(b));
    const std::int64_t head_a = i[1] * a[1] / y[1], head_b = i[1] * b[1] / y[1];
    double sum = 0;
    for (std::int64_t p = 0; p < a[3]; ++p)
      sum += read(node.inputs[0], {i[0], head_a, i[2], p}) *
             read(node.inputs[1], {i[0], head_b, p, i[3]});
    return sum;
  }

  double element(const TensorGraph::Node& node, const Extents& i) const {
    const Extents& dims = value(node.output).dims;
    const auto in = [&](std::size_t n) { return read_within(node.inputs.at(n), dims, i); };
    switch (node.op) {
      case Op::multiply:
        return in(0) * in(1);
      case Op::add:
        return in(0) + in(1);
      case Op::subtract:
        return in(0) - in(1);
      case Op::divide:
        return in(0) / in(1);
      case Op::exp:
        return std::exp(in(0));
      case Op::log:
        return std::log(in(0));
      case Op::row_index:
        return double(i[2]);
      case Op::column_index:
        return double(i[3]);
      case Op::at_least:
        return in(0) >= in(1) ? 1 : 0;
      case Op::select:
        return in(2) != 0 ? in(0) : in(1);
      default:
        throw Error("an operation that is not elementwise");
    }
  }

  const TensorGraph& graph_;
  const bool wide_;
  std::vector<std::vector<double>> memory_;  // of each value, as its strides address it
  std::vector<bool> written_;
};

}  // namespace

void interpret(const TensorGraph& graph, std::span<void* const> arguments, ArgumentTypes types) {
  Interpreter(graph, arguments, types);
}

}  // namespace moe::test
