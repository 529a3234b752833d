// SPDX-License-Identifier: Apache-2.0
#include "data/shard_edit.h"

#include <algorithm>

#include "core/error.h"
#include "data/checksum.h"
#include "data/document_scores.h"
#include "data/mixture.h"
#include "data/shard_names.h"
#include "data/shard_set.h"
#include "data/token_format.h"
#include "data/token_writer.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

void require_free(const ShardEdit& edit, const fs::path& path) {
  const bool exists = fs::exists(path) || fs::exists(manifest_path(path));
  MOE_REQUIRE(edit.force || !exists, path.string(), ": exists; --force replaces it");
}

bool numbered(const ShardEdit& edit) { return edit.shard_tokens > 0 || edit.shard_documents > 0; }

ShardSet open(const ShardEdit& edit) {
  MOE_REQUIRE(edit.shard_tokens == 0 || edit.shard_documents == 0,
              "give --shard-tokens or --shard-documents, not both");
  require_free(edit, shard_name(edit.output, 0, numbered(edit)));
  ShardSet set(edit.inputs, edit.domain);
  for (const fs::path& input : edit.inputs)
    MOE_REQUIRE(!fs::exists(edit.output) || !fs::equivalent(input, edit.output), input.string(),
                ": input and output at once; name another output");
  set.verify();
  return set;
}

std::vector<TokenWriter::Range> ranges_of(const TokenWriter& writer, const ShardEdit& edit) {
  if (edit.shard_tokens > 0) return writer.cut(edit.shard_tokens);
  if (edit.shard_documents == 0) return {writer.all()};
  std::vector<TokenWriter::Range> ranges;
  for (std::int64_t at = 0; at < writer.documents(); at += edit.shard_documents)
    ranges.push_back({at, std::min(at + edit.shard_documents, writer.documents())});
  return ranges;
}

/// Writes documents choose(0) to choose(count - 1) of the set; negative ones are left out.
ShardEditReport rewrite(const ShardSet& set, const ShardEdit& edit,
                        const std::function<std::int64_t(std::int64_t)>& choose,
                        const ShardEditProgress& progress) {
  TokenWriter writer(set.info(), edit.output.parent_path());
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> learned;
  for (std::int64_t i = 0; i < set.documents(); ++i) {
    const std::int64_t document = choose(i);
    if (document >= 0) {
      set.read(document, ids);
      if (set.info().masked) set.read_learned(document, learned);
      writer.append(ids, learned);
    }
    if (progress) progress(i + 1, writer.tokens());
  }
  const auto ranges = ranges_of(writer, edit);
  for (std::size_t i = 0; i < ranges.size(); ++i)
    require_free(edit, shard_name(edit.output, i, numbered(edit)));
  ShardEditReport report;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const fs::path path = shard_name(edit.output, i, numbered(edit));
    const TokenWriter::Written written = writer.write(path, ranges[i]);
    report.shards.push_back({path, written.documents, written.tokens});
  }
  if (edit.force && numbered(edit)) remove_shards_from(edit.output, ranges.size());
  return report;
}

}  // namespace

ShardEditReport merge_shards(const ShardEdit& edit, const ShardEditProgress& progress) {
  const ShardSet set = open(edit);
  return rewrite(
      set, edit, [](std::int64_t i) { return i; }, progress);
}

ShardEditReport shuffle_shards(const ShardEdit& edit, std::uint64_t seed,
                               const ShardEditProgress& progress) {
  const ShardSet set = open(edit);
  return rewrite(
      set, edit,
      [&, key = checksum("shuffle")](std::int64_t i) {
        return permuted_index(i, set.documents(), seed, key, 0);
      },
      progress);
}

SelectReport select_documents(const ShardEdit& edit, const fs::path& scores,
                              const LossBounds& bounds, const ShardEditProgress& progress) {
  MOE_REQUIRE(bounds.min || bounds.max || bounds.keep_fraction,
              "give --max-loss, --min-loss or --keep-fraction");
  MOE_REQUIRE(!bounds.min || !bounds.max || *bounds.min <= *bounds.max,
              "--min-loss is above --max-loss");
  MOE_REQUIRE(!bounds.keep_fraction || (*bounds.keep_fraction > 0 && *bounds.keep_fraction <= 1),
              "--keep-fraction ", *bounds.keep_fraction, ": give a share above 0, up to 1");
  const ShardSet set = open(edit);
  const std::vector<float> losses = read_document_scores(scores, set);

  SelectReport report;
  enum : std::uint8_t { take, leave };
  std::vector<std::uint8_t> fate(losses.size(), take);
  std::vector<std::int64_t> within;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const double loss = losses[i];
    const bool unscored = loss < 0, above = bounds.max && loss > *bounds.max,
               below = !unscored && bounds.min && loss < *bounds.min;
    report.unscored += unscored;
    report.above += above;
    report.below += below;
    if (unscored || above || below)
      fate[i] = leave;
    else
      within.push_back(std::int64_t(i));
  }
  if (bounds.keep_fraction) {
    const auto most = std::size_t(*bounds.keep_fraction * double(losses.size()));
    if (most < within.size()) {
      // Of equal losses the earlier document.
      std::nth_element(within.begin(), within.begin() + std::ptrdiff_t(most), within.end(),
                       [&](std::int64_t a, std::int64_t b) {
                         const float x = losses[std::size_t(a)], y = losses[std::size_t(b)];
                         return x != y ? x < y : a < b;
                       });
      for (std::size_t i = most; i < within.size(); ++i) fate[std::size_t(within[i])] = leave;
      report.above += std::int64_t(within.size() - most);
    }
  }
  MOE_REQUIRE(std::count(fate.begin(), fate.end(), take) > 0, "no document is left: ", report.above,
              " above the loss allowed, ", report.below, " below it, ", report.unscored,
              " without a score");
  report.written = rewrite(
      set, edit, [&](std::int64_t i) { return fate[std::size_t(i)] == take ? i : -1; }, progress);
  return report;
}

}  // namespace moe
