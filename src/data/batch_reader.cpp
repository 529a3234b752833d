// SPDX-License-Identifier: Apache-2.0
#include "data/batch_reader.h"

#include "core/error.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostDocuments = 4096;

std::int64_t size_of(const fs::path& path) {
  std::error_code unreadable;  // said by whoever opens it
  const auto size = fs::file_size(path, unreadable);
  return unreadable ? 0 : std::int64_t(size);
}

}  // namespace

BatchReader::BatchReader(Options options, InputPosition from)
    : options_(std::move(options)), at_{from.input, 0}, to_skip_(from.documents) {
  for (std::size_t i = 0; i < at_.input; ++i) finished_bytes_ += size_of(options_.inputs[i]);
}

std::int64_t BatchReader::bytes_of(const std::vector<fs::path>& inputs) {
  std::int64_t bytes = 0;
  for (const fs::path& input : inputs) bytes += size_of(input);
  return bytes;
}

bool BatchReader::open_input() {
  if (!reader_ && at_.input < options_.inputs.size())
    reader_.emplace(options_.inputs[at_.input], options_.separator);
  return reader_.has_value();
}

void BatchReader::close_input(std::int64_t bytes) {
  finished_bytes_ += bytes;
  reader_.reset();
  at_ = {at_.input + 1, 0};
}

bool BatchReader::next(SourceBatch& batch) {
  batch = {};
  std::size_t bytes = 0;
  while (bytes < options_.batch_bytes && batch.documents.size() < kMostDocuments) {
    SourceDocument document{.input = at_.input};
    bool any = false;
    try {
      if (!open_input()) break;
      document.plain_text = reader_->plain_text();
      any = reader_->next(document.raw);
    } catch (const InputError& e) {
      if (!options_.pass_over_damage) throw;
      document.damage = e.what();
      document.raw = {};
      batch.documents.push_back(std::move(document));
      to_skip_ = 0;
      close_input(size_of(options_.inputs[at_.input]));
      continue;
    }
    if (!any) {
      MOE_REQUIRE(to_skip_ == 0, options_.inputs[at_.input].string(),
                  ": has fewer documents than an earlier run has read; it was changed");
      close_input(reader_->bytes_read());
      continue;
    }
    ++at_.documents;
    if (to_skip_ > 0) {
      --to_skip_;
      continue;
    }
    bytes += document.raw.content.size();
    batch.documents.push_back(std::move(document));
  }
  batch.end = at_;
  batch.bytes_read = finished_bytes_ + (reader_ ? reader_->bytes_read() : 0);
  return !batch.documents.empty();
}

}  // namespace moe
