// SPDX-License-Identifier: Apache-2.0
#include "data/intake.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Bad documents that are named one by one.
constexpr std::int64_t kNamed = 10;

}  // namespace

BatchReader Intake::reader(std::size_t batch_bytes, InputPosition from) const {
  return BatchReader({.inputs = options_.inputs,
                      .separator = options_.separator,
                      .batch_bytes = batch_bytes,
                      .pass_over_damage = options_.skip_bad},
                     from);
}

void Intake::read_text(const SourceDocument& document, const std::string& where,
                       Examined& result) const {
  MOE_REQUIRE(!options_.sets || !document.plain_text, where,
              ": plain text does not say which set it is from; give jsonl");
  if (document.plain_text) {
    check_utf8(document.raw.content, where);
    result.text = document.raw.content;
  } else if (options_.sets) {
    LabelledText read =
        parse_labelled_text(document.raw.content, options_.field, options_.sets->field, where);
    result.text = std::move(read.text);
    result.reason = std::move(read.label);
  } else {
    result.text = parse_text(document.raw.content, options_.field, where);
  }
}

Examined Intake::examine(const SourceDocument& document) const {
  const std::string where = str(options_.inputs[document.input].string(), ":", document.raw.line);
  Examined result = examine(
      document, [&](const std::string& at, Examined& into) { read_text(document, at, into); });
  if (result.fate != Fate::taken) return result;
  if (options_.sets) {
    result.domain = options_.sets->domain_of(result.reason, where);
    if (result.domain.empty()) {
      result.fate = Fate::unknown_set;
      return result;
    }
    result.reason.clear();
  }
  if (result.text.empty()) result.fate = Fate::empty;
  return result;
}

Examined Intake::examine(
    const SourceDocument& document,
    const std::function<void(const std::string& where, Examined&)>& read) const {
  Examined result{.domain = options_.domain};
  if (!document.damage.empty()) return {.fate = Fate::bad, .reason = document.damage};
  try {
    read(str(options_.inputs[document.input].string(), ":", document.raw.line), result);
  } catch (const InputError& e) {
    if (!options_.skip_bad) throw;
    return {.fate = Fate::bad, .reason = e.what()};
  }
  return result;
}

bool Intake::admit(const Examined& document) {
  switch (document.fate) {
    case Fate::taken:
      return true;
    case Fate::empty:
      ++counts_.empty;
      return false;
    case Fate::unknown_set:
      if (counts_.unknown_sets[document.reason]++ == 0)
        log_warning("left out: documents of the unknown set '{}'", document.reason);
      return false;
    case Fate::bad:
      break;
  }
  ++counts_.bad;
  MOE_REQUIRE(options_.max_bad < 0 || counts_.bad <= options_.max_bad, document.reason, " (",
              counts_.bad, " unusable documents, --max-bad allows ", options_.max_bad, ")");
  if (counts_.bad <= kNamed) log_warning("skipped: {}", document.reason);
  if (counts_.bad == kNamed) log_warning("more will be counted and not named");
  return false;
}

std::string Intake::state() const {
  return json{
      {"empty", counts_.empty}, {"bad", counts_.bad}, {"unknown_sets", counts_.unknown_sets}}
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

void Intake::restore(const std::string& state) {
  const json saved = json::parse(state);
  counts_.empty = saved.at("empty").get<std::int64_t>();
  counts_.bad = saved.at("bad").get<std::int64_t>();
  counts_.unknown_sets = saved.at("unknown_sets").get<std::map<std::string, std::int64_t>>();
}

std::string describe(const IntakeOptions& options) {
  json inputs = json::array();
  for (const fs::path& input : options.inputs) {
    std::error_code unreadable;  // said by whoever opens it
    const auto size = fs::file_size(input, unreadable);
    const auto time = fs::last_write_time(input, unreadable).time_since_epoch().count();
    inputs.push_back({input.string(), unreadable ? 0 : size, std::int64_t(time)});
  }
  json object = {{"input", inputs}, {"field", options.field}, {"domain", options.domain}};
  if (options.separator) object["separator"] = *options.separator;
  if (options.sets) {
    object["set-field"] = options.sets->field;
    object["set"] = options.sets->domains;
    object["unknown-sets"] = int(options.sets->unknown);
  }
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace moe
