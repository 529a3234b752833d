// SPDX-License-Identifier: Apache-2.0
#include "train/export_model.h"

#include <memory>
#include <string>
#include <utility>

#include "config/train_config.h"
#include "core/error.h"
#include "core/log.h"
#include "hf/dense.h"
#include "hf/hf_config.h"
#include "split/neuron_indices.h"
#include "train/checkpoint.h"
#include "train/checkpoint_folders.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// Runs that each began with the weights of another; beyond, a circle is suspected.
constexpr int kLongestChain = 16;

bool is_model_folder(const fs::path& path) { return fs::exists(path / "config.json"); }

ExportSource open_folder(const fs::path& path) {
  auto folder = std::make_shared<const ModelFolder>(path);
  ExportSource s;
  s.config = folder->config();
  s.dtype = folder->stored_dtype();
  s.rows = [folder](const std::string& name, std::int64_t first, std::int64_t count) {
    return folder->read(name, first, count, folder->stored_dtype(name));
  };
  s.tokenizer_from = fs::absolute(path);
  if (fs::exists(path / kNeuronIndices)) s.indices = path / kNeuronIndices;
  return s;
}

/// Gives `s` the tokenizer and the indices of the run that `config` describes, as far as it has
/// none yet.
void add_origin(const TrainConfig& config, ExportSource* s, int depth) {
  const auto take_tokenizer = [&](const fs::path& place) {
    if (s->tokenizer_from || place.empty() || !fs::exists(place)) return;
    const fs::path where = fs::absolute(place);
    s->tokenizer_from = fs::is_directory(where) ? where : where.parent_path();
  };
  take_tokenizer(config.model.tokenizer);
  const fs::path from = config.model.init_from;
  if (from.empty() || !fs::exists(from)) return;
  if (is_model_folder(from)) {
    take_tokenizer(from);
    if (!s->indices && fs::exists(from / kNeuronIndices)) s->indices = from / kNeuronIndices;
  } else if (depth < kLongestChain) {
    const CheckpointReader before(find_checkpoint(from));
    add_origin(parse_train_config(before.texts().config, "config.yaml"), s, depth + 1);
  }
}

ExportSource open_checkpoint(const fs::path& path) {
  auto reader = std::make_shared<const CheckpointReader>(find_checkpoint(path));
  ExportSource s;
  s.config = reader->model_config();
  s.rows = [reader](const std::string& name, std::int64_t first, std::int64_t count) {
    return reader->read("weights/" + name, first, count);
  };
  s.step = reader->step();
  try {
    const TrainConfig config = parse_train_config(reader->texts().config, "config.yaml");
    s.dtype = config.model.dtype;
    add_origin(config, &s, 0);
  } catch (const InputError&) {
    // Written under a configuration that this program does not read any more, or what it began
    // with is gone.
  }
  return s;
}

/// The dense model of a mixture; the order of its neurons is known where indices are.
void make_dense(ExportSource* s) {
  NeuronOrder order;
  if (s->indices)
    order = neuron_order(read_indices(*s->indices, s->config.layers, s->config.intermediate_size),
                         s->config.layers);
  s->rows = dense_rows(s->config, s->rows, order);
  s->config = dense_config_of(s->config);
}

bool is_mixture(const ModelConfig& c) { return c.is_moe() || c.is_attention_moe(); }

bool has_place_for_noise(ModelFormat format) {
  return format != ModelFormat::mixtral && format != ModelFormat::llama_moe_v2;
}

}  // namespace

ExportSource open_for_export(const fs::path& folder) {
  return is_model_folder(folder) ? open_folder(folder) : open_checkpoint(folder);
}

void require_exportable(const ModelConfig& config, ModelFormat format) {
  ModelConfig c = config;
  if (format == ModelFormat::llama && is_mixture(c)) c = dense_config_of(c);
  if (!has_place_for_noise(format)) c.moe.gate_noise = false;
  require_representable(c, format);
}

WrittenModel export_model(ExportSource source, const WriteOptions& options,
                          const fs::path& output) {
  if (options.format == ModelFormat::llama && is_mixture(source.config)) make_dense(&source);
  if (!has_place_for_noise(options.format) && source.config.moe.gate_noise) {
    log_warning("{} has no place for the gate's noise weights, which only training uses",
                name(options.format));
    source.config.moe.gate_noise = false;
  }
  WriteOptions o = options;
  if (source.indices && source.config.is_moe())
    o.more_files = [&](const fs::path& folder) {
      fs::copy_file(*source.indices, folder / kNeuronIndices);
    };
  return write_model(output, source.config, o, source.rows);
}

}  // namespace moe
