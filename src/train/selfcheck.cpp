// SPDX-License-Identifier: Apache-2.0
#include "train/selfcheck.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "comm/watchdog.h"
#include "core/rng.h"
#include "kernels/backend.h"

namespace moe {
namespace {

constexpr std::int64_t kSequencesPerRank = 2;  // one each in two accumulation steps
constexpr std::int64_t kLongest = 32;
constexpr int kTries = 3;
constexpr std::size_t kShown = 5;

/// What rounding explains, with room: the faults looked for are of the size of a gradient.
double limit_of(const EngineOptions& options) {
  if (options.dtype == DType::f64) return 1e-9;
  return options.dtype == DType::bf16 || options.gradient_transport == DType::bf16 ? 0.1 : 1e-3;
}

/// The batch of all ranks by accumulation step and rank, so that one process that takes world
/// sequences at once accumulates what the grid does.
Batch whole_batch(std::int64_t vocabulary, std::int64_t length, int world, int attempt,
                  bool documents) {
  const std::int64_t sequences = kSequencesPerRank * world;
  const Philox random(0, RandomPurpose::sampling, {std::uint64_t(attempt)});
  Batch b;
  b.tokens = Tensor::empty({sequences, length}, DType::i32);
  b.labels = Tensor::empty({sequences, length}, DType::i32);
  if (documents) b.document_starts = Tensor::empty({sequences, length}, DType::i32);
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t real = s % 3 == 1 ? length - length / 4 : length;
    const std::int64_t second = 1 + s % (length - 1);  // where a row's second document begins
    for (std::int64_t t = 0; t < length; ++t) {
      const auto at = std::uint64_t(s * (length + 1) + t);
      const auto token = [&](std::uint64_t i) {
        return std::int32_t(random.below(i, std::uint64_t(vocabulary)));
      };
      const bool scored = t + 1 < real && (s + t) % 5 != 0;
      b.tokens.data<std::int32_t>()[s * length + t] = t < real ? token(at) : -1;
      b.labels.data<std::int32_t>()[s * length + t] = scored ? token(at + 1) : -1;
      if (documents)
        b.document_starts.data<std::int32_t>()[s * length + t] =
            std::int32_t(t < second ? 0 : second);
    }
    b.sequence_ids.push_back(s);
    b.domains.push_back(0);
  }
  return b;
}

GlobalCounts counts_of(const Batch& b) {
  const auto known = [](const Tensor& t) {
    const auto* id = t.data<std::int32_t>();
    return std::count_if(id, id + t.size(), [](std::int32_t v) { return v >= 0; });
  };
  return {known(b.labels), known(b.tokens)};
}

/// The sequences of `rank`: one of each accumulation step.
Batch part_of(const Batch& whole, int rank, int world) {
  const std::int64_t length = whole.tokens.cols();
  Batch part;
  part.tokens = Tensor::empty({kSequencesPerRank, length}, DType::i32);
  part.labels = Tensor::empty({kSequencesPerRank, length}, DType::i32);
  if (whole.document_starts.defined())
    part.document_starts = Tensor::empty({kSequencesPerRank, length}, DType::i32);
  for (std::int64_t i = 0; i < kSequencesPerRank; ++i) {
    const std::int64_t s = i * world + rank;
    part.tokens.slice(i, 1).copy_from(whole.tokens.slice(s, 1));
    part.labels.slice(i, 1).copy_from(whole.labels.slice(s, 1));
    if (whole.document_starts.defined())
      part.document_starts.slice(i, 1).copy_from(whole.document_starts.slice(s, 1));
    part.sequence_ids.push_back(s);
    part.domains.push_back(0);
  }
  return part;
}

/// A step's numbers that every layout must agree on.
std::vector<std::pair<const char*, double>> scalars_of(const StepResult& r) {
  return {{"the loss", r.loss},
          {"the divergence from the teacher", r.teacher_kl.value_or(0)},
          {"the CV^2 loss", r.routing.cv_squared},
          {"the Switch loss", r.routing.switch_top_k},
          {"the z loss", r.routing.z},
          {"the CV^2 loss of the attention", r.attention_routing.cv_squared},
          {"the Switch loss of the attention", r.attention_routing.switch_top_k},
          {"the z loss of the attention", r.attention_routing.z},
          {"the gradient norm", r.grad_norm}};
}

/// One model, its weights and its gradients, whole on this process.
struct Alone {
  std::unique_ptr<Communicator> world = single_rank();
  ProcessGrid grid{*world, 1};
  Engine engine;

  Alone(const ModelConfig& config, const EngineOptions& options, const ParameterRows& weights)
      : engine(config, options, grid, weights) {}
};

struct Difference {
  std::string what;
  double size = 0;  // relative
  int rank = 0;     // where it is largest
};

/// The largest entry of every rank's list, place by place, and who had it.
std::vector<Difference> largest(const std::vector<std::string>& names,
                                const std::vector<double>& mine, Communicator& world) {
  const auto n = std::int64_t(mine.size());
  const Tensor all = Tensor::empty({world.size(), n}, DType::f64);
  world.all_gather(all, Tensor::of<double>({1, n}, mine)).wait();
  std::vector<Difference> list;
  for (std::int64_t i = 0; i < n; ++i) {
    Difference d{names[std::size_t(i)], 0, 0};
    for (int r = 0; r < world.size(); ++r) {
      const double size = all.data<double>()[r * n + i];
      if (!(size <= d.size)) d = {d.what, size, r};  // NaN is large
    }
    list.push_back(std::move(d));
  }
  return list;
}

/// All comparisons of one batch.
std::vector<Difference> compare(Engine& grid_engine, Alone* alone, const Batch& whole,
                                std::int64_t step) {
  Communicator& world = grid_engine.grid().world();
  const GlobalCounts counts = counts_of(whole);
  const StepResult here =
      grid_engine.compute_gradients(part_of(whole, world.rank(), world.size()), counts, step);
  grid_engine.gradients().gather();
  StepResult there;
  set_phase("selfcheck on one process");
  if (alone != nullptr) there = alone->engine.compute_gradients(whole, counts, step);

  set_phase("selfcheck");
  std::vector<std::string> names;
  std::vector<double> differences;
  const auto compare_numbers = [&](const std::string& name, std::vector<double> mine,
                                   std::vector<double> reference) {
    reference.resize(mine.size());
    const Tensor sent = Tensor::of<double>({std::int64_t(mine.size())}, reference);
    world.broadcast(sent, 0).wait();
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const double want = sent.data<double>()[i];
      difference += std::abs(mine[i] - want);
      size += std::abs(want);
    }
    names.push_back(name);
    differences.push_back(difference == 0 ? 0 : difference / std::max(size, 1e-12));
  };
  const auto reference_scalars = scalars_of(there), scalars = scalars_of(here);
  for (std::size_t i = 0; i < scalars.size(); ++i)
    compare_numbers(scalars[i].first, {scalars[i].second}, {reference_scalars[i].second});
  const auto compare_loads = [&](const char* what, const RoutingResult& mine,
                                 const RoutingResult& reference) {
    for (std::size_t l = 0; l < mine.loads.size(); ++l) {
      const auto numbers = [](const std::vector<std::int64_t>& v) {
        return std::vector<double>(v.begin(), v.end());
      };
      compare_numbers(str("the load of layer ", l, what), numbers(mine.loads[l]),
                      alone ? numbers(reference.loads[l]) : std::vector<double>());
    }
  };
  compare_loads("'s experts", here.routing, there.routing);
  compare_loads("'s attention experts", here.attention_routing, there.attention_routing);

  const std::vector<Parameter>& parameters = grid_engine.parameters().all();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    if (!p.trained) continue;
    const Tensor mine = grid_engine.gradients().gradient(i).to(Device::cpu);
    const Tensor reference = alone ? alone->engine.gradients().gradient(i).to(Device::cpu)
                                   : Tensor::empty(p.spec.shape, mine.dtype());
    world.broadcast(reference, 0).wait();
    const Tensor want = reference.slice(p.first_row, p.rows());
    double difference = 0, size = 0;
    for_accumulator(mine.dtype(), [&]<class A>(A) {
      for (std::int64_t j = 0; j < mine.size(); ++j) {
        const double w = double(want.data<A>()[j]), d = double(mine.data<A>()[j]) - w;
        difference += d * d;
      }
      for (std::int64_t j = 0; j < reference.size(); ++j)
        size += double(reference.data<A>()[j]) * double(reference.data<A>()[j]);
    });
    names.push_back("the gradient of " + p.name());
    differences.push_back(difference == 0 ? 0 : std::sqrt(difference / std::max(size, 1e-24)));
  }
  return largest(names, differences, world);
}

}  // namespace

SelfcheckResult selfcheck(const ModelConfig& config, const EngineOptions& options,
                          const ProcessGrid& grid, const ParameterRows& weights,
                          std::int64_t sequence_length, bool documents) {
  Communicator& world = grid.world();
  EngineOptions on_grid = options;
  on_grid.gradients_only = true;
  on_grid.domains = 1;
  on_grid.micro_batch = 1;
  for (RouterOptions* router : {&on_grid.router, &on_grid.attention_router})
    if (router->scope == BalanceScope::rank) router->scope = BalanceScope::sequence;
  EngineOptions in_one = on_grid;
  in_one.micro_batch = world.size();
  in_one.zero = false;
  in_one.gradient_transport = DType::f32;

  set_phase("selfcheck");
  Engine engine(config, on_grid, grid, weights);
  std::unique_ptr<Alone> alone;
  if (world.rank() == 0) alone = std::make_unique<Alone>(config, in_one, weights);

  SelfcheckResult result;
  result.sequences = kSequencesPerRank * world.size();
  result.length = std::clamp<std::int64_t>(sequence_length, 2, kLongest);
  const double limit = limit_of(options);
  std::vector<Difference> wrong;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    const Batch batch =
        whole_batch(config.vocab_size, result.length, world.size(), attempt, documents);
    const std::vector<Difference> all = compare(engine, alone.get(), batch, attempt + 1);
    const auto worst = std::ranges::max_element(all, {}, &Difference::size);
    result.tensors = std::int64_t(all.size());
    result.worst = worst->size;
    result.worst_tensor = worst->what;
    wrong.clear();
    std::ranges::copy_if(all, std::back_inserter(wrong),
                         [&](const Difference& d) { return !(d.size <= limit); });
    if (wrong.empty()) return result;
  }
  std::ranges::stable_sort(wrong, std::greater(), &Difference::size);
  std::string text;
  for (std::size_t i = 0; i < std::min(wrong.size(), kShown); ++i)
    text += fmt::format("{}{} by {:.3g} (rank {})", i > 0 ? ", " : "", wrong[i].what, wrong[i].size,
                        wrong[i].rank);
  throw Error(str("selfcheck: the grid of ", grid.ep(), " x ", grid.dp(),
                  " ranks does not compute what one process does. Relative differences beyond ",
                  limit, ": ", text,
                  wrong.size() > kShown ? str(" and ", wrong.size() - kShown, " more") : "",
                  ". Nothing was trained; run it on one host, or with parallel.zero=false, to see "
                  "which part is at fault"));
}

}  // namespace moe
