// SPDX-License-Identifier: Apache-2.0
#include "generate/generator.h"

#include <algorithm>
#include <list>
#include <optional>

#include "core/clock.h"

namespace moe {
namespace {

/// A text under way.
struct Text {
  std::size_t prompt = 0;
  std::vector<std::int32_t> ids;  // prompt and new ones
  std::int64_t made = 0;
  std::optional<KvCache> cache;
};

void check_prompts(const ModelConfig& c, const std::vector<std::vector<std::int32_t>>& prompts) {
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    const std::string which = prompts.size() > 1 ? str("prompt ", p + 1, ": ") : "";
    MOE_REQUIRE(!prompts[p].empty(), which, "an empty prompt: give at least the BOS token");
    for (const std::int32_t id : prompts[p])
      MOE_REQUIRE(id >= 0 && id < c.vocab_size, which, "prompt token ", id,
                  " lies beyond the vocabulary of ", c.vocab_size);
    MOE_REQUIRE(std::int64_t(prompts[p].size()) <= c.max_positions, which, "a prompt of ",
                prompts[p].size(), " tokens exceeds the model's ", c.max_positions, " positions");
  }
}

class Generation {
 public:
  Generation(const Transformer& model, const std::vector<std::vector<std::int32_t>>& prompts,
             const GenerateOptions& options, const TokenListener& listener)
      : model_(model),
        prompts_(prompts),
        options_(options),
        sampler_(options),
        listener_(listener),
        results_(prompts.size()) {
    MOE_REQUIRE(options.batch > 0, "a batch of ", options.batch, " texts");
    check_prompts(model.config(), prompts);
  }

  std::vector<GeneratedText> run() {
    if (options_.max_tokens <= 0) return std::move(results_);
    for (;;) {
      while (std::int64_t(active_.size()) < options_.batch && next_ < prompts_.size()) begin();
      if (active_.empty()) return std::move(results_);
      step();
    }
  }

  GenerateTimes times;

 private:
  /// Computes the next prompt, whose last logits give its first new token.
  void begin() {
    const auto start = Clock::now();
    Text text;
    text.prompt = next_++;
    text.ids = prompts_[text.prompt];
    const auto n = std::int64_t(text.ids.size());
    // The last token that is made is never looked at.
    const std::int64_t room = std::min(model_.config().max_positions, n + options_.max_tokens - 1);
    text.cache.emplace(model_.config(), model_.dtype(), model_.device(), room);
    active_.push_back(std::move(text));
    const Tensor logits = compute({&active_.back()}, Tensor::of({1, n}, active_.back().ids));
    if (!take(active_.back(), logits)) active_.pop_back();
    times.prompt_tokens += n;
    times.prompt_seconds += seconds_since(start);
  }

  /// One more token for every text.
  void step() {
    const auto start = Clock::now();
    std::vector<Text*> texts;
    std::vector<std::int32_t> last;
    for (Text& text : active_) {
      texts.push_back(&text);
      last.push_back(text.ids.back());
    }
    const auto n = std::int64_t(texts.size());
    const Tensor logits = compute(texts, Tensor::of({n, 1}, last));
    std::int64_t row = 0;
    for (auto text = active_.begin(); text != active_.end(); ++row)
      text = take(*text, logits.slice(row, 1)) ? std::next(text) : active_.erase(text);
    times.new_tokens += n;
    times.new_seconds += seconds_since(start);
  }

  /// The logits behind the last of each text's tokens, which join its cache.
  Tensor compute(const std::vector<Text*>& texts, const Tensor& tokens) {
    std::vector<KvCache*> caches;
    std::vector<std::int32_t> places;
    for (Text* text : texts) {
      caches.push_back(&*text->cache);
      places.push_back(std::int32_t(std::int64_t(caches.size()) * tokens.cols() - 1));
    }
    std::vector<ExpertChoice> choices;
    ForwardContext context;
    if (options_.routing) context.routing.choices = &choices;
    Tensor logits = model_.logits_at(tokens, places, context, caches).to(Device::cpu);
    for (std::size_t i = 0; i < choices.size(); ++i) keep(choices[i], i, texts, tokens.cols());
    return logits;
  }

  /// Files what the i-th router chose under the texts it was chosen for.
  void keep(const ExpertChoice& choice, std::size_t i, const std::vector<Text*>& texts,
            std::int64_t length) {
    const Tensor experts = choice.experts.to(Device::cpu), weights = choice.weights.to(Device::cpu);
    const std::int64_t k = experts.cols();
    for (std::size_t t = 0; t < texts.size(); ++t) {
      TextRouting& routing = results_[texts[t]->prompt].routing;
      if (i == routing.layers.size()) routing.layers.push_back({choice.layer, k, {}, {}});
      TextRouting::Layer& layer = routing.layers[i];
      const std::int64_t first = std::int64_t(t) * length * k, end = first + length * k;
      const auto* chosen = experts.data<std::int32_t>();
      layer.experts.insert(layer.experts.end(), chosen + first, chosen + end);
      for_accumulator(weights.dtype(), [&]<class A>(A) {
        const A* w = weights.data<A>();
        layer.weights.insert(layer.weights.end(), w + first, w + end);
      });
    }
  }

  /// Draws the text's next token; false: it was the last.
  bool take(Text& text, const Tensor& logits) {
    const std::int32_t id = sampler_.next(logits, text.ids, std::int64_t(text.prompt), text.made++);
    text.ids.push_back(id);
    GeneratedText& result = results_[text.prompt];
    result.ids.push_back(id);
    result.stopped =
        std::find(options_.stop.begin(), options_.stop.end(), id) != options_.stop.end();
    if (listener_ && !listener_(text.prompt, id)) result.stopped = true;
    return !result.stopped && text.made < options_.max_tokens &&
           text.cache->length < model_.config().max_positions;
  }

  const Transformer& model_;
  const std::vector<std::vector<std::int32_t>>& prompts_;
  const GenerateOptions& options_;
  const Sampler sampler_;
  const TokenListener& listener_;
  std::vector<GeneratedText> results_;
  std::list<Text> active_;
  std::size_t next_ = 0;  // prompt
};

}  // namespace

std::vector<GeneratedText> generate_texts(const Transformer& model,
                                          const std::vector<std::vector<std::int32_t>>& prompts,
                                          const GenerateOptions& options,
                                          const TokenListener& listener, GenerateTimes* times) {
  Generation generation(model, prompts, options, listener);
  std::vector<GeneratedText> texts = generation.run();
  if (times != nullptr) *times = generation.times;
  return texts;
}

std::vector<std::int32_t> generate(const Transformer& model, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options) {
  return generate_texts(model, {std::vector<std::int32_t>(prompt.begin(), prompt.end())}, options)
      .front()
      .ids;
}

}  // namespace moe
