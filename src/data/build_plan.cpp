// SPDX-License-Identifier: Apache-2.0
#include "data/build_plan.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "data/shard_names.h"
#include "data/token_format.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The id that --bos or --eos stands for, -1 without it.
std::int32_t boundary_id(bool wanted, const Tokenizer* tokenizer, bool bos) {
  const char* option = bos ? "--bos" : "--eos";
  if (!wanted) return -1;
  MOE_REQUIRE(tokenizer != nullptr, option, " needs --tokenizer, which knows the id");
  const std::int32_t id = bos ? tokenizer->bos_id() : tokenizer->eos_id();
  MOE_REQUIRE(id >= 0, option, ": the tokenizer has no such id");
  return id;
}

void check_output(const BuildOptions& o) {
  for (const fs::path& output : {o.output, o.held_out_output}) {
    if (output.empty()) continue;
    const fs::path folder = output.has_parent_path() ? output.parent_path() : fs::path(".");
    MOE_REQUIRE(fs::is_directory(folder), folder.string(), ": no such folder");
    MOE_REQUIRE(o.sets || !fs::is_directory(output), output.string(), ": a folder; name a file");
    MOE_REQUIRE(!o.sets || !fs::exists(output) || fs::is_directory(output), output.string(),
                ": a file; raw documents go to a folder, one shard or more for each domain");
  }
}

}  // namespace

BuildPlan::BuildPlan(const BuildOptions& o) : options(o) {
  const Tokenizer* tokenizer = o.tokenizer;
  MOE_REQUIRE(!o.inputs.empty(), "no input files");
  MOE_REQUIRE(o.tokenized || tokenizer != nullptr, "text needs a tokenizer (--tokenizer)");
  MOE_REQUIRE(o.vocabulary_size > 0 || tokenizer != nullptr,
              "the vocabulary size of tokenized input is not known (--vocab-size)");
  MOE_REQUIRE(!o.sets || o.domain.empty(), "raw documents say their domain: leave out --domain");
  MOE_REQUIRE(!o.sets || !o.tokenized, "token ids have no set names: name their --domain");
  MOE_REQUIRE(o.sets || !o.domain.empty(), "the domain has no name (--domain)");
  MOE_REQUIRE(!o.sets || o.held_out_output.empty(),
              "held-out shards of raw documents are named after their domains: leave out "
              "--held-out-output");
  MOE_REQUIRE(o.sets || o.held_out.has_value() == !o.held_out_output.empty(),
              "--held-out and --held-out-output belong together");
  MOE_REQUIRE(o.held_out_output != o.output, "--output and --held-out-output are the same file");
  MOE_REQUIRE(
      (!o.tokenized && o.from == nullptr) || (!o.filter && !o.deduplicate && o.removed.empty()),
      "--filter, --deduplicate and --removed are for text");
  check_output(o);
  MOE_REQUIRE(o.max_tokens == 0 || o.chat != nullptr, "--max-tokens is for conversations");

  if (o.from != nullptr) {
    shards.emplace(o.inputs, o.domain);
    const std::string& made_by = shards->info().tokenizer_hash;
    MOE_REQUIRE(made_by.empty() || made_by == o.from->hash(), o.inputs.front().string(),
                ": made by another tokenizer (", made_by, ") than the one it is to be read by (",
                o.from->hash(), ")");
    MOE_REQUIRE(!shards->info().masked, o.inputs.front().string(),
                ": says which tokens are learned, which other tokens cannot; make the shard again "
                "from its conversations (moe-data chat)");
    MOE_REQUIRE(shards->info().vocabulary_size >= o.from->vocabulary_size() || made_by.empty(),
                o.inputs.front().string(), ": a vocabulary of ", shards->info().vocabulary_size,
                ", less than that of its tokenizer");
  }

  info = {.domain = o.domain,
          .tokenizer_hash = tokenizer ? tokenizer->hash() : "",
          .vocabulary_size = o.vocabulary_size,
          .masked = o.chat != nullptr && !o.chat->learns_all()};
  if (tokenizer != nullptr) {
    if (info.vocabulary_size == 0) info.vocabulary_size = tokenizer->vocabulary_size();
    MOE_REQUIRE(info.vocabulary_size >= tokenizer->vocabulary_size(), "--vocab-size ",
                info.vocabulary_size, " is less than the tokenizer's ",
                tokenizer->vocabulary_size());
  }
  info.bos_id = boundary_id(o.bos, tokenizer, true);
  info.eos_id = boundary_id(o.eos, tokenizer, false);
  MOE_REQUIRE(o.cut_documents == 0 || o.cut_documents > o.bos + o.eos, "--cut-documents ",
              o.cut_documents, ": no room for a document's own ids");

  intake = {.inputs = o.inputs,
            .field = !o.field.empty() ? o.field
                     : o.tokenized    ? "input_ids"
                                      : "text",
            .separator = o.separator,
            .domain = o.domain,
            .sets = o.sets,
            .skip_bad = o.skip_bad,
            .max_bad = o.max_bad,
            .filter = o.filter,
            .deduplicate = o.deduplicate,
            .removed = o.removed,
            .force = o.force};
  job_folder = o.sets ? o.output / ".unfinished" : fs::path(o.output.string() + ".unfinished");
}

std::string BuildPlan::reading_job() const {
  json object = json::parse(describe(intake));
  object["tokenized"] = options.tokenized;
  object["from"] = options.from != nullptr ? options.from->hash() : "";
  object["tokenizer"] = info.tokenizer_hash;
  object["vocab-size"] = info.vocabulary_size;
  object["bos"] = info.bos_id;
  object["eos"] = info.eos_id;
  object["cut-documents"] = options.cut_documents;
  if (options.chat != nullptr) {
    ChatTemplate chat = options.chat->chat();
    object["chat"] = write_yaml(chat_template_keys(chat));
    object["learn-all"] = options.chat->learns_all();
    object["max-tokens"] = options.max_tokens;
    object["truncate"] = options.truncate;
  }
  return object.dump();
}

std::string BuildPlan::writing_job() const {
  return json{
      {"output", options.output.string()},
      {"held-out-output", options.held_out_output.string()},
      {"held-out",
       options.held_out ? json{options.held_out->count, options.held_out->fraction} : json()},
      {"seed", options.seed},
      {"shard-tokens", options.shard_tokens}}
      .dump();
}

fs::path BuildPlan::whole(const std::string& domain) const {
  return options.sets ? options.output / (domain + ".h5") : options.output;
}

fs::path BuildPlan::shard(const std::string& domain, std::size_t i) const {
  return shard_name(whole(domain), i, options.shard_tokens > 0);
}

fs::path BuildPlan::held_out_shard(const std::string& domain) const {
  return options.sets ? options.output / (domain + "-held-out.h5") : options.held_out_output;
}

void BuildPlan::require_free(const fs::path& path) const {
  const bool exists = fs::exists(path) || fs::exists(manifest_path(path));
  MOE_REQUIRE(options.force || !exists, path.string(), ": exists; --force replaces it");
}

void BuildPlan::require_free() const {
  std::set<std::string> domains = {options.domain};
  if (options.sets) {
    domains.clear();
    for (const auto& [set, domain] : options.sets->domains) domains.insert(domain);
  }
  for (const std::string& domain : domains) {
    require_free(shard(domain, 0));
    if (options.held_out) require_free(held_out_shard(domain));
  }
}

void BuildPlan::remove_older(const std::string& domain, std::size_t count) const {
  if (options.shard_tokens > 0 && options.force) remove_shards_from(whole(domain), count);
}

HeldOutSize parse_held_out(const std::string& text) {
  const char *begin = text.data(), *end = begin + text.size();
  HeldOutSize size;
  if (const auto [rest, error] = std::from_chars(begin, end, size.count);
      error == std::errc{} && rest == end && size.count > 0)
    return size;
  size.count = 0;
  const auto [rest, error] = std::from_chars(begin, end, size.fraction);
  MOE_REQUIRE(error == std::errc{} && rest == end && size.fraction > 0 && size.fraction < 1,
              "--held-out ", text, ": give a number of documents, or a fraction between 0 and 1");
  return size;
}

}  // namespace moe
