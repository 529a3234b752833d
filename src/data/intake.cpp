// SPDX-License-Identifier: Apache-2.0
#include "data/intake.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/durable_files.h"
#include "core/error.h"
#include "core/log.h"
#include "data/bad_document.h"
#include "data/checksum.h"
#include "data/zstd_frame.h"

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
  if (result.text.empty()) {
    result.fate = Fate::empty;
    return result;
  }
  result.bytes = std::int64_t(result.text.size());
  if (options_.deduplicate) result.hash = checksum(result.text);
  if (!options_.removed.empty()) result.where = where;
  if (options_.filter) result.reason = options_.filter->reason_against(result.domain, result.text);
  if (!result.reason.empty()) result.fate = Fate::filtered;
  return result;
}

void Intake::drop_text(Examined& document) const {
  if (options_.removed.empty() || (document.fate == Fate::taken && !options_.deduplicate))
    document.text = {};
}

Examined Intake::examine(
    const SourceDocument& document,
    const std::function<void(const std::string& where, Examined&)>& read) const {
  Examined result{.domain = options_.domain};
  if (!document.damage.empty()) return {.fate = Fate::bad, .reason = document.damage};
  try {
    read(str(options_.inputs[document.input].string(), ":", document.raw.line), result);
  } catch (const BadDocument& e) {
    if (!options_.skip_bad) throw;
    return {.fate = Fate::bad, .reason = e.what(), .kind = e.kind()};
  } catch (const InputError& e) {
    if (!options_.skip_bad) throw;
    return {.fate = Fate::bad, .reason = e.what()};
  }
  return result;
}

bool Intake::admit(const Examined& document) {
  switch (document.fate) {
    case Fate::taken:
      counts_.truncated += document.truncated;
      if (!options_.deduplicate) return true;
      if (hashes_.insert(document.hash).second) {
        hash_file_->append(&document.hash, sizeof document.hash);
        return true;
      }
      remove(document, "duplicate");
      return false;
    case Fate::filtered:
      remove(document, document.reason);
      return false;
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
  if (!document.kind.empty()) ++counts_.bad_kinds[document.kind];
  MOE_REQUIRE(options_.max_bad < 0 || counts_.bad <= options_.max_bad, document.reason, " (",
              counts_.bad, " unusable documents, --max-bad allows ", options_.max_bad, ")");
  if (counts_.bad <= kNamed) log_warning("skipped: {}", document.reason);
  if (counts_.bad == kNamed) log_warning("more will be counted and not named");
  return false;
}

void Intake::remove(const Examined& document, const std::string& reason) {
  IntakeCounts::Removed& removed = counts_.removed[document.domain][reason];
  ++removed.documents;
  removed.bytes += document.bytes;
  if (removed_file_)
    removed_lines_ += nlohmann::ordered_json{{"reason", reason},
                                             {"where", document.where},
                                             {"domain", document.domain},
                                             {"text", document.text}}
                          .dump() +
                      "\n";
}

void Intake::end_batch() {
  if (removed_lines_.empty()) return;
  const std::string frame = zstd_frame(removed_lines_);
  removed_file_->append(frame.data(), frame.size());
  removed_lines_.clear();
}

void Intake::open(const fs::path& folder, const std::string& state) {
  std::int64_t hash_bytes = 0, removed_bytes = 0;
  if (!state.empty()) {
    const json saved = json::parse(state);
    counts_.empty = saved.at("empty").get<std::int64_t>();
    counts_.bad = saved.at("bad").get<std::int64_t>();
    counts_.truncated = saved.at("truncated").get<std::int64_t>();
    counts_.bad_kinds = saved.at("bad_kinds").get<std::map<std::string, std::int64_t>>();
    counts_.unknown_sets = saved.at("unknown_sets").get<std::map<std::string, std::int64_t>>();
    for (const auto& [domain, reasons] : saved.at("removed").items())
      for (const auto& [reason, removed] : reasons.items())
        counts_.removed[domain][reason] = {removed[0].get<std::int64_t>(),
                                           removed[1].get<std::int64_t>()};
    hash_bytes = saved.at("hash_bytes").get<std::int64_t>();
    removed_bytes = saved.at("removed_bytes").get<std::int64_t>();
  }
  if (options_.deduplicate) {
    hash_file_.emplace(folder / "hashes", hash_bytes);
    std::vector<std::uint64_t> hashes(1 << 16);
    for (std::int64_t at = 0; at < hash_bytes;) {
      const auto count = std::min<std::int64_t>(hash_bytes - at, std::int64_t(hashes.size()) * 8);
      hash_file_->read(at, hashes.data(), std::size_t(count));
      hashes_.insert(hashes.begin(), hashes.begin() + count / 8);
      at += count;
    }
  }
  if (options_.removed.empty()) return;
  MOE_REQUIRE(!state.empty() || options_.force || !fs::exists(options_.removed),
              options_.removed.string(), ": exists; --force replaces it");
  removed_path_ = folder / "removed";
  // A file that has its name already is not opened again.
  if (removed_bytes == 0 || fs::exists(removed_path_))
    removed_file_.emplace(removed_path_, removed_bytes);
}

std::string Intake::save() {
  if (hash_file_) hash_file_->sync();
  if (removed_file_) removed_file_->sync();
  json removed = json::object();
  for (const auto& [domain, reasons] : counts_.removed)
    for (const auto& [reason, r] : reasons) removed[domain][reason] = {r.documents, r.bytes};
  return json{{"empty", counts_.empty},
              {"bad", counts_.bad},
              {"truncated", counts_.truncated},
              {"bad_kinds", counts_.bad_kinds},
              {"unknown_sets", counts_.unknown_sets},
              {"removed", removed},
              {"hash_bytes", hash_file_ ? hash_file_->size() : 0},
              {"removed_bytes", removed_file_ ? removed_file_->size() : 0}}
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

void Intake::publish() {
  if (!removed_file_) return;
  removed_file_->sync();
  std::error_code other_disk;
  fs::rename(removed_path_, options_.removed, other_disk);
  if (!other_disk) return;
  const fs::path partial = options_.removed.string() + ".partial";
  fs::copy_file(removed_path_, partial, fs::copy_options::overwrite_existing);
  sync_path(partial);
  rename_path(partial, options_.removed);
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
  if (options.filter) object["filter"] = options.filter->yaml();
  object["deduplicate"] = options.deduplicate;
  object["removed"] = options.removed.string();
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace moe
