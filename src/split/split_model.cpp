// SPDX-License-Identifier: Apache-2.0
#include "split/split_model.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <map>

#include "config/model_parameters.h"
#include "core/error.h"
#include "core/parallel.h"
#include "hf/model_folder.h"

namespace moe {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Which of a layer's three FFN matrices.
struct ExpertPart {
  std::int64_t layer;
  std::string part;
};

/// "layers.3.experts.up.weight" -> (3, "up"); nothing for other parameters.
std::optional<ExpertPart> expert_part(const std::string& parameter) {
  constexpr std::string_view kLayers = "layers.", kExperts = ".experts.";
  const std::size_t experts = parameter.find(kExperts);
  if (experts == std::string::npos) return std::nullopt;
  const std::size_t part = experts + kExperts.size();
  return ExpertPart{std::int64_t(std::stoll(parameter.substr(kLayers.size()))),
                    parameter.substr(part, parameter.find('.', part) - part)};
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

/// Splits layers as their experts' weights are asked for. Keeps every partition, but no more
/// weights than one layer's.
class ExpertSource {
 public:
  ExpertSource(const ModelFolder& dense, DType dtype, const SplitOptions& options,
               const Construction& construction, std::vector<std::int64_t> sizes)
      : dense_(dense),
        dtype_(dtype),
        seed_(options.seed),
        construction_(construction),
        sizes_(std::move(sizes)) {}

  /// Rows of the experts' `part` ("gate", "up", "down") of a layer.
  Tensor rows(const ExpertPart& of, std::int64_t first, std::int64_t count) {
    const LayerPlan& plan = plan_of(of.layer);
    Tensor weights = dense_.view(dense_name(of), 0, dense_.config().intermediate_size, dtype_);
    if (!weights.defined()) weights = held(of, [&] { return dense_.read(dense_name(of), dtype_); });
    Tensor result = gather_rows(weights, plan.order, first, count);
    if (first + count == std::int64_t(plan.order.size())) held_.erase(of.part);
    return result;
  }

  /// Rows of `down` as [hidden, count], straight from a dense matrix that is stored transposed; one
  /// whole expert, or nothing.
  Tensor transposed_rows(const ExpertPart& of, std::int64_t first, std::int64_t count) {
    const Tensor dense = dense_.view_transposed(dense_name(of), dtype_);
    const LayerPlan& plan = plan_of(of.layer);
    if (!dense.defined() || !plan.is_expert(first, count)) return {};
    const Tensor all = held(of, [&] {
      const Tensor out = Tensor::empty({dense.size()}, dtype_);
      switch (size_of(dtype_)) {
        case 2:
          gather_columns<std::uint16_t>(out, dense, plan.order, sizes_);
          break;
        case 4:
          gather_columns<std::uint32_t>(out, dense, plan.order, sizes_);
          break;
        default:
          gather_columns<std::uint64_t>(out, dense, plan.order, sizes_);
      }
      return out;
    });
    return all.slice(first * dense.rows(), count * dense.rows()).view({dense.rows(), count});
  }

  const LayerSplit& split_of(std::int64_t layer) { return plan_of(layer).split; }
  double construction_seconds() const { return construction_seconds_; }

 private:
  struct LayerPlan {
    LayerSplit split;
    std::vector<std::int64_t> order;

    bool is_expert(std::int64_t first, std::int64_t count) const {
      std::int64_t begin = 0;
      for (const auto& expert : split.partition.experts) {
        if (begin == first) return std::int64_t(expert.size()) == count;
        begin += std::int64_t(expert.size());
      }
      return false;
    }
  };

  static std::string dense_name(const ExpertPart& of) {
    return str("layers.", of.layer, ".ffn.", of.part, ".weight");
  }

  /// What `make` returned when it was first asked for this part; forgotten with the layer.
  template <class Make>
  Tensor held(const ExpertPart& of, const Make& make) {
    if (of.layer != held_layer_) held_.clear();
    held_layer_ = of.layer;
    Tensor& weights = held_[of.part];
    if (!weights.defined()) weights = make();
    return weights;
  }

  const LayerPlan& plan_of(std::int64_t layer) {
    const auto known = plans_.find(layer);
    if (known != plans_.end()) return known->second;
    held_.clear();
    const auto start = Clock::now();
    const SplitContext context{layer, seed_, dense_.config().intermediate_size, sizes_};
    LayerPlan plan;
    plan.split = construction_.split(context, [&](std::string_view part) {
      return dense_.read(dense_name({layer, std::string(part)}), DType::f32);
    });
    check_partition(plan.split.partition, context.neurons, construction_.coverage());
    MOE_CHECK(sizes_of(plan.split.partition.experts) == sizes_, "the construction made experts of ",
              join(sizes_of(plan.split.partition.experts), ", "), " neurons, not of ",
              join(sizes_, ", "));
    plan.order = concatenated(plan.split.partition.experts);
    construction_seconds_ += seconds_since(start);
    return plans_.emplace(layer, std::move(plan)).first->second;
  }

  const ModelFolder& dense_;
  DType dtype_;
  std::uint64_t seed_;
  const Construction& construction_;
  std::vector<std::int64_t> sizes_;
  std::map<std::int64_t, LayerPlan> plans_;
  std::int64_t held_layer_ = -1;
  std::map<std::string, Tensor> held_;
  double construction_seconds_ = 0;
};

void check_options(const SplitOptions& o, const ModelFolder& dense) {
  const std::string input = o.input.string();
  MOE_REQUIRE(!dense.config().is_moe(), input, " already holds a mixture of ",
              dense.config().moe.experts, " experts: a dense model is needed");
  MOE_REQUIRE(o.experts >= 1, "the number of experts must be positive, is ", o.experts);
  MOE_REQUIRE(o.experts <= dense.config().intermediate_size, "cannot make ", o.experts,
              " experts of the ", dense.config().intermediate_size, " FFN neurons of ", input);
  MOE_REQUIRE(o.top_k >= 1 && o.top_k <= o.experts, "top-k must lie between 1 and the number of ",
              "experts (", o.experts, "), is ", o.top_k);
  MOE_REQUIRE(!o.scale || (std::isfinite(*o.scale) && *o.scale > 0),
              "the scale must be a positive number, is ", *o.scale);
  std::error_code ignored;
  MOE_REQUIRE(!std::filesystem::equivalent(o.input, o.output, ignored),
              "input and output are the same folder: ", input);
  MOE_REQUIRE(o.force || !std::filesystem::exists(o.output), o.output.string(),
              " exists already: choose another output or replace it with --force");
  MOE_REQUIRE(o.format != ModelFormat::llama,
              "a llama folder holds no experts: use the format llama-moe or mixtral");
  if (o.format != ModelFormat::mixtral) return;
  MOE_REQUIRE(o.gate != GateInit::mlp,
              "the mixtral format has no mlp gate: use --gate linear or zeros, or --format "
              "llama-moe");
  MOE_REQUIRE(!o.gate_noise.value_or(false),
              "the mixtral format has no gate noise: leave it out or use --format llama-moe");
  MOE_REQUIRE(dense.config().intermediate_size % o.experts == 0,
              "the mixtral format needs experts ", "of one size, but ",
              dense.config().intermediate_size, " neurons do not divide by ", o.experts,
              ": choose another number of experts or --format llama-moe");
}

ModelConfig moe_config(const SplitOptions& o, const ModelConfig& dense, GateInit gate,
                       const std::vector<std::int64_t>& sizes) {
  ModelConfig config = dense;
  const std::size_t layers = std::size_t(dense.layers);
  config.moe.experts = o.experts;
  config.moe.top_k = o.top_k;
  config.moe.expert_sizes.assign(layers, sizes);
  config.moe.gate = gate_kind(gate);
  config.moe.gate_noise =
      o.gate_noise.value_or(o.format == ModelFormat::llama_moe && gate != GateInit::zeros);
  config.moe.softmax_over_all = false;
  config.moe.score_scale.assign(layers, o.scale.value_or(double(o.experts) / double(o.top_k)));
  config.validate();
  return config;
}

std::vector<std::string> warnings_of(const SplitOptions& o) {
  std::vector<std::string> warnings;
  if (o.top_k == 1 && o.experts > 1)
    warnings.push_back(str(
        "with top-k 1 the softmax over the chosen expert is always 1, so the router gets no "
        "gradient from the language model's loss; the ",
        name(o.format), " format cannot say otherwise: train with model.softmax_over_all: true"));
  return warnings;
}

}  // namespace

SplitReport split_model(const SplitOptions& options, const SplitProgress& progress) {
  const auto start = Clock::now();
  const auto construction = make_construction(options.method, options.construction);
  const ModelFolder dense(options.input);
  check_options(options, dense);

  SplitReport report;
  report.method = options.method;
  report.gate = options.gate.value_or(options.format == ModelFormat::mixtral ? GateInit::linear
                                                                             : GateInit::mlp);
  report.seed = options.seed;
  report.format = options.format;
  report.dtype = options.dtype.value_or(dense.stored_dtype());
  report.warnings = warnings_of(options);
  const std::vector<std::int64_t> sizes =
      even_sizes(dense.config().intermediate_size, options.experts);
  report.config = moe_config(options, dense.config(), report.gate, sizes);
  report.parameters = count_parameters(report.config);

  WriteOptions write;
  write.format = options.format;
  write.dtype = report.dtype;
  write.force = options.force;
  write.tokenizer_from = options.input;
  ExpertSource experts(dense, report.dtype, options, *construction, sizes);
  const ParameterRows gates = gate_weights(report.config, report.gate, options.seed);
  std::int64_t done = 0;
  const auto counted = [&](Tensor given) {
    if (given.defined()) done += given.size();
    if (given.defined() && progress) progress(done, report.parameters.total);
    return given;
  };
  const auto rows = [&](const std::string& name, std::int64_t first, std::int64_t count) {
    if (const auto part = expert_part(name)) return counted(experts.rows(*part, first, count));
    if (is_router_parameter(name)) return counted(gates(name, first, count));
    const Tensor stored = dense.view(name, first, count, report.dtype);
    return counted(stored.defined() ? stored : dense.read(name, first, count, report.dtype));
  };
  write.transposed_rows = [&](const std::string& name, std::int64_t first, std::int64_t count) {
    const auto part = expert_part(name);
    return part ? counted(experts.transposed_rows(*part, first, count)) : Tensor();
  };
  report.bytes = write_model(options.output, report.config, write, rows).bytes;

  for (std::int64_t l = 0; l < report.config.layers; ++l)
    report.layers.push_back(
        {sizes_of(experts.split_of(l).partition.experts), experts.split_of(l).measures});
  report.construction_seconds = experts.construction_seconds();
  report.seconds = seconds_since(start);
  return report;
}

}  // namespace moe
