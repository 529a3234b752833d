// SPDX-License-Identifier: Apache-2.0
#include "split/split_model.h"

#include <omp.h>

#include <chrono>
#include <cstring>
#include <future>
#include <map>
#include <memory>

#include "config/model_parameters.h"
#include "core/error.h"
#include "core/parallel.h"
#include "kernels/backend.h"
#include "split/neuron_indices.h"

namespace moe {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kExpertBias = ".experts.bias";

/// Which matrix of a layer's routed or shared experts.
struct ExpertPart {
  std::int64_t layer;
  bool shared;
  std::string part;
};

/// "layers.3.experts.up.weight" -> (3, routed, "up"); nothing for other parameters, such as those
/// of the attention's experts and biases.
std::optional<ExpertPart> expert_part(const std::string& parameter) {
  if (parameter.find(".attention.") != std::string::npos || parameter.ends_with(kExpertBias))
    return std::nullopt;
  for (const std::string_view kind : {".experts.", ".shared."}) {
    const std::size_t at = parameter.find(kind);
    if (at == std::string::npos) continue;
    const std::size_t part = at + kind.size();
    return ExpertPart{std::stoll(parameter.substr(std::string_view("layers.").size())),
                      kind == ".shared.", parameter.substr(part, parameter.find('.', part) - part)};
  }
  return std::nullopt;
}

/// y[i,:] = x[rows[i],:] for i in [first, first + count), any type.
Tensor gather_rows(const Tensor& x, const std::vector<std::int64_t>& rows, std::int64_t first,
                   std::int64_t count) {
  Tensor y = Tensor::empty({count, x.cols()}, x.dtype());
  const std::size_t row_bytes = std::size_t(x.cols()) * size_of(x.dtype());
  parallel_for(count, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      std::memcpy(y.bytes() + std::size_t(i) * row_bytes,
                  x.bytes() + std::size_t(rows[std::size_t(first + i)]) * row_bytes, row_bytes);
  });
  return y;
}

/// out = the columns of x in the given order, expert by expert: a flat tensor in which expert e's
/// matrix, [x.rows(), sizes[e]] row-major, begins at x.rows() * (sum of the sizes before it).
template <class Word>
void gather_columns(const Tensor& out, const Tensor& x, const std::vector<std::int64_t>& columns,
                    const std::vector<std::int64_t>& sizes) {
  const std::vector<std::int32_t> index(columns.begin(), columns.end());
  parallel_for(x.rows(), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const Word* from = reinterpret_cast<const Word*>(x.bytes()) + r * x.cols();
      std::int64_t first = 0;
      for (const std::int64_t size : sizes) {
        Word* to = reinterpret_cast<Word*>(out.bytes()) + x.rows() * first + r * size;
        for (std::int64_t i = 0; i < size; ++i) to[i] = from[index[std::size_t(first + i)]];
        first += size;
      }
    }
  });
}

/// Gives the experts' weights of a plan. Keeps no more weights than one layer's.
class ExpertSource {
 public:
  ExpertSource(const ModelFolder& dense, const SplitPlan& plan, DType dtype)
      : dense_(dense), dtype_(dtype) {
    for (const auto& [l, layer] : plan.layers) {
      Neurons& routed = layers_[{l, false}];
      Neurons& shared = layers_[{l, true}];
      routed = {concatenated(layer.partition.experts),
                sizes_of(layer.partition.experts),
                layer.channel_scale,
                {}};
      shared = {concatenated(layer.partition.shared), sizes_of(layer.partition.shared), {}, {}};
      if (!layer.refit || !layer.refit->down.defined()) continue;
      const auto rows = std::int64_t(routed.order.size());
      routed.down = layer.refit->down.slice(0, rows);
      if (!shared.order.empty())
        shared.down = layer.refit->down.slice(rows, std::int64_t(shared.order.size()));
    }
  }

  /// Rows of the experts' `part` ("gate", "up", "down") of a layer.
  Tensor rows(const ExpertPart& of, std::int64_t first, std::int64_t count) {
    const Neurons& neurons = layers_.at({of.layer, of.shared});
    if (of.part == "down" && neurons.down.defined()) return neurons.down.slice(first, count);
    Tensor weights = dense_.view(dense_name(of), 0, dense_.config().intermediate_size, dtype_);
    if (!weights.defined()) weights = held(of, [&] { return dense_.read(dense_name(of), dtype_); });
    Tensor result = gather_rows(weights, neurons.order, first, count);
    if (of.part == "down" && !neurons.channel_scale.empty())
      result = scale_channels(result, neurons.channel_scale);
    if (first + count == std::int64_t(neurons.order.size())) held_.erase(of.part);
    return result;
  }

  /// Rows of `down` as [hidden, count], straight from a dense matrix that is stored transposed; one
  /// whole expert, or nothing.
  Tensor transposed_rows(const ExpertPart& of, std::int64_t first, std::int64_t count) {
    const Neurons& neurons = layers_.at({of.layer, of.shared});
    if (neurons.down.defined()) return {};
    const Tensor dense = dense_.view_transposed(dense_name(of), dtype_);
    if (!dense.defined() || !neurons.is_expert(first, count) || !neurons.channel_scale.empty())
      return {};
    const Tensor all = held(of, [&] {
      const auto total = std::int64_t(neurons.order.size());
      const Tensor out = Tensor::empty({dense.rows() * total}, dtype_);
      switch (size_of(dtype_)) {
        case 2:
          gather_columns<std::uint16_t>(out, dense, neurons.order, neurons.sizes);
          break;
        case 4:
          gather_columns<std::uint32_t>(out, dense, neurons.order, neurons.sizes);
          break;
        default:
          gather_columns<std::uint64_t>(out, dense, neurons.order, neurons.sizes);
      }
      return out;
    });
    return all.slice(first * dense.rows(), count * dense.rows()).view({dense.rows(), count});
  }

 private:
  struct Neurons {
    std::vector<std::int64_t> order, sizes;
    std::vector<double> channel_scale;
    Tensor down;  // refitted rows; undefined: the dense ones

    bool is_expert(std::int64_t first, std::int64_t count) const {
      std::int64_t begin = 0;
      for (const std::int64_t size : sizes) {
        if (begin == first) return size == count;
        begin += size;
      }
      return false;
    }
  };

  static std::string dense_name(const ExpertPart& of) {
    return str("layers.", of.layer, ".ffn.", of.part, ".weight");
  }

  /// x with column c times scale[c], in f32 at least.
  static Tensor scale_channels(const Tensor& x, const std::vector<double>& scale) {
    Tensor y = Tensor::empty(x.shape(), accumulator(x.dtype()));
    backend(Device::cpu).cast(y, x);
    for_accumulator(y.dtype(), [&]<class A>(A) {
      parallel_for(y.rows(), 16, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin * y.cols(); i < end * y.cols(); ++i)
          y.data<A>()[i] *= A(scale[std::size_t(i % y.cols())]);
      });
    });
    return y;
  }

  /// What `make` returned when it was first asked for this part; forgotten with the layer.
  template <class Make>
  Tensor held(const ExpertPart& of, const Make& make) {
    if (of.layer != held_layer_ || of.shared != held_shared_) held_.clear();
    held_layer_ = of.layer;
    held_shared_ = of.shared;
    Tensor& weights = held_[of.part];
    if (!weights.defined()) weights = make();
    return weights;
  }

  const ModelFolder& dense_;
  DType dtype_;
  std::map<std::pair<std::int64_t, bool>, Neurons> layers_;
  std::int64_t held_layer_ = -1;
  bool held_shared_ = false;
  std::map<std::string, Tensor> held_;
};

/// Routers as the plan has them, or as they start without calibration text.
ParameterRows router_rows(const SplitPlan& plan) {
  std::map<std::string, Tensor> planned;
  for (const auto& [l, layer] : plan.layers) {
    const std::string router = str("layers.", l, ".router.");
    const auto add = [&](const char* part, const Tensor& w) {
      if (w.defined()) planned[router + part] = w;
    };
    add("weight", layer.gate.weight);
    add("bias", layer.gate.bias);
    add("hidden.weight", layer.gate.hidden);
    add("output.weight", layer.gate.output);
  }
  for (const auto& [l, layer] : plan.attention)
    if (layer.gate.defined()) planned[str("layers.", l, ".attention.router.weight")] = layer.gate;
  return
      [planned = std::move(planned), initial = gate_weights(plan.config, plan.gate_init, plan.seed),
       attention = gate_weights(plan.config, plan.attention_gate, plan.seed)](
          const std::string& name, std::int64_t first, std::int64_t count) {
        const auto found = planned.find(name);
        if (found != planned.end()) return found->second.slice(first, count);
        return is_attention_router_parameter(name) ? attention(name, first, count)
                                                   : initial(name, first, count);
      };
}

/// All parameters of a planned model.
class SplitSource {
 public:
  SplitSource(const ModelFolder& dense, const SplitPlan& plan, DType dtype)
      : dense_(dense),
        dtype_(dtype),
        experts_(dense, plan, dtype),
        attention_(dense, plan.config, dtype),
        routers_(router_rows(plan)) {
    for (const auto& [l, layer] : plan.layers)
      biases_[str("layers.", l, kExpertBias)] =
          layer.refit && layer.refit->bias.defined()
              ? layer.refit->bias
              : Tensor::zeros({plan.config.moe.experts, plan.config.hidden_size}, DType::f32);
  }

  Tensor rows(const std::string& name, std::int64_t first, std::int64_t count) {
    if (const auto part = expert_part(name)) return experts_.rows(*part, first, count);
    if (is_router_parameter(name)) return routers_(name, first, count);
    if (name.ends_with(kExpertBias)) return biases_.at(name).slice(first, count);
    if (const Tensor held = attention_.rows(name, first, count); held.defined()) return held;
    const Tensor stored = dense_.view(name, first, count, dtype_);
    return stored.defined() ? stored : dense_.read(name, first, count, dtype_);
  }

  Tensor transposed_rows(const std::string& name, std::int64_t first, std::int64_t count) {
    const auto part = expert_part(name);
    return part ? experts_.transposed_rows(*part, first, count) : Tensor();
  }

 private:
  const ModelFolder& dense_;
  DType dtype_;
  ExpertSource experts_;
  AttentionExpertSource attention_;
  ParameterRows routers_;
  std::map<std::string, Tensor> biases_;
};

std::vector<std::string> warnings_of(const SplitOptions& o, const SplitPlan& plan) {
  std::vector<std::string> warnings;
  const auto add = [&](const RouterConfig& router, const char* top_k, const std::string& instead) {
    if (router.top_k == 1 && router.experts > 1 && !router.softmax_over_all)
      warnings.push_back(str("with ", top_k,
                             " 1 the softmax over the chosen expert is always 1, so the router "
                             "gets no gradient from the language model's loss; ",
                             instead));
  };
  add(plan.config.moe, "top-k",
      str("the ", name(o.format),
          " format cannot say otherwise: train with model.softmax_over_all: true, or write "
          "native"));
  add(plan.config.attention_moe, "attention-top-k",
      "only the native format can say otherwise: leave --attention-softmax-over-all out there");
  return warnings;
}

}  // namespace

ParameterRows split_rows(const ModelFolder& dense, const SplitPlan& plan, DType dtype) {
  auto source = std::make_shared<SplitSource>(dense, plan, dtype);
  return [source](const std::string& name, std::int64_t first, std::int64_t count) {
    return source->rows(name, first, count);
  };
}

SplitReport write_split(const ModelFolder& dense, const SplitOptions& options, SplitPlan plan,
                        const std::function<void(const std::filesystem::path&)>& more_files,
                        const SplitProgress& progress) {
  const auto start = Clock::now();
  SplitReport report;
  report.plan = std::move(plan);
  report.format = options.format;
  report.dtype = options.dtype.value_or(dense.stored_dtype());
  report.parameters = count_parameters(report.plan.config);
  report.warnings = warnings_of(options, report.plan);

  SplitSource source(dense, report.plan, report.dtype);
  std::int64_t done = 0;
  const auto counted = [&](Tensor given) {
    if (given.defined()) done += given.size();
    if (given.defined() && progress) progress(done, report.parameters.total);
    return given;
  };
  WriteOptions write;
  write.format = options.format;
  write.dtype = report.dtype;
  write.force = options.force;
  write.tokenizer_from = options.input;
  write.modeling_from = options.modeling_from;
  write.transposed_rows = [&](const std::string& name, std::int64_t first, std::int64_t count) {
    return counted(source.transposed_rows(name, first, count));
  };
  // Beside the writing, which waits for the disk more than for processors; on one thread, to leave
  // the others to the gathering.
  auto finite = std::async(std::launch::async, [&] {
    omp_set_num_threads(1);
    dense.require_finite();
  });
  write.more_files = [&](const std::filesystem::path& folder) {
    finite.get();
    if (!report.plan.layers.empty()) write_indices(folder / kNeuronIndices, report.plan);
    if (more_files) more_files(folder);
  };
  const WrittenModel written =
      write_model(options.output, report.plan.config, write,
                  [&](const std::string& name, std::int64_t first, std::int64_t count) {
                    return counted(source.rows(name, first, count));
                  });
  report.bytes = written.bytes;
  report.notes = written.notes;
  report.write_seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

SplitReport split_model(const SplitOptions& options, const SplitProgress& progress) {
  const ModelFolder dense(options.input);
  return write_split(dense, options, plan_split(dense, options, *single_rank()), {}, progress);
}

}  // namespace moe
