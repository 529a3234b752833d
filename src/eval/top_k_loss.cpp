// SPDX-License-Identifier: Apache-2.0
#include "eval/top_k_loss.h"

namespace moe {

std::vector<HeldOutLoss> losses_of(const std::vector<ModelConfig>& configs,
                                   const ParameterRows& rows, DType dtype, const HeldOut& data,
                                   std::int64_t micro_batch, Communicator& world) {
  ParameterStore parameters(configs.at(0), dtype);
  parameters.load(rows);
  const ProcessGrid grid(world, 1);
  std::vector<HeldOutLoss> losses;
  for (const ModelConfig& config : configs) {
    const Transformer model(config, parameters, grid);
    losses.push_back(held_out_loss(model, data, data.sequences(), micro_batch, world));
  }
  return losses;
}

HeldOut held_out_documents(const std::vector<std::filesystem::path>& shards,
                           const ModelConfig& model, std::int64_t length) {
  return HeldOut::documents(
      shards, length, model.vocab_size,
      model.bos_token >= 0 ? std::optional(std::int32_t(model.bos_token)) : std::nullopt);
}

}  // namespace moe
