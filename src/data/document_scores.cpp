// SPDX-License-Identifier: Apache-2.0
#include "data/document_scores.h"

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/text_reader.h"

namespace moe {

using nlohmann::json;

std::vector<float> read_document_scores(const std::filesystem::path& path, const ShardSet& shards) {
  std::vector<float> losses;
  LineReader reader(path);
  constexpr const char* kAgain =
      "; score these shards again (moe-eval loss --per-document --scores)";
  for (std::string line; reader.next(line);) {
    const std::string where = str(path.string(), ":", reader.line_number());
    const auto i = std::int64_t(losses.size());
    MOE_REQUIRE(i < shards.documents(), where, ": more scores than the shards have documents, ",
                shards.documents(), kAgain);
    const json score = json::parse(line, nullptr, /*allow_exceptions=*/false);
    const auto is = [&](const char* key, auto holds) {
      const auto it = score.find(key);
      return it != score.end() && holds(*it);
    };
    MOE_REQUIRE(score.is_object() && is("shard", [](const json& v) { return v.is_string(); }) &&
                    is("document", [](const json& v) { return v.is_number_integer(); }) &&
                    is("tokens", [](const json& v) { return v.is_number_integer(); }) &&
                    is("loss", [](const json& v) { return v.is_number() || v.is_null(); }),
                where, ": not a score ({\"shard\":...,\"document\":0,\"tokens\":1,\"loss\":2.5})",
                kAgain);
    const ShardSet::Place place = shards.place(i);
    const TokenFile& file = shards.files()[place.file];
    const std::filesystem::path name = score["shard"].get<std::string>();
    MOE_REQUIRE(name.filename() == file.path().filename(), where, ": a score of ", name.string(),
                " where one of ", file.path().string(), " is expected", kAgain);
    MOE_REQUIRE(score["document"].get<std::int64_t>() == place.document, where,
                ": a score of document ", score["document"].dump(), " where one of document ",
                place.document, " is expected", kAgain);
    const TokenFile::Range range = file.document(place.document);
    const std::int64_t has = file.count_learned(range.first, range.count);
    MOE_REQUIRE(std::abs(score["tokens"].get<std::int64_t>() - has) <= 1, where, ": ",
                score["tokens"].dump(), " tokens were scored where the document has ", has, kAgain);
    const json& loss = score["loss"];
    MOE_REQUIRE(loss.is_null() || (std::isfinite(loss.get<double>()) && loss.get<double>() >= 0),
                where, ": a loss of ", loss.dump());
    losses.push_back(loss.is_null() ? -1.0f : float(loss.get<double>()));
  }
  MOE_REQUIRE(std::int64_t(losses.size()) == shards.documents(), path.string(), ": ", losses.size(),
              " scores of ", shards.documents(), " documents", kAgain);
  return losses;
}

}  // namespace moe
