// SPDX-License-Identifier: Apache-2.0
#include "train/teacher.h"

#include "data/checksum.h"
#include "hf/finite.h"

namespace moe {
namespace {

constexpr const char* kKey = "distill.teacher";

std::string checksum_of(const ParameterStore& parameters) {
  Checksum sum;
  for (const Parameter& p : parameters.all()) {
    const Tensor host = p.variable.value.to(Device::cpu);
    sum.update(host.bytes(), host.nbytes());
  }
  return hex(sum.value());
}

}  // namespace

ModelSource open_teacher(const TrainConfig& config, const ModelConfig& student) {
  const std::string& path = config.distill.teacher;
  ModelSource source;
  try {
    source = open_model(path);
  } catch (const InputError& e) {
    throw InputError(str(kKey, ": ", e.what()));
  }
  MOE_REQUIRE(source.config.vocab_size == student.vocab_size, kKey, ": ", path,
              " has a vocabulary of ", source.config.vocab_size, " tokens, the model one of ",
              student.vocab_size, ": a teacher needs the student's tokenizer");
  MOE_REQUIRE(config.data.sequence_length <= source.config.max_positions, kKey, ": ", path, " has ",
              source.config.max_positions, " positions, data.sequence_length is ",
              config.data.sequence_length);
  return source;
}

Teacher load_teacher(const TrainConfig& config, const ModelConfig& student, Device device) {
  if (config.distill.teacher.empty()) return {};
  ModelSource source = open_teacher(config, student);
  source.rows = [rows = std::move(source.rows), &config](const std::string& name,
                                                         std::int64_t first, std::int64_t count) {
    const Tensor t = rows(name, first, count);
    require_finite(t, str(kKey, ": ", config.distill.teacher, ": ", name));
    return t;
  };
  const auto loaded = std::make_shared<const LoadedModel>(source, config.model.dtype, device);
  return {{loaded, &loaded->model()}, checksum_of(loaded->parameters())};
}

std::string to_text(const TrainConfig::Distill& d) {
  return str("weight ", d.weight, " of the divergence at temperature ", d.temperature, ", ",
             d.lm_weight, " of the cross-entropy");
}

}  // namespace moe
