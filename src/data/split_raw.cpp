// SPDX-License-Identifier: Apache-2.0
#include "data/split_raw.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/clock.h"
#include "core/durable_files.h"
#include "core/error.h"
#include "core/log.h"
#include "data/growing_file.h"
#include "data/job_folder.h"
#include "data/ordered_pipeline.h"
#include "data/zstd_frame.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What one thread works on at a time, bytes of lines: large enough for zstd to do well.
constexpr std::size_t kBatchBytes = 8 << 20;

struct SplitBatch {
  std::vector<Examined> seen;
  std::vector<std::string> lines;             // of each
  std::map<std::string, std::string> frames;  // for each domain, of all lines that may be taken
  InputPosition end;
  std::int64_t bytes_read = 0;
};

/// A domain's files: all but the last are complete.
struct Files {
  SplitRawReport::Domain counts;
  std::int64_t line_bytes = 0;  // in the last one
  GrowingFile last;
};

class Split {
 public:
  Split(const SplitRawOptions& options, const SplitRawProgress& progress)
      : options_(options), progress_(progress), intake_(options.intake), job_(open_job(options)) {}

  SplitRawReport run();

 private:
  static JobFolder open_job(const SplitRawOptions& o) {
    MOE_REQUIRE(!o.intake.inputs.empty(), "no input files");
    const fs::path parent = o.output.has_parent_path() ? o.output.parent_path() : fs::path(".");
    MOE_REQUIRE(fs::is_directory(parent), parent.string(), ": no such folder");
    MOE_REQUIRE(!fs::exists(o.output) || fs::is_directory(o.output), o.output.string(),
                ": a file; name a folder");
    const std::string& domain = o.intake.domain;
    MOE_REQUIRE(o.intake.sets ? domain.empty() : is_file_name(domain), "--domain '", domain,
                "': cannot name a folder; use letters, digits, '_', '-' and '.'");
    fs::create_directory(o.output);
    json job = json::parse(describe(o.intake));
    job["file-bytes"] = o.file_bytes;
    return JobFolder(o.output / ".unfinished", job.dump(), o.force);
  }

  fs::path unfinished(const std::string& domain, std::int64_t i) const {
    return job_.path() / fmt::format("{}-{:05}", domain, i);
  }
  fs::path finished(const std::string& domain, std::int64_t i) const {
    return options_.output / domain / fmt::format("{:05}.jsonl.zst", i);
  }
  void require_free(const std::string& domain) const {
    const fs::path first = finished(domain, 0);
    MOE_REQUIRE(options_.force || !fs::exists(first), first.string(),
                ": exists; --force replaces it");
  }

  void restore();
  void save();
  void read();
  SplitBatch split(SourceBatch&& batch) const;
  void store(SplitBatch&& batch);
  Files& files_of(const std::string& domain);
  void publish();

  const SplitRawOptions& options_;
  const SplitRawProgress& progress_;
  Intake intake_;
  JobFolder job_;
  std::vector<Files> files_;
  InputPosition position_;
  std::int64_t bytes_read_ = 0, seen_ = 0;
  bool all_read_ = false;
};

void Split::restore() {
  if (job_.state().empty()) {
    std::set<std::string> domains = {options_.intake.domain};
    if (options_.intake.sets)
      for (const auto& [set, domain] : options_.intake.sets->domains) domains.insert(domain);
    for (const std::string& domain : domains)
      if (!domain.empty()) require_free(domain);
    intake_.open(job_.path());
    return;
  }
  const json state = json::parse(job_.state());
  position_ = {state["position"][0].get<std::size_t>(), state["position"][1].get<std::int64_t>()};
  bytes_read_ = state["bytes_read"].get<std::int64_t>();
  seen_ = state["seen"].get<std::int64_t>();
  all_read_ = state["all_read"].get<bool>();
  intake_.open(job_.path(), state["intake"].dump());
  for (const json& d : state["domains"]) {
    const SplitRawReport::Domain counts{
        d["name"].get<std::string>(), d["documents"].get<std::int64_t>(),
        d["text_bytes"].get<std::int64_t>(), d["files"].get<std::int64_t>()};
    const fs::path last = unfinished(counts.name, counts.files - 1);
    // A file that has its name already is not opened again.
    const bool published = all_read_ && !fs::exists(last);
    files_.push_back({counts, d["line_bytes"].get<std::int64_t>(),
                      published ? GrowingFile::unnamed(job_.path())
                                : GrowingFile(last, d["size"].get<std::int64_t>())});
  }
  log_info("going on where an earlier run stopped: {} documents are done", seen_);
}

void Split::save() {
  json domains = json::array();
  for (Files& f : files_) {
    f.last.sync();
    domains.push_back({{"name", f.counts.name},
                       {"documents", f.counts.documents},
                       {"text_bytes", f.counts.text_bytes},
                       {"files", f.counts.files},
                       {"line_bytes", f.line_bytes},
                       {"size", f.last.size()}});
  }
  job_.save(json{
      {"position", {position_.input, position_.documents}},
      {"bytes_read", bytes_read_},
      {"seen", seen_},
      {"all_read", all_read_},
      {"intake", json::parse(intake_.save())},
      {"domains",
       domains}}.dump());
}

SplitBatch Split::split(SourceBatch&& batch) const {
  SplitBatch result{{}, {}, {}, batch.end, batch.bytes_read};
  std::map<std::string, std::string> lines;
  for (SourceDocument& document : batch.documents) {
    Examined seen = intake_.examine(document);
    document.raw.content += '\n';
    if (seen.fate == Fate::taken) lines[seen.domain] += document.raw.content;
    intake_.drop_text(seen);
    result.seen.push_back(std::move(seen));
    result.lines.push_back(std::move(document.raw.content));
  }
  for (const auto& [domain, text] : lines) result.frames[domain] = zstd_frame(text);
  return result;
}

Files& Split::files_of(const std::string& domain) {
  for (Files& f : files_) {
    if (f.counts.name != domain) continue;
    if (f.line_bytes >= options_.file_bytes) {
      f.last.sync();
      f.last = GrowingFile(unfinished(domain, f.counts.files++), 0);
      f.line_bytes = 0;
    }
    return f;
  }
  SplitRawReport::Domain counts;
  counts.name = domain;
  counts.files = 1;
  return files_.emplace_back(Files{std::move(counts), 0, GrowingFile(unfinished(domain, 0), 0)});
}

void Split::store(SplitBatch&& batch) {
  struct Taken {
    std::int64_t documents = 0, text_bytes = 0;
    std::string lines;
    bool all = true;
  };
  std::map<std::string, Taken> domains;
  for (std::size_t i = 0; i < batch.seen.size(); ++i) {
    const Examined& seen = batch.seen[i];
    if (intake_.admit(seen)) {
      Taken& taken = domains[seen.domain];
      ++taken.documents;
      taken.text_bytes += seen.bytes;
      taken.lines += batch.lines[i];
    } else if (seen.fate == Fate::taken) {
      domains[seen.domain].all = false;
    }
  }
  intake_.end_batch();
  for (const auto& [domain, taken] : domains) {
    if (taken.documents == 0) continue;
    // Only now is it known which lines are duplicates.
    const std::string frame = taken.all ? std::move(batch.frames[domain]) : zstd_frame(taken.lines);
    Files& files = files_of(domain);
    files.counts.documents += taken.documents;
    files.counts.text_bytes += taken.text_bytes;
    files.line_bytes += std::int64_t(taken.lines.size());
    files.last.append(frame.data(), frame.size());
  }
  position_ = batch.end;
  bytes_read_ = batch.bytes_read;
  seen_ += std::int64_t(batch.seen.size());
}

void Split::read() {
  BatchReader reader = intake_.reader(kBatchBytes, position_);
  const auto tell = [&] {
    if (progress_) progress_(bytes_read_, seen_);
  };
  tell();
  Clock::time_point saved = Clock::now();
  ordered_pipeline<SourceBatch, SplitBatch>(
      pipeline_threads(options_.threads), [&](SourceBatch& batch) { return reader.next(batch); },
      [&](SourceBatch&& batch) { return split(std::move(batch)); },
      [&](SplitBatch&& batch) {
        store(std::move(batch));
        tell();
        if (seconds_since(saved) < options_.save_every) return;
        save();
        saved = Clock::now();
      });
  all_read_ = true;
}

void Split::publish() {
  if (job_.state().empty())
    for (const Files& f : files_) require_free(f.counts.name);
  save();
  for (const Files& f : files_) {
    const std::string& domain = f.counts.name;
    fs::create_directory(options_.output / domain);
    for (std::int64_t i = 0; i < f.counts.files; ++i)
      if (fs::exists(unfinished(domain, i)))
        rename_path(unfinished(domain, i), finished(domain, i));
    if (options_.force)
      for (std::int64_t i = f.counts.files; fs::remove(finished(domain, i));) ++i;
    sync_path(options_.output / domain);
  }
}

SplitRawReport Split::run() {
  const auto start = Clock::now();
  restore();
  if (!all_read_) read();
  const IntakeCounts& left_out = intake_.counts();
  MOE_REQUIRE(!files_.empty(), "the inputs hold no document that can be taken (", left_out.empty,
              " empty, ", left_out.bad, " skipped)");
  publish();
  SplitRawReport report;
  for (const Files& f : files_) report.domains.push_back(f.counts);
  report.left_out = left_out;
  intake_.publish();
  job_.finish();
  report.seconds = seconds_since(start);
  return report;
}

}  // namespace

SplitRawReport split_raw(const SplitRawOptions& options, const SplitRawProgress& progress) {
  return Split(options, progress).run();
}

}  // namespace moe
