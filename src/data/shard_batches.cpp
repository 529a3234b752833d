// SPDX-License-Identifier: Apache-2.0
#include "data/shard_batches.h"

namespace moe {
namespace {

constexpr std::size_t kTokens = 1 << 18;
constexpr std::size_t kMostDocuments = 4096;

}  // namespace

bool ShardBatches::next(SourceBatch& batch) {
  batch = {};
  std::size_t tokens = 0;
  const std::vector<TokenFile>& files = shards_.files();
  while (tokens < kTokens && batch.documents.size() < kMostDocuments && at_.input < files.size()) {
    const TokenFile& file = files[at_.input];
    if (at_.documents == file.documents()) {
      at_ = {at_.input + 1, 0};
      continue;
    }
    const TokenFile::Range range = file.document(at_.documents);
    SourceDocument& document = batch.documents.emplace_back();
    document.input = at_.input;
    document.raw.line = at_.documents++;
    document.ids.resize(std::size_t(range.count));
    file.read(range.first, document.ids);
    tokens += document.ids.size();
  }
  batch.end = at_;
  for (std::size_t i = 0; i < at_.input; ++i)
    batch.bytes_read += files[i].tokens() * files[i].token_bytes();
  if (at_.input < files.size() && at_.documents > 0) {
    const TokenFile::Range last = files[at_.input].document(at_.documents - 1);
    batch.bytes_read += (last.first + last.count) * files[at_.input].token_bytes();
  }
  return !batch.documents.empty();
}

}  // namespace moe
