// SPDX-License-Identifier: Apache-2.0
#include "data/build_shards.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"
#include "core/rng.h"
#include "data/build_plan.h"
#include "data/checksum.h"
#include "data/job_folder.h"
#include "data/ordered_pipeline.h"
#include "data/shard_batches.h"
#include "data/text_reader.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What one thread works on at a time, bytes of text.
constexpr std::size_t kBatchBytes = 1 << 20;

/// A document ready to be stored: one piece or more, each with its BOS and EOS.
struct Encoded {
  Examined what;
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> learned;  // of each id, in a masked shard
  std::vector<std::size_t> ends;      // of each piece in ids
};

struct EncodedBatch {
  std::vector<Encoded> documents;
  InputPosition end;
  std::int64_t bytes_read = 0;
};

/// A domain's documents on their way to its shards.
struct Collected {
  std::string name;
  std::int64_t text_bytes;
  TokenWriter writer;
};

/// A shard that is to be written.
struct Output {
  std::size_t domain;
  bool held_out;
  fs::path path;
  TokenWriter::Range range;
};

class Build {
 public:
  Build(const BuildOptions& options, const BuildProgress& progress)
      : plan_(options), progress_(progress), intake_(plan_.intake), job_(open_job(plan_)) {}

  BuildReport run();

 private:
  static JobFolder open_job(const BuildPlan& plan) {
    if (plan.options.sets) fs::create_directory(plan.options.output);
    return JobFolder(plan.job_folder, plan.reading_job(), plan.options.force);
  }
  void restore();
  void save();

  void read();
  Encoded encode(const SourceDocument& document) const;
  Encoded encode_chat(const SourceDocument& document) const;
  void store(const Encoded& document);
  Collected& collected(const std::string& domain, const TokenWriter::Waiting& waiting);

  std::vector<Output> choose_outputs();
  TokenWriter::Keep kept(const Output& output) const;
  void write();

  BuildPlan plan_;
  const BuildProgress& progress_;
  Intake intake_;
  JobFolder job_;
  std::vector<Collected> domains_;
  InputPosition position_;
  std::int64_t bytes_read_ = 0, tokens_ = 0;
  bool all_read_ = false;
  bool writing_ = false;                     // the outputs were free when writing began
  std::vector<BuildReport::Shard> shards_;   // written
  std::vector<std::vector<bool>> held_out_;  // for each domain, each document
};

void Build::restore() {
  json state;
  if (!job_.state().empty()) state = json::parse(job_.state());
  writing_ = state.is_object() && state["writing"] == json::parse(plan_.writing_job());
  if (!writing_) plan_.require_free();
  if (state.is_null()) {
    intake_.open(job_.path());
    return;
  }
  position_ = {state["position"][0].get<std::size_t>(), state["position"][1].get<std::int64_t>()};
  bytes_read_ = state["bytes_read"].get<std::int64_t>();
  all_read_ = state["all_read"].get<bool>();
  intake_.open(job_.path(), state["intake"].dump());
  for (const json& d : state["domains"]) {
    const TokenWriter::Waiting waiting{d["documents"].get<std::int64_t>(),
                                       d["tokens"].get<std::int64_t>()};
    collected(d["name"].get<std::string>(), waiting).text_bytes =
        d["text_bytes"].get<std::int64_t>();
    tokens_ += waiting.tokens;
  }
  if (writing_)
    for (const json& s : state["shards"])
      shards_.push_back({s["path"].get<std::string>(), s["domain"].get<std::string>(),
                         s["held_out"].get<bool>(), s["documents"].get<std::int64_t>(),
                         s["tokens"].get<std::int64_t>(), s["learned"].get<std::int64_t>()});
  log_info("going on where an earlier run stopped: {} tokens are there", tokens_);
}

void Build::save() {
  json domains = json::array(), shards = json::array();
  for (Collected& d : domains_) {
    const TokenWriter::Waiting waiting = d.writer.sync();
    domains.push_back({{"name", d.name},
                       {"documents", waiting.documents},
                       {"tokens", waiting.tokens},
                       {"text_bytes", d.text_bytes}});
  }
  for (const BuildReport::Shard& s : shards_)
    shards.push_back({{"path", s.path.string()},
                      {"domain", s.domain},
                      {"held_out", s.held_out},
                      {"documents", s.documents},
                      {"tokens", s.tokens},
                      {"learned", s.learned}});
  job_.save(json{
      {"position", {position_.input, position_.documents}},
      {"bytes_read", bytes_read_},
      {"all_read", all_read_},
      {"intake", json::parse(intake_.save())},
      {"domains", domains},
      {"writing", writing_ ? json::parse(plan_.writing_job()) : json()},
      {"shards",
       shards}}.dump());
}

Collected& Build::collected(const std::string& domain, const TokenWriter::Waiting& waiting) {
  for (Collected& d : domains_)
    if (d.name == domain) return d;
  TokenFileInfo info = plan_.info;
  info.domain = domain;
  const fs::path stem = job_.path() / std::to_string(domains_.size());
  return domains_.emplace_back(Collected{domain, 0, TokenWriter(info, stem, waiting)});
}

Encoded Build::encode_chat(const SourceDocument& document) const {
  const BuildOptions& o = plan_.options;
  Encoded result;
  result.what = intake_.examine(document, [&](const std::string& where, Examined& into) {
    MOE_REQUIRE(!document.plain_text, where, ": plain text holds no conversation; give jsonl");
    const Conversation conversation = parse_conversation(document.raw.content, where);
    ChatEncoder::Encoded encoded = o.chat->encode(conversation, where);
    result.ids = std::move(encoded.ids);
    if (plan_.info.masked) result.learned = std::move(encoded.learned);
    for (const ChatMessage& m : conversation.messages) into.bytes += std::int64_t(m.content.size());
  });
  if (const auto most = std::size_t(o.max_tokens); most > 0 && result.ids.size() > most) {
    result.ids.resize(most);
    if (plan_.info.masked) result.learned.resize(most);
    const bool teaches =
        !plan_.info.masked ||
        std::find(result.learned.begin(), result.learned.end(), 1) != result.learned.end();
    result.what.truncated = o.truncate && teaches;
    if (!result.what.truncated) {
      result.what.fate = Fate::filtered;
      result.what.reason = "over-long";
    }
  }
  result.ends = {result.ids.size()};
  return result;
}

Encoded Build::encode(const SourceDocument& document) const {
  if (plan_.options.chat != nullptr) return encode_chat(document);
  Encoded result;
  std::vector<std::int32_t> ids;
  if (plan_.options.tokenized) {
    result.what = intake_.examine(document, [&](const std::string& where, Examined&) {
      ids = parse_ids(document.raw.content, plan_.intake.field, plan_.info.vocabulary_size, where);
    });
  } else {
    if (plan_.shards)
      result.what = intake_.examine(document, [&](const std::string&, Examined& into) {
        into.text = plan_.options.from->decode(document.ids);
        into.bytes = std::int64_t(into.text.size());
      });
    else
      result.what = intake_.examine(document);
    if (result.what.fate != Fate::taken) return result;
    ids = plan_.options.tokenizer->encode(result.what.text);
    intake_.drop_text(result.what);
  }
  if (result.what.fate == Fate::taken && ids.empty()) result.what.fate = Fate::empty;

  const bool bos = plan_.info.bos_id >= 0, eos = plan_.info.eos_id >= 0;
  const std::size_t most = plan_.options.cut_documents > 0
                               ? std::size_t(plan_.options.cut_documents) - bos - eos
                               : ids.size();
  for (std::size_t begin = 0; begin < ids.size(); begin += most) {
    if (bos) result.ids.push_back(plan_.info.bos_id);
    result.ids.insert(result.ids.end(), ids.begin() + std::ptrdiff_t(begin),
                      ids.begin() + std::ptrdiff_t(std::min(begin + most, ids.size())));
    if (eos) result.ids.push_back(plan_.info.eos_id);
    result.ends.push_back(result.ids.size());
  }
  return result;
}

void Build::store(const Encoded& document) {
  if (!intake_.admit(document.what)) return;
  Collected& domain = collected(document.what.domain, {});
  domain.text_bytes += document.what.bytes;
  std::size_t first = 0;
  for (const std::size_t end : document.ends) {
    std::span<const std::uint8_t> learned = document.learned;
    if (!learned.empty()) learned = learned.subspan(first, end - first);
    domain.writer.append({document.ids.data() + first, end - first}, learned);
    first = end;
  }
  tokens_ += std::int64_t(document.ids.size());
}

void Build::read() {
  BatchReader files = intake_.reader(kBatchBytes, position_);
  std::optional<ShardBatches> shards;
  if (plan_.shards) shards.emplace(*plan_.shards, position_);
  const auto tell = [&] {
    if (progress_) progress_(bytes_read_, tokens_);
  };
  tell();
  Clock::time_point saved = Clock::now();
  ordered_pipeline<SourceBatch, EncodedBatch>(
      pipeline_threads(plan_.options.threads),
      [&](SourceBatch& batch) { return shards ? shards->next(batch) : files.next(batch); },
      [&](SourceBatch&& batch) {
        EncodedBatch result{{}, batch.end, batch.bytes_read};
        for (const SourceDocument& d : batch.documents) result.documents.push_back(encode(d));
        return result;
      },
      [&](EncodedBatch&& batch) {
        for (const Encoded& d : batch.documents) store(d);
        intake_.end_batch();
        position_ = batch.end;
        bytes_read_ = batch.bytes_read;
        tell();
        if (seconds_since(saved) < plan_.options.save_every) return;
        save();
        saved = Clock::now();
      });
  all_read_ = true;
}

std::vector<Output> Build::choose_outputs() {
  const BuildOptions& o = plan_.options;
  std::vector<Output> outputs;
  for (std::size_t d = 0; d < domains_.size(); ++d) {
    const auto& [name, text_bytes, writer] = domains_[d];
    auto& held_out = held_out_.emplace_back();
    const std::int64_t total = writer.documents();
    if (o.held_out) {
      const std::int64_t count =
          o.held_out->count > 0
              ? o.held_out->count
              : std::max<std::int64_t>(1, std::llround(o.held_out->fraction * double(total)));
      MOE_REQUIRE(count < total, "--held-out ", count, ": the inputs have ", total,
                  " documents of ", name, ", and one at least is needed on each side",
                  " (--cut-documents parts long ones)");
      held_out = choose_held_out(total, count, o.seed);
      outputs.push_back({d, true, plan_.held_out_shard(name), writer.all()});
    }
    Output output{d, false, plan_.shard(name, 0), writer.all()};
    std::vector<TokenWriter::Range> ranges = {writer.all()};
    if (o.shard_tokens > 0) ranges = writer.cut(o.shard_tokens, kept(output));
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      output.path = plan_.shard(name, i);
      output.range = ranges[i];
      outputs.push_back(output);
    }
  }
  return outputs;
}

TokenWriter::Keep Build::kept(const Output& output) const {
  if (!plan_.options.held_out) return {};
  return [&held_out = held_out_[output.domain], wanted = output.held_out](std::int64_t i) {
    return held_out[std::size_t(i)] == wanted;
  };
}

void Build::write() {
  const std::vector<Output> outputs = choose_outputs();
  // A file that is there once writing has begun is ours, whether it was counted before a kill or
  // not.
  if (!writing_)
    for (const Output& output : outputs) plan_.require_free(output.path);
  writing_ = true;
  save();
  for (std::size_t i = shards_.size(); i < outputs.size(); ++i) {
    const Output& output = outputs[i];
    const auto& [name, text_bytes, writer] = domains_[output.domain];
    const TokenWriter::Written written = writer.write(output.path, output.range, kept(output));
    shards_.push_back(
        {output.path, name, output.held_out, written.documents, written.tokens, written.learned});
    if (outputs.size() > 1) save();
  }
  for (const Collected& d : domains_)
    plan_.remove_older(
        d.name, std::size_t(std::count_if(outputs.begin(), outputs.end(), [&](const Output& o) {
          return !o.held_out && domains_[o.domain].name == d.name;
        })));
}

BuildReport Build::run() {
  const auto start = Clock::now();
  restore();
  if (!all_read_) read();
  const IntakeCounts& left_out = intake_.counts();
  std::int64_t removed = 0;
  for (const auto& [domain, reasons] : left_out.removed)
    for (const auto& [reason, r] : reasons) removed += r.documents;
  MOE_REQUIRE(!domains_.empty(), "the inputs hold no document to store (", left_out.empty,
              " empty, ", left_out.bad, " skipped, ", removed, " left out)");
  write();
  BuildReport report;
  report.shards = std::move(shards_);
  report.left_out = left_out;
  for (const Collected& d : domains_)
    report.domains.push_back({d.name, d.writer.documents(), d.writer.tokens(), d.text_bytes});
  for (const BuildReport::Shard& shard : report.shards) {
    TokenWriter::Written& sum = shard.held_out ? report.held_out : report.written;
    sum.documents += shard.documents;
    sum.tokens += shard.tokens;
    sum.learned += shard.learned;
  }
  intake_.publish();
  job_.finish();
  report.seconds = seconds_since(start);
  return report;
}

}  // namespace

std::vector<bool> choose_held_out(std::int64_t total, std::int64_t count, std::uint64_t seed) {
  // Selection sampling (Knuth, TAOCP 2, algorithm 3.4.2 S): exactly `count`, each set as likely.
  const Philox random(seed, RandomPurpose::document_order, {checksum("held-out")});
  std::vector<bool> chosen(static_cast<std::size_t>(total));
  std::int64_t left = count;
  for (std::int64_t i = 0; i < total && left > 0; ++i) {
    if (std::int64_t(random.below(std::uint64_t(i), std::uint64_t(total - i))) >= left) continue;
    chosen[std::size_t(i)] = true;
    --left;
  }
  return chosen;
}

BuildReport build_shards(const BuildOptions& options, const BuildProgress& progress) {
  return Build(options, progress).run();
}

}  // namespace moe
