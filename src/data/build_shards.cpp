// SPDX-License-Identifier: Apache-2.0
#include "data/build_shards.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <deque>
#include <future>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "core/rng.h"
#include "data/checksum.h"
#include "data/text_reader.h"
#include "data/token_format.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// What one thread works on at a time.
constexpr std::size_t kBatchBytes = 1 << 20;
constexpr std::size_t kBatchDocuments = 4096;
/// Skipped lines that are named one by one.
constexpr std::int64_t kNamedSkips = 10;

struct Item {
  std::size_t input;  // index of its file
  bool plain_text;
  RawDocument document;
};

struct Batch {
  std::vector<Item> items;
  std::int64_t bytes_read = 0;  // of all inputs, when the batch was complete
};

/// The documents of all inputs, front to back, in batches.
class BatchReader {
 public:
  explicit BatchReader(const BuildOptions& options) : options_(options) {}

  bool next(Batch& batch) {
    batch = {};
    std::size_t bytes = 0;
    while (bytes < kBatchBytes && batch.items.size() < kBatchDocuments && open_input()) {
      Item item{input_, reader_->plain_text(), {}};
      if (reader_->next(item.document)) {
        bytes += item.document.content.size();
        batch.items.push_back(std::move(item));
      } else {
        finished_bytes_ += reader_->bytes_read();
        reader_.reset();
        ++input_;
      }
    }
    batch.bytes_read = finished_bytes_ + (reader_ ? reader_->bytes_read() : 0);
    return !batch.items.empty();
  }

 private:
  bool open_input() {
    if (!reader_ && input_ < options_.inputs.size())
      reader_.emplace(options_.inputs[input_], options_.separator);
    return reader_.has_value();
  }

  const BuildOptions& options_;
  std::size_t input_ = 0;
  std::optional<DocumentReader> reader_;
  std::int64_t finished_bytes_ = 0;
};

struct Tokenized {
  std::vector<std::int32_t> ids;  // of all documents, one after the other
  std::vector<std::size_t> ends;  // of each document in ids
  std::int64_t empty = 0;
  std::vector<std::string> skipped;  // why, one message each
};

/// A build with its defaults filled in.
struct Plan {
  const BuildOptions& options;
  std::string field;
  TokenFileInfo info;

  std::vector<std::int32_t> ids_of(const Item& item) const {
    const std::string where = str(options.inputs[item.input].string(), ":", item.document.line);
    if (options.tokenized)
      return parse_ids(item.document.content, field, info.vocabulary_size, where);
    if (!item.plain_text)
      return options.tokenizer->encode(parse_text(item.document.content, field, where));
    check_utf8(item.document.content, where);
    return options.tokenizer->encode(item.document.content);
  }

  Tokenized tokenize(const Batch& batch) const {
    Tokenized result;
    for (const Item& item : batch.items) {
      std::vector<std::int32_t> ids;
      try {
        ids = ids_of(item);
      } catch (const InputError& e) {
        if (!options.skip_bad) throw;
        result.skipped.push_back(e.what());
        continue;
      }
      if (ids.empty()) {
        ++result.empty;
        continue;
      }
      if (info.bos_id >= 0) result.ids.push_back(info.bos_id);
      result.ids.insert(result.ids.end(), ids.begin(), ids.end());
      if (info.eos_id >= 0) result.ids.push_back(info.eos_id);
      result.ends.push_back(result.ids.size());
    }
    return result;
  }
};

/// The id that --bos or --eos stands for, -1 without it.
std::int32_t boundary_id(bool wanted, const Tokenizer* tokenizer, std::int32_t id,
                         const char* option) {
  if (!wanted) return -1;
  MOE_REQUIRE(tokenizer != nullptr, option, " needs --tokenizer, which knows the id");
  MOE_REQUIRE(id >= 0, option, ": the tokenizer has no such id");
  return id;
}

Plan make_plan(const BuildOptions& options) {
  const Tokenizer* tokenizer = options.tokenizer;
  MOE_REQUIRE(!options.inputs.empty(), "no input files");
  MOE_REQUIRE(options.tokenized || tokenizer != nullptr, "text needs a tokenizer (--tokenizer)");
  MOE_REQUIRE(options.vocabulary_size > 0 || tokenizer != nullptr,
              "the vocabulary size of tokenized input is not known (--vocab-size)");
  MOE_REQUIRE(options.held_out.has_value() == !options.held_out_output.empty(),
              "--held-out and --held-out-output belong together");
  MOE_REQUIRE(options.held_out_output != options.output,
              "--output and --held-out-output are the same file");
  Plan plan{.options = options,
            .field = !options.field.empty() ? options.field
                     : options.tokenized    ? "input_ids"
                                            : "text",
            .info = {.domain = options.domain,
                     .tokenizer_hash = tokenizer ? tokenizer->hash() : "",
                     .vocabulary_size = options.vocabulary_size}};
  if (tokenizer != nullptr) {
    if (plan.info.vocabulary_size == 0) plan.info.vocabulary_size = tokenizer->vocabulary_size();
    MOE_REQUIRE(plan.info.vocabulary_size >= tokenizer->vocabulary_size(), "--vocab-size ",
                plan.info.vocabulary_size, " is less than the tokenizer's ",
                tokenizer->vocabulary_size());
    plan.info.bos_id = boundary_id(options.bos, tokenizer, tokenizer->bos_id(), "--bos");
    plan.info.eos_id = boundary_id(options.eos, tokenizer, tokenizer->eos_id(), "--eos");
  } else {
    boundary_id(options.bos, tokenizer, -1, "--bos");
    boundary_id(options.eos, tokenizer, -1, "--eos");
  }
  for (const fs::path& output : {options.output, options.held_out_output}) {
    if (output.empty()) continue;
    const bool exists = fs::exists(output) || fs::exists(manifest_path(output));
    MOE_REQUIRE(options.force || !exists, output.string(), ": exists; --force replaces it");
    MOE_REQUIRE(!fs::is_directory(output), output.string(), ": a folder; name a file");
    const fs::path folder = output.has_parent_path() ? output.parent_path() : fs::path(".");
    MOE_REQUIRE(fs::is_directory(folder), folder.string(), ": no such folder");
  }
  return plan;
}

}  // namespace

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
  const auto start = std::chrono::steady_clock::now();
  const Plan plan = make_plan(options);
  const std::size_t threads = options.threads > 0
                                  ? std::size_t(options.threads)
                                  : std::max<std::size_t>(1, std::thread::hardware_concurrency());
  TokenWriter writer(plan.info, options.output.parent_path());
  BuildReport report;

  struct Running {
    std::future<Tokenized> result;
    std::int64_t bytes_read;
  };
  std::deque<Running> running;  // in input order, which is the order they are written in
  const auto store_first = [&] {
    const Tokenized done = running.front().result.get();
    std::size_t first = 0;
    for (const std::size_t end : done.ends) {
      writer.append({done.ids.data() + first, end - first});
      first = end;
    }
    report.empty += done.empty;
    for (const std::string& reason : done.skipped)
      if (report.skipped++ < kNamedSkips) log_warning("skipped: {}", reason);
    if (progress) progress(running.front().bytes_read, writer.tokens());
    running.pop_front();
  };

  BatchReader reader(options);
  for (Batch batch; reader.next(batch);) {
    if (running.size() == threads) store_first();
    const std::int64_t bytes_read = batch.bytes_read;
    running.push_back({std::async(std::launch::async,
                                  [&plan, work = std::move(batch)] { return plan.tokenize(work); }),
                       bytes_read});
  }
  while (!running.empty()) store_first();

  if (options.held_out) {
    const std::int64_t total = writer.documents();
    const std::int64_t count =
        options.held_out->count > 0
            ? options.held_out->count
            : std::max<std::int64_t>(1, std::llround(options.held_out->fraction * double(total)));
    MOE_REQUIRE(count < total, "--held-out ", count, ": the inputs have ", total,
                " documents, and one at least is needed on each side");
    const std::vector<bool> held_out = choose_held_out(total, count, options.seed);
    report.held_out = writer.write(options.held_out_output,
                                   [&](std::int64_t i) { return bool(held_out[std::size_t(i)]); });
    report.written =
        writer.write(options.output, [&](std::int64_t i) { return !held_out[std::size_t(i)]; });
  } else {
    MOE_REQUIRE(writer.documents() > 0, "the inputs hold no document with text (", report.empty,
                " empty, ", report.skipped, " skipped)");
    report.written = writer.write(options.output);
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace moe
