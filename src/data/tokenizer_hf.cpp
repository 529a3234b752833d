// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/byte_pair_tokenizer.h"
#include "data/tokenizer_steps.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uint64_t kMostIds = std::uint64_t{1} << 20;

/// nlohmann's messages begin with "[json.exception.parse_error.101] ".
std::string reason_of(const json::exception& e) {
  const std::string_view text = e.what();
  const std::size_t bracket = text.find("] ");
  return std::string(bracket == text.npos ? text : text.substr(bracket + 2));
}

/// The bytes of characters by which GPT-2 writes bytes in its vocabulary: printable ones of Latin-1
/// are themselves, the others are U+0100 and on. Nothing for a text with any other character.
class ByteCharacters {
 public:
  ByteCharacters() {
    bytes_.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool itself = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
      bytes_[itself ? char32_t(byte) : next++] = byte;
    }
  }

  std::optional<std::string> bytes_of(const std::string& text) const {
    std::string bytes;
    for (std::size_t at = 0; at < text.size(); at += utf8_length(text[at])) {
      const char32_t character = utf8_character(text.data() + at);
      if (character >= bytes_.size() || bytes_[character] < 0) return std::nullopt;
      bytes += char(bytes_[character]);
    }
    return bytes;
  }

 private:
  std::array<int, 0x144> bytes_;
};

struct AddedToken {
  std::string content;
  std::int32_t id;
  bool special, normalized;
};

/// Reads the file's objects; messages name the field.
class Reader {
 public:
  Reader(fs::path file, const std::string& content)
      : file_(std::move(file)), name_(file_.string()) {
    try {
      root_ = json::parse(content);
    } catch (const json::exception& e) {
      throw InputError(str(name_, ": not valid JSON: ", reason_of(e)));
    }
  }

  TokenizerModel read() {
    const json& model = field(root_, "model", json::value_t::object, "");
    const std::string type = model.contains("type")
                                 ? text(model, "type", "model.")
                                 : std::string(model.contains("merges") ? "BPE" : "unnamed");
    MOE_REQUIRE(type == "BPE", name_, ": model of type ", type,
                ": only byte-pair encoding (BPE) is supported");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      MOE_REQUIRE(!present(model, key) || text(model, key, "model.").empty(), name_, ": model.",
                  key, " is not supported");
    MOE_REQUIRE(!present(model, "dropout") || model.at("dropout") == 0, name_,
                ": model.dropout is not supported");
    const auto component = [&](const char* key) {
      return root_.contains(key) ? root_.at(key).dump() : std::string("null");
    };
    TokenizerSteps steps = read_tokenizer_steps(component("normalizer"), component("pre_tokenizer"),
                                                component("decoder"), name_);
    const bool byte_fallback = flag(model, "byte_fallback");
    MOE_REQUIRE(!(byte_fallback && steps.byte_level), name_,
                ": model.byte_fallback with a ByteLevel pre_tokenizer is not supported");

    read_vocabulary(field(model, "vocab", json::value_t::object, "model."));
    read_added_tokens();
    // Where the vocabulary has no byte at all, Hugging Face's own falls back to unk_token.
    BytePairVocabulary vocabulary =
        make_vocabulary(model, steps.byte_level, byte_fallback && has_byte_tokens());
    TokenizerModel result;
    const TextNormalizer normalizer(steps.normalizer);
    result.tokens = make_tokens(steps, normalizer);
    for (const AddedToken& token : added_) result.special_ids.emplace(token.content, token.id);
    result.bos_id = boundary_id("bos", {"<|begin_of_text|>", "<s>"});
    result.eos_id = boundary_id("eos", {"<|end_of_text|>", "</s>", "<|endoftext|>"});
    result.drops_first_space = steps.drops_first_space;
    result.replace = steps.byte_level ? Replace::each_beginning : Replace::each_byte;

    BytePairParts parts{.added = {},
                        .normalizer = normalizer,
                        .added_normalized = {},
                        .preparation = TextNormalizer(std::move(steps.preparation)),
                        .pretokenizer = Pretokenizer(std::move(steps.splits)),
                        .vocabulary = std::move(vocabulary)};
    for (const AddedToken& token : added_) {
      if (token.special) continue;
      if (!token.normalized)
        parts.added.add(token.content, token.id);
      else if (const std::string normal = apply(parts.normalizer, token.content); !normal.empty())
        parts.added_normalized.add(normal, token.id);
    }
    result.encoder = std::make_unique<BytePairTokenizer>(std::move(parts));
    return result;
  }

 private:
  static bool present(const json& object, const char* key) {
    return object.contains(key) && !object.at(key).is_null();
  }

  const json& field(const json& object, const char* key, json::value_t type,
                    const std::string& path) const {
    const auto found = object.is_object() ? object.find(key) : object.end();
    MOE_REQUIRE(object.is_object() && found != object.end(), name_, ": '", path, key,
                "' is missing");
    MOE_REQUIRE(found->type() == type, name_, ": '", path, key, "' is a ", found->type_name(),
                ", not a ", json(type).type_name());
    return *found;
  }

  std::string text(const json& object, const char* key, const std::string& path) const {
    return field(object, key, json::value_t::string, path).get<std::string>();
  }

  bool flag(const json& object, const char* key) const {
    return present(object, key) && object.at(key).is_boolean() && object.at(key).get<bool>();
  }

  std::int32_t id_of(const json& value, const std::string& where) const {
    MOE_REQUIRE(value.is_number_unsigned() && value.get<std::uint64_t>() < kMostIds, name_, ": ",
                where, ": ", value.dump(), " is no token id");
    return value.get<std::int32_t>();
  }

  /// Notes that `id` is called `content`.
  void name_id(std::int32_t id, const std::string& content, const std::string& where) {
    if (std::size_t(id) >= names_.size()) names_.resize(std::size_t(id) + 1);
    std::optional<std::string>& name = names_[std::size_t(id)];
    MOE_REQUIRE(!name || *name == content, name_, ": ", where, ": id ", id, " is both '", *name,
                "' and '", content, "'");
    name = content;
  }

  void read_vocabulary(const json& vocab) {
    for (const auto& [content, value] : vocab.items()) {
      const std::string where = str("model.vocab['", content, "']");
      const std::int32_t id = id_of(value, where);
      MOE_REQUIRE(!content.empty(), name_, ": ", where, ": a token without text");
      name_id(id, content, where);
      ids_.emplace(content, id);
    }
    MOE_REQUIRE(!ids_.empty(), name_, ": model.vocab is empty");
  }

  void read_added_tokens() {
    if (!present(root_, "added_tokens")) return;
    const json& list = field(root_, "added_tokens", json::value_t::array, "");
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::string where = str("added_tokens[", i, "]");
      AddedToken token{.content = text(list[i], "content", where + "."),
                       .id = id_of(list[i].value("id", json()), where + ".id"),
                       .special = flag(list[i], "special"),
                       .normalized = flag(list[i], "normalized")};
      const auto known = ids_.find(token.content);
      MOE_REQUIRE(!token.content.empty(), name_, ": ", where, ": a token without text");
      MOE_REQUIRE(known == ids_.end() || known->second == token.id, name_, ": ", where, ": '",
                  token.content, "' has id ", token.id, ", and ", known->second, " in model.vocab");
      for (const char* key : {"single_word", "lstrip", "rstrip"})
        MOE_REQUIRE(token.special || !flag(list[i], key), name_, ": ", where, ": '", key,
                    "' is not supported");
      name_id(token.id, token.content, where);
      added_.push_back(std::move(token));
    }
  }

  std::int32_t known_id(const std::string& content, const std::string& where) const {
    const auto found = ids_.find(content);
    MOE_REQUIRE(found != ids_.end(), name_, ": ", where, ": '", content, "' is not in model.vocab");
    return found->second;
  }

  BytePairVocabulary make_vocabulary(const json& model, bool byte_level, bool byte_fallback) const {
    BytePairVocabulary v;
    v.bytes.fill(-1);
    if (present(model, "unk_token"))
      v.unknown = known_id(text(model, "unk_token", "model."), "model.unk_token");
    v.fuse_unknown = flag(model, "fuse_unk");
    read_merges(model, v);
    std::vector<bool> special(names_.size());
    for (const AddedToken& token : added_) special[std::size_t(token.id)] = token.special;
    v.texts.resize(names_.size());
    for (const auto& [content, id] : ids_) {
      v.texts[std::size_t(id)] = content;
      const std::optional<std::string> word =
          byte_level ? byte_characters_.bytes_of(content) : content;
      // A text must not become a special id, even if it is all of a word.
      if (!word || special[std::size_t(id)]) continue;
      if (flag(model, "ignore_merges")) v.words.emplace(*word, id);
      if (byte_level && word->size() == 1) v.bytes[static_cast<unsigned char>((*word)[0])] = id;
      if (!byte_level && utf8_length(content[0]) == content.size())
        v.characters.emplace(utf8_character(content.data()), id);
    }
    if (!byte_level) v.alphabet = BytePairVocabulary::Alphabet::characters;
    for (int byte = 0; byte < 256; ++byte) {
      std::int32_t& id = v.bytes[std::size_t(byte)];
      if (byte_fallback) id = known_id(byte_token(byte), "model.byte_fallback");
      const bool in_utf8 = byte < 0xc0 || (byte > 0xc1 && byte < 0xf5);
      MOE_REQUIRE(!byte_level || id >= 0 || v.unknown >= 0 || !in_utf8, name_,
                  ": model.vocab has no token for byte ", byte, " and there is no unk_token");
    }
    return v;
  }

  void read_merges(const json& model, BytePairVocabulary& v) const {
    const json& merges = field(model, "merges", json::value_t::array, "model.");
    v.merges.reserve(merges.size());
    for (std::size_t i = 0; i < merges.size(); ++i) {
      const json& merge = merges[i];
      const std::string where = str("model.merges[", i, "]");
      std::string left, right;
      if (merge.is_string()) {
        const auto& both = merge.get_ref<const std::string&>();
        const std::size_t space = both.find(' ');
        MOE_REQUIRE(space != both.npos && both.find(' ', space + 1) == both.npos, name_, ": ",
                    where, ": '", both, "' is not two tokens with a space between");
        left = both.substr(0, space);
        right = both.substr(space + 1);
      } else {
        MOE_REQUIRE(
            merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string(),
            name_, ": ", where, ": not a pair of tokens");
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      }
      v.merges.push_back({known_id(left, where), known_id(right, where), std::int32_t(i),
                          known_id(left + right, where)});
    }
  }

  static std::string byte_token(int byte) {
    constexpr const char* kDigits = "0123456789ABCDEF";
    return {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
  }

  bool has_byte_tokens() const {
    for (int byte = 0; byte < 256; ++byte)
      if (ids_.contains(byte_token(byte))) return true;
    return false;
  }

  std::vector<Token> make_tokens(const TokenizerSteps& steps,
                                 const TextNormalizer& normalizer) const {
    std::vector<Token> tokens(names_.size());
    std::vector<TextNormalizer::Step> replaced;
    if (steps.decoded) replaced.push_back(*steps.decoded);
    const TextNormalizer decoded(std::move(replaced));
    for (const auto& [content, id] : ids_)
      tokens[std::size_t(id)] = {
          Token::Kind::text, steps.byte_level ? byte_characters_.bytes_of(content).value_or(content)
                                              : apply(decoded, content)};
    for (int byte = 0; steps.decodes_bytes && byte < 256; ++byte)
      if (const auto token = ids_.find(byte_token(byte)); token != ids_.end())
        tokens[std::size_t(token->second)] = {Token::Kind::verbatim, std::string(1, char(byte))};
    for (const AddedToken& token : added_) {
      Token& made = tokens[std::size_t(token.id)];
      if (token.special)
        made = Token{};
      else if (token.normalized)
        made = {Token::Kind::text, apply(decoded, apply(normalizer, token.content))};
      else
        made = {Token::Kind::verbatim, token.content};
    }
    return tokens;
  }

  static std::string apply(const TextNormalizer& normalizer, const std::string& text) {
    TextNormalizer::Scratch scratch;
    return std::string(normalizer.apply(text, true, scratch));
  }

  /// A neighbour of the file, or null where it is missing.
  json neighbour(const char* name) const {
    std::ifstream in(file_.parent_path() / name, std::ios::binary);
    if (!in.is_open()) return nullptr;
    try {
      return json::parse(in);
    } catch (const json::exception& e) {
      throw InputError(
          str((file_.parent_path() / name).string(), ": not valid JSON: ", reason_of(e)));
    }
  }

  /// The id that begins or ends a text ("bos", "eos"), as the files beside say, or by the names
  /// that everybody knows; -1: none.
  std::int32_t boundary_id(const std::string& which,
                           std::initializer_list<const char*> usual) const {
    const auto added_id = [&](const std::string& content) -> std::int32_t {
      for (const AddedToken& token : added_)
        if (token.content == content) return token.id;
      return -1;
    };
    for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"}) {
      const json neighbour_file = neighbour(file);
      if (!neighbour_file.is_object() || !neighbour_file.contains(which + "_token")) continue;
      const json& token = neighbour_file.at(which + "_token");
      if (token.is_null()) return -1;
      const json& content = token.is_object() ? token.value("content", json()) : token;
      if (const std::int32_t id = content.is_string() ? added_id(content.get<std::string>()) : -1;
          id >= 0)
        return id;
    }
    const json config = neighbour("config.json");
    if (config.is_object() && present(config, (which + "_token_id").c_str())) {
      const json& id = config.at(which + "_token_id");
      return id_of(id.is_array() && !id.empty() ? id[0] : id, "config.json " + which + "_token_id");
    }
    for (const char* content : usual)
      if (const std::int32_t id = added_id(content); id >= 0) return id;
    return -1;
  }

  fs::path file_;
  std::string name_;
  json root_;
  ByteCharacters byte_characters_;
  std::unordered_map<std::string, std::int32_t> ids_;  // of model.vocab
  std::vector<std::optional<std::string>> names_;      // by id, of model.vocab and added tokens
  std::vector<AddedToken> added_;
};

}  // namespace

TokenizerModel read_tokenizer_json(const fs::path& file, const std::string& content) {
  return Reader(file, content).read();
}

}  // namespace moe
