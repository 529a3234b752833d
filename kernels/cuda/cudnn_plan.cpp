// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cudnn_plan.h"

#include <cudnn.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "core/error.h"

namespace moe {
namespace {

/// cuDNN has nothing that does what was asked.
struct Refused {
  std::string why;
};

void check(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::array<char, 512> details{};
  cudnnGetLastErrorString(details.data(), details.size());
  const std::string words = str(cudnnGetErrorString(status), ": ", details.data());
  if (CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED) throw Refused{words};
  throw Error(str(call, ": ", words));
}

/// A descriptor of cuDNN's graph interface: filled by set(), usable after finalize(). Keeps no
/// other alive: whoever makes a chain of them keeps them all.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    check(cudnnBackendCreateDescriptor(type, &raw_), "cudnnBackendCreateDescriptor");
  }
  ~Descriptor() { cudnnBackendDestroyDescriptor(raw_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  template <class T>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const T& item) {
    set_all(name, type, std::array<T, 1>{item});
  }
  void set(cudnnBackendAttributeName_t name, const Descriptor& other) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, other.raw_);
  }
  template <class Items>
  void set_all(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
               const Items& items) {
    check(cudnnBackendSetAttribute(raw_, name, type, std::int64_t(items.size()), items.data()),
          "cudnnBackendSetAttribute");
  }

  /// Writes as many items as there is room for; returns how many there are.
  template <class Items>
  std::int64_t get_all(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                       Items& items) const {
    std::int64_t count = 0;
    check(cudnnBackendGetAttribute(raw_, name, type, std::int64_t(items.size()), &count,
                                   items.data()),
          "cudnnBackendGetAttribute");
    return count;
  }

  void finalize() { check(cudnnBackendFinalize(raw_), "cudnnBackendFinalize"); }
  cudnnBackendDescriptor_t raw() const { return raw_; }

 private:
  cudnnBackendDescriptor_t raw_ = nullptr;
};

using Owned = std::unique_ptr<Descriptor>;

Owned make(cudnnBackendDescriptorType_t type) { return std::make_unique<Descriptor>(type); }

cudnnDataType_t type_of(TensorGraph::Type type) {
  switch (type) {
    case TensorGraph::Type::bf16:
      return CUDNN_DATA_BFLOAT16;
    case TensorGraph::Type::f32:
      return CUDNN_DATA_FLOAT;
    case TensorGraph::Type::i32:
      return CUDNN_DATA_INT32;
    case TensorGraph::Type::boolean:
      return CUDNN_DATA_BOOLEAN;
  }
  throw Error("no such type of a graph");
}

/// cuDNN's name of a value.
std::int64_t id_of(int value) { return value + 1; }

Owned tensor(const TensorGraph::Value& value, int index) {
  Owned d = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d->set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, id_of(index));
  d->set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type_of(value.type));
  d->set_all(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, value.dims);
  d->set_all(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, value.strides);
  d->set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, std::int64_t{16});
  d->set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN,
         value.place == TensorGraph::Place::inner);
  d->set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN,
         value.place == TensorGraph::Place::constant);
  d->finalize();
  return d;
}

/// What an elementwise operation is to cuDNN, and the type in which it computes.
struct Pointwise {
  cudnnPointwiseMode_t mode;
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  std::int64_t axis = -1;
};

Pointwise pointwise_of(TensorGraph::Op op) {
  using Op = TensorGraph::Op;
  switch (op) {
    case Op::multiply:
      return {CUDNN_POINTWISE_MUL};
    case Op::add:
      return {CUDNN_POINTWISE_ADD};
    case Op::subtract:
      return {CUDNN_POINTWISE_SUB};
    case Op::divide:
      return {CUDNN_POINTWISE_DIV};
    case Op::exp:
      return {CUDNN_POINTWISE_EXP};
    case Op::log:
      return {CUDNN_POINTWISE_LOG};
    case Op::row_index:
      return {CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, 2};
    case Op::column_index:
      return {CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, 3};
    case Op::at_least:
      return {CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN};
    case Op::select:
      return {CUDNN_POINTWISE_BINARY_SELECT};
    default:
      throw Error("no elementwise operation of a graph");
  }
}

/// Makes the descriptors of a graph and keeps those that the plan goes on referring to.
class Translation {
 public:
  Translation(const TensorGraph& graph, cudnnHandle_t handle, std::vector<Owned>& kept)
      : kept_(kept) {
    for (const TensorGraph::Value& value : graph.values)
      tensors_.push_back(keep(tensor(value, int(tensors_.size()))));
    std::vector<cudnnBackendDescriptor_t> operations;
    for (const TensorGraph::Node& node : graph.nodes) operations.push_back(operation(node).raw());
    operation_graph = make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (handle != nullptr)
      operation_graph->set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, handle);
    operation_graph->set_all(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                             operations);
    operation_graph->finalize();
  }

  Owned operation_graph;

 private:
  Descriptor& keep(Owned d) { return *kept_.emplace_back(std::move(d)); }
  const Descriptor& input(const TensorGraph::Node& node, std::size_t i) const {
    return tensors_[std::size_t(node.inputs[i])];
  }
  const Descriptor& output(const TensorGraph::Node& node) const {
    return tensors_[std::size_t(node.output)];
  }

  Descriptor& operation(const TensorGraph::Node& node) {
    switch (node.op) {
      case TensorGraph::Op::matmul:
        return matmul(node);
      case TensorGraph::Op::reshape:
        return reshape(node);
      case TensorGraph::Op::sum:
        return reduction(node, CUDNN_REDUCE_TENSOR_ADD);
      case TensorGraph::Op::maximum:
        return reduction(node, CUDNN_REDUCE_TENSOR_MAX);
      default:
        return pointwise(node);
    }
  }

  Descriptor& matmul(const TensorGraph::Node& node) {
    Descriptor& kind = keep(make(CUDNN_BACKEND_MATMUL_DESCRIPTOR));
    kind.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
    kind.finalize();
    Descriptor& d = keep(make(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR));
    d.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, input(node, 0));
    d.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, input(node, 1));
    d.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, output(node));
    d.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, kind);
    d.finalize();
    return d;
  }

  Descriptor& reshape(const TensorGraph::Node& node) {
    Descriptor& d = keep(make(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR));
    d.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, input(node, 0));
    d.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, output(node));
    d.finalize();
    return d;
  }

  Descriptor& reduction(const TensorGraph::Node& node, cudnnReduceTensorOp_t how) {
    Descriptor& kind = keep(make(CUDNN_BACKEND_REDUCTION_DESCRIPTOR));
    kind.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, how);
    kind.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
    kind.finalize();
    Descriptor& d = keep(make(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR));
    d.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, input(node, 0));
    d.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, output(node));
    d.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind);
    d.finalize();
    return d;
  }

  Descriptor& pointwise(const TensorGraph::Node& node) {
    const Pointwise what = pointwise_of(node.op);
    Descriptor& kind = keep(make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR));
    kind.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, what.mode);
    kind.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, what.type);
    if (what.axis >= 0) kind.set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, what.axis);
    kind.finalize();
    constexpr std::array kInputs = {CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
                                    CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                                    CUDNN_ATTR_OPERATION_POINTWISE_TDESC};
    Descriptor& d = keep(make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR));
    for (std::size_t i = 0; i < node.inputs.size(); ++i) d.set(kInputs[i], input(node, i));
    d.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, output(node));
    d.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
    d.finalize();
    return d;
  }

  std::vector<Owned>& kept_;
  std::vector<std::reference_wrapper<Descriptor>> tensors_;
};

/// The kernels that cuDNN proposes for a graph, the most promising first.
std::vector<Owned> proposals(const Descriptor& operation_graph, const Descriptor* device) {
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, operation_graph);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, CUDNN_HEUR_MODE_A);
  if (device != nullptr) heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *device);
  heuristics.finalize();
  std::vector<cudnnBackendDescriptor_t> raw;
  const auto results = [&] {
    return std::size_t(
        heuristics.get_all(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, raw));
  };
  std::vector<Owned> found(results());
  for (Owned& proposal : found) {
    proposal = make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    raw.push_back(proposal->raw());
  }
  found.resize(results());
  return found;
}

/// Whether cuDNN notes that the results of an engine vary from run to run.
bool varies(const Descriptor& configuration) {
  const Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  std::array raw = {engine.raw()};
  configuration.get_all(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, raw);
  std::array<cudnnBackendNumericalNote_t, CUDNN_NUMERICAL_NOTE_TYPE_COUNT> notes{};
  const auto end = notes.begin() + engine.get_all(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                                  CUDNN_TYPE_NUMERICAL_NOTE, notes);
  return std::find(notes.begin(), end, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) != end;
}

Owned finished_plan(const Descriptor& configuration, cudnnHandle_t handle,
                    const Descriptor* device) {
  Owned plan = make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan->set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
  if (handle != nullptr) plan->set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, handle);
  if (device != nullptr) plan->set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *device);
  plan->finalize();
  return plan;
}

}  // namespace

struct CudnnPlan::Parts {
  std::vector<Owned> made_from;  // destroyed last
  Owned plan;
  std::vector<std::int64_t> ids;  // arguments, then constants
  std::vector<float> constants;

  std::size_t arguments() const { return ids.size() - constants.size(); }
};

CudnnPlan::CudnnPlan(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
CudnnPlan::~CudnnPlan() = default;

std::unique_ptr<CudnnPlan> CudnnPlan::make(const TensorGraph& graph, const CudnnTarget& target,
                                           std::string& refusal) {
  auto parts = std::make_unique<Parts>();
  for (const auto place : {TensorGraph::Place::argument, TensorGraph::Place::constant})
    for (std::size_t i = 0; i < graph.values.size(); ++i) {
      const TensorGraph::Value& value = graph.values[i];
      if (value.place != place) continue;
      parts->ids.push_back(id_of(int(i)));
      if (place == TensorGraph::Place::constant) parts->constants.push_back(float(value.number));
    }
  refusal = "it proposes no kernel";
  try {
    const Descriptor* device = nullptr;
    if (target.handle == nullptr) {
      Owned described = moe::make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
      described->set_all(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                         target.description);
      described->finalize();
      device = parts->made_from.emplace_back(std::move(described)).get();
    }
    Translation translation(graph, target.handle, parts->made_from);
    const Descriptor& operations =
        *parts->made_from.emplace_back(std::move(translation.operation_graph));
    for (Owned& proposal : proposals(operations, device)) {
      if (varies(*proposal)) continue;
      try {
        parts->plan = finished_plan(*proposal, target.handle, device);
      } catch (const Refused& r) {
        refusal = r.why;
        continue;
      }
      parts->made_from.push_back(std::move(proposal));
      return std::unique_ptr<CudnnPlan>(new CudnnPlan(std::move(parts)));
    }
  } catch (const Refused& r) {
    refusal = r.why;
  }
  return nullptr;
}

std::size_t CudnnPlan::workspace_bytes() const {
  std::array<std::int64_t, 1> bytes{};
  parts_->plan->get_all(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, bytes);
  return std::size_t(bytes[0]);
}

void CudnnPlan::run(cudnnContext* handle, std::span<void* const> arguments, void* workspace) const {
  MOE_CHECK(arguments.size() == parts_->arguments(), arguments.size(), " arguments for a graph of ",
            parts_->arguments());
  std::vector<void*> pointers(arguments.begin(), arguments.end());
  for (float& constant : parts_->constants) pointers.push_back(&constant);
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set_all(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, parts_->ids);
  pack.set_all(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers);
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace);
  pack.finalize();
  check(cudnnBackendExecute(handle, parts_->plan->raw(), pack.raw()), "cudnnBackendExecute");
}

}  // namespace moe
