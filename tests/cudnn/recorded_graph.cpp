// SPDX-License-Identifier: Apache-2.0
#include "cudnn/recorded_graph.h"

#include <cudnn.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <map>

#include "core/error.h"
#include "support/graph_interpreter.h"

namespace moe::test {
namespace {

using Handle = cudnnBackendDescriptor_t;

/// A descriptor as its caller filled it.
struct Record {
  cudnnBackendDescriptorType_t type;
  std::map<cudnnBackendAttributeName_t, std::vector<std::byte>> attributes;
};
std::map<Handle, Record> records;
std::vector<Handle> last_operations;
std::map<Handle, std::vector<Handle>> operations_of_plan;

std::size_t size_of_item(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_BOOLEAN:
    case CUDNN_TYPE_CHAR:
      return 1;
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
      return 8;
    default:
      return sizeof(cudnnDataType_t);  // enumerations
  }
}

template <class T>
std::vector<T> all(Handle descriptor, cudnnBackendAttributeName_t name) {
  const std::vector<std::byte>& bytes = records.at(descriptor).attributes[name];
  std::vector<T> items(bytes.size() / sizeof(T));
  if (!items.empty()) std::memcpy(items.data(), bytes.data(), bytes.size());
  return items;
}

template <class T>
T one(Handle descriptor, cudnnBackendAttributeName_t name) {
  const std::vector<std::byte>& bytes = records.at(descriptor).attributes[name];
  MOE_CHECK(bytes.size() == sizeof(T), "attribute ", int(name), " was set to ", bytes.size(),
            " bytes");
  T item;
  std::memcpy(&item, bytes.data(), sizeof item);
  return item;
}

/// Rebuilds a graph, and the memory of its arguments, from descriptors.
class Rebuilt {
 public:
  Rebuilt(const std::vector<Handle>& operations, Handle pack) {
    const auto ids = all<std::int64_t>(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const auto pointers = all<void*>(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    MOE_CHECK(ids.size() == pointers.size(), ids.size(), " ids, ", pointers.size(), " pointers");
    for (std::size_t i = 0; i < ids.size(); ++i) memory_[ids[i]] = pointers[i];
    for (const Handle operation : operations) add(operation);
    for (std::size_t v = 0; v < graph.values.size(); ++v)
      if (graph.values[v].place == TensorGraph::Place::argument)
        arguments.push_back(memory_.at(id_of_value_[v]));
  }

  TensorGraph graph;
  std::vector<void*> arguments;

 private:
  using Op = TensorGraph::Op;

  void add(Handle operation) {
    switch (records.at(operation).type) {
      case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return node(operation, Op::matmul, CUDNN_ATTR_OPERATION_MATMUL_CDESC,
                    {CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC});
      case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        return node(operation, Op::reshape, CUDNN_ATTR_OPERATION_RESHAPE_YDESC,
                    {CUDNN_ATTR_OPERATION_RESHAPE_XDESC});
      case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return node(operation,
                    reduction(one<Handle>(operation, CUDNN_ATTR_OPERATION_REDUCTION_DESC)),
                    CUDNN_ATTR_OPERATION_REDUCTION_YDESC, {CUDNN_ATTR_OPERATION_REDUCTION_XDESC});
      case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return node(operation,
                    pointwise(one<Handle>(operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR)),
                    CUDNN_ATTR_OPERATION_POINTWISE_YDESC,
                    {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                     CUDNN_ATTR_OPERATION_POINTWISE_TDESC});
      default:
        throw Error("an operation that attention does not have");
    }
  }

  void node(Handle operation, Op op, cudnnBackendAttributeName_t output,
            const std::vector<cudnnBackendAttributeName_t>& inputs) {
    std::vector<int> values;
    for (const auto input : inputs)
      for (const Handle tensor : all<Handle>(operation, input)) values.push_back(value(tensor));
    graph.node(op, values, value(one<Handle>(operation, output)));
  }

  static Op reduction(Handle kind) {
    switch (one<cudnnReduceTensorOp_t>(kind, CUDNN_ATTR_REDUCTION_OPERATOR)) {
      case CUDNN_REDUCE_TENSOR_ADD:
        return Op::sum;
      case CUDNN_REDUCE_TENSOR_MAX:
        return Op::maximum;
      default:
        throw Error("a reduction that attention does not have");
    }
  }

  static Op pointwise(Handle kind) {
    switch (one<cudnnPointwiseMode_t>(kind, CUDNN_ATTR_POINTWISE_MODE)) {
      case CUDNN_POINTWISE_MUL:
        return Op::multiply;
      case CUDNN_POINTWISE_ADD:
        return Op::add;
      case CUDNN_POINTWISE_SUB:
        return Op::subtract;
      case CUDNN_POINTWISE_DIV:
        return Op::divide;
      case CUDNN_POINTWISE_EXP:
        return Op::exp;
      case CUDNN_POINTWISE_LOG:
        return Op::log;
      case CUDNN_POINTWISE_CMP_GE:
        return Op::at_least;
      case CUDNN_POINTWISE_BINARY_SELECT:
        return Op::select;
      case CUDNN_POINTWISE_GEN_INDEX: {
        const auto axis = one<std::int64_t>(kind, CUDNN_ATTR_POINTWISE_AXIS);
        MOE_CHECK(axis == 2 || axis == 3, "index of axis ", axis);
        return axis == 2 ? Op::row_index : Op::column_index;
      }
      default:
        throw Error("an elementwise operation that attention does not have");
    }
  }

  static TensorGraph::Type type_of(cudnnDataType_t type) {
    switch (type) {
      case CUDNN_DATA_BFLOAT16:
        return TensorGraph::Type::bf16;
      case CUDNN_DATA_FLOAT:
        return TensorGraph::Type::f32;
      case CUDNN_DATA_INT32:
        return TensorGraph::Type::i32;
      case CUDNN_DATA_BOOLEAN:
        return TensorGraph::Type::boolean;
      default:
        throw Error("a type that attention does not have");
    }
  }

  int value(Handle tensor) {
    const auto id = one<std::int64_t>(tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID);
    const auto known = std::find(id_of_value_.begin(), id_of_value_.end(), id);
    if (known != id_of_value_.end()) return int(known - id_of_value_.begin());
    const auto extents = [&](cudnnBackendAttributeName_t name) {
      const auto items = all<std::int64_t>(tensor, name);
      MOE_CHECK(items.size() == 4, items.size(), " dimensions");
      return TensorGraph::Extents{items[0], items[1], items[2], items[3]};
    };
    const bool inner = one<bool>(tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
    const bool constant = one<bool>(tensor, CUDNN_ATTR_TENSOR_IS_BY_VALUE);
    MOE_CHECK(!(inner && constant), "tensor ", id, " is virtual and by value");
    MOE_CHECK(inner || memory_.contains(id), "tensor ", id, " has no memory");
    TensorGraph::Value v{str(id), extents(CUDNN_ATTR_TENSOR_DIMENSIONS),
                         extents(CUDNN_ATTR_TENSOR_STRIDES),
                         type_of(one<cudnnDataType_t>(tensor, CUDNN_ATTR_TENSOR_DATA_TYPE)),
                         inner      ? TensorGraph::Place::inner
                         : constant ? TensorGraph::Place::constant
                                    : TensorGraph::Place::argument};
    if (constant) v.number = *static_cast<const float*>(memory_.at(id));
    graph.values.push_back(v);
    id_of_value_.push_back(id);
    return int(graph.values.size()) - 1;
  }

  std::map<std::int64_t, void*> memory_;
  std::vector<std::int64_t> id_of_value_;
};

template <class F>
F* real(F*, const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

std::vector<TensorGraph>& executed_graphs() {
  static std::vector<TensorGraph> graphs;
  return graphs;
}

}  // namespace moe::test

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t* descriptor) {
  using namespace moe::test;
  const cudnnStatus_t status = real(&cudnnBackendCreateDescriptor, __func__)(type, descriptor);
  records[*descriptor] = {type, {}};
  return status;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, std::int64_t count,
                                       const void* items) {
  using namespace moe::test;
  const auto* bytes = static_cast<const std::byte*>(items);
  records.at(descriptor)
      .attributes[name]
      .assign(bytes, bytes + std::size_t(count) * size_of_item(type));
  if (name == CUDNN_ATTR_OPERATIONGRAPH_OPS)
    last_operations = all<cudnnBackendDescriptor_t>(descriptor, name);
  if (name == CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)
    operations_of_plan[descriptor] = last_operations;
  return real(&cudnnBackendSetAttribute, __func__)(descriptor, name, type, count, items);
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack) {
  using namespace moe::test;
  try {
    Rebuilt rebuilt(operations_of_plan.at(plan), pack);
    interpret(rebuilt.graph, rebuilt.arguments, ArgumentTypes::own);
    executed_graphs().push_back(std::move(rebuilt.graph));
  } catch (const std::exception& e) {
    ADD_FAILURE() << e.what();
  }
  return CUDNN_STATUS_SUCCESS;
}
