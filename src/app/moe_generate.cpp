// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/app.h"
#include "app/device_choice.h"
#include "data/tokenizer.h"
#include "generate/generator.h"
#include "train/model_source.h"

namespace moe {
namespace {

struct Options {
  std::string model, prompt, tokenizer, dtype = "f32";
  std::vector<std::int32_t> prompt_ids;
  GenerateOptions generate;
  DeviceChoice device = DeviceChoice::automatic;
  bool json = false, ignore_eos = false;
};

int run(const Options& o) {
  const ModelSource source = open_model(o.model);
  const std::filesystem::path tokenizer_path =
      o.tokenizer.empty() ? source.folder : std::filesystem::path(o.tokenizer);
  std::optional<Tokenizer> tokenizer;
  if (!o.tokenizer.empty() || Tokenizer::find(tokenizer_path))
    tokenizer = Tokenizer::open(tokenizer_path);
  MOE_REQUIRE(tokenizer || o.prompt.empty(), source.folder.string(),
              " has no tokenizer: give --tokenizer, or the prompt as --prompt-ids");

  std::vector<std::int32_t> ids = o.prompt_ids;
  if (ids.empty()) {
    if (source.config.bos_token >= 0) ids.push_back(std::int32_t(source.config.bos_token));
    if (!o.prompt.empty())
      for (const std::int32_t id : tokenizer->encode(o.prompt)) ids.push_back(id);
  }
  GenerateOptions options = o.generate;
  if (!o.ignore_eos && source.config.eos_token >= 0)
    options.stop = {std::int32_t(source.config.eos_token)};

  const LoadedModel loaded(source, float_dtype_named(o.dtype), choose_device(o.device));
  const bool streaming = tokenizer && !o.json;
  std::optional<StreamDecoder> decoder;
  const auto print = [](const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  if (streaming) {
    decoder.emplace(*tokenizer);
    for (const std::int32_t id : ids) print(decoder->push(id));
  }
  const std::vector<std::int32_t> out = generate_texts(loaded.model(), {ids}, options,
                                                       [&](std::size_t, std::int32_t id) {
                                                         if (streaming) print(decoder->push(id));
                                                         return true;
                                                       })
                                            .front()
                                            .ids;
  if (o.json) {
    nlohmann::json result = {{"prompt_ids", ids}, {"ids", out}};
    if (tokenizer) result["text"] = tokenizer->decode(out);
    std::printf("%s\n",
                result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else if (streaming) {
    print(decoder->finish() + "\n");
  } else {
    for (std::size_t i = 0; i < out.size(); ++i) std::printf("%s%d", i > 0 ? "," : "", out[i]);
    std::printf("\n");
  }
  return kExitOk;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  const moe::ProgramText text = {
      "moe-generate", "Text from a model folder or a training checkpoint.",
      "  moe-generate --model demo/moe --prompt 'The compiler' --max-tokens 60\n"
      "  moe-generate --model runs/x/checkpoints/step-00000100 --prompt-ids 1,35 --json\n"
      "  moe-generate --model demo/moe --prompt Once --temperature 0.8 --seed 7\n"};
  return moe::run_program(argc, argv, text, [](CLI::App& app) -> moe::Action {
    auto o = std::make_shared<moe::Options>();
    app.add_option("--model", o->model, "Hugging Face folder, training checkpoint or run folder")
        ->required();
    auto* prompt = app.add_option("--prompt", o->prompt, "Text to continue (after BOS)");
    app.add_option("--prompt-ids", o->prompt_ids, "Token ids to continue, exactly as given")
        ->delimiter(',')
        ->excludes(prompt);
    app.add_option("--tokenizer", o->tokenizer,
                   "tokenizer.model, tokenizer.json or their folder (default: the model's)");
    app.add_option("--max-tokens", o->generate.max_tokens, "New tokens at most")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    app.add_option("--temperature", o->generate.temperature,
                   "0: the likeliest token; above: sample from softmax(logits / temperature)")
        ->capture_default_str()
        ->check(CLI::NonNegativeNumber);
    app.add_option("--seed", o->generate.seed, "Of sampling")->capture_default_str();
    app.add_option("--dtype", o->dtype, "f32, bf16 or f64")->capture_default_str();
    moe::add_device_option(app, o->device);
    app.add_flag("--ignore-eos", o->ignore_eos, "Go on after the end-of-text token");
    app.add_flag("--json", o->json, "One JSON object: prompt_ids, ids, text");
    return [o] { return moe::run(*o); };
  });
}
