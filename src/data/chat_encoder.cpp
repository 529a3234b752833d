// SPDX-License-Identifier: Apache-2.0
#include "data/chat_encoder.h"

#include <algorithm>
#include <unordered_map>

#include "data/bad_document.h"

namespace moe {
namespace {

constexpr const char* kUnknownRole = "unknown role";
constexpr const char* kNoAnswer = "no assistant turn";
constexpr const char* kEmptyTurn = "empty turn";
constexpr const char* kOrder = "order of turns";

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

}  // namespace

/// Collects text and special tokens, and encodes the text in runs.
class ChatEncoder::Writer {
 public:
  Writer(const Tokenizer& tokenizer, bool learn_all)
      : tokenizer_(tokenizer), learn_all_(learn_all) {}

  void content(std::string_view text, bool learned) {
    if (text.empty()) return;
    begin_run(learned);
    run_ += text;
    tail_.clear();
  }

  void pieces(const Pieces& pieces, bool learned) {
    for (const Piece& piece : pieces) {
      if (piece.id < 0) {
        begin_run(learned);
        run_ += piece.text;
        tail_ += piece.text;
        continue;
      }
      end_run();
      before_.clear();
      result_.ids.push_back(piece.id);
      result_.learned.push_back(learned || learn_all_);
    }
  }

  Encoded take() {
    end_run();
    if (!result_.learned.empty()) result_.learned.front() = 0;
    return std::move(result_);
  }

 private:
  using Ids = std::vector<std::int32_t>;

  void begin_run(bool learned) {
    if (learn_all_) learned = true;
    if (learned != learned_) end_run();
    learned_ = learned;
  }

  void end_run() {
    if (run_.empty()) return;
    const bool of_template = tail_.size() == run_.size();
    const Ids ids = of_template && before_.empty() ? encode_again(run_) : continued();
    result_.ids.insert(result_.ids.end(), ids.begin(), ids.end());
    result_.learned.resize(result_.ids.size(), learned_);
    run_.clear();
    before_ = std::move(tail_);
    tail_.clear();
  }

  /// The ids of the run where it goes on from text of the template that is encoded already: no
  /// tokenizer's own space at its beginning. Alone where a token would reach over the cut.
  Ids continued() {
    if (!before_.empty()) {
      const Ids& known = encode_again(before_);
      auto both = tokenizer_.encode(before_ + run_);
      if (known.size() < both.size() && std::equal(known.begin(), known.end(), both.begin())) {
        both.erase(both.begin(), both.begin() + std::ptrdiff_t(known.size()));
        return both;
      }
    }
    return tokenizer_.encode(run_);
  }

  /// Of text that every turn has.
  const Ids& encode_again(const std::string& text) {
    const auto [place, is_new] = encoded_.try_emplace(text);
    if (is_new) place->second = tokenizer_.encode(text);
    return place->second;
  }

  const Tokenizer& tokenizer_;
  bool learn_all_;
  std::unordered_map<std::string, Ids> encoded_;
  Encoded result_;
  bool learned_ = false;
  std::string run_;     // not encoded yet
  std::string tail_;    // the end of it that is the template's
  std::string before_;  // the same of the run before, where no special token is between
};

ChatEncoder::ChatEncoder(ChatTemplate chat, const Tokenizer& tokenizer, bool learn_all)
    : chat_(std::move(chat)), tokenizer_(tokenizer), learn_all_(learn_all) {
  begin_ = parse(chat_.begin);
  for (const ChatTemplate::Role& role : chat_.roles)
    roles_.push_back({parse(role.prefix), parse(role.suffix)});
  prompt_ = parse(chat_.assistant.prompt);
  prefix_ = parse(chat_.assistant.prefix);
  suffix_ = parse(chat_.assistant.suffix);
  end_of_turn_ = parse(chat_.assistant.end_of_turn);
  behind_ = parse(chat_.assistant.behind);
}

ChatEncoder::Pieces ChatEncoder::parse(const std::string& text) const {
  Pieces pieces;
  std::vector<std::string> names = chat_.special_tokens;
  names.insert(names.end(), {"{bos}", "{eos}"});
  for (std::size_t at = 0; at < text.size();) {
    // The first name, and of those that begin together the longest.
    std::size_t first = text.size();
    std::string found;
    for (const std::string& name : names) {
      const std::size_t place = text.find(name, at);
      if (place < first || (place == first && place != text.npos && name.size() > found.size()))
        first = place, found = name;
    }
    if (first > at) pieces.push_back({text.substr(at, first - at)});
    if (first == text.size()) break;
    const std::int32_t id = found == "{bos}"   ? tokenizer_.bos_id()
                            : found == "{eos}" ? tokenizer_.eos_id()
                                               : tokenizer_.special_id(found).value_or(-1);
    MOE_REQUIRE(id >= 0, "chat template ", chat_.name, ": the tokenizer has no special token '",
                found, "'; take the template of its model, or a tokenizer that has it");
    pieces.push_back({found, id});
    at = first + found.size();
  }
  return pieces;
}

std::string ChatEncoder::content_of(const ChatMessage& message) const {
  return std::string(chat_.trim ? trimmed(message.content) : std::string_view(message.content));
}

void ChatEncoder::check(const Conversation& conversation, const std::string& where) const {
  const auto& messages = conversation.messages;
  std::size_t spoken = 0;  // turns but the system's
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    const std::string turn = str(where, ": turn ", i + 1);
    require_good(m.role == "assistant" || chat_.find_role(m.role) != nullptr, kUnknownRole, turn,
                 ": the chat template ", chat_.name, " has no role '", m.role, "'");
    const bool system = m.role == "system";
    require_good(system || !content_of(m).empty(), kEmptyTurn, turn, ": the content of '", m.role,
                 "' is empty");
    const bool placed = chat_.order == ChatTemplate::Order::any &&
                        chat_.system_place == ChatTemplate::SystemPlace::turn;
    require_good(!system || i == 0 || placed, kOrder, turn, ": the chat template ", chat_.name,
                 " takes 'system' as the first turn only");
    if (system) continue;
    const char* expected = spoken++ % 2 == 0 ? "user" : "assistant";
    require_good(chat_.order == ChatTemplate::Order::any || m.role == expected, kOrder, turn, ": '",
                 m.role, "' where the chat template ", chat_.name, " expects '", expected, "'");
  }
  if (chat_.system_place == ChatTemplate::SystemPlace::first_user)
    require_good(messages.empty() || messages[0].role != "system" ||
                     std::any_of(messages.begin(), messages.end(),
                                 [](const ChatMessage& m) { return m.role == "user"; }),
                 kOrder, where, ": the chat template ", chat_.name,
                 " puts the system's text into a user turn, and there is none");
}

void ChatEncoder::write_turns(const Conversation& conversation, Writer& writer) const {
  const auto& messages = conversation.messages;
  const bool within = chat_.system_place == ChatTemplate::SystemPlace::first_user;
  const bool says_system = !messages.empty() && messages[0].role == "system";
  const std::string& silent =
      conversation.input.empty() ? chat_.default_system : chat_.default_system_with_input;
  const auto role_of = [&](const std::string& name) -> const Role& {
    return roles_[std::size_t(chat_.find_role(name) - chat_.roles.data())];
  };
  const auto say = [&](const std::string& role, const std::string& content) {
    writer.pieces(role_of(role).prefix, false);
    writer.content(content, false);
    writer.pieces(role_of(role).suffix, false);
  };
  std::string system = says_system ? content_of(messages[0]) : silent;

  writer.pieces(begin_, false);
  if (!within && !system.empty()) say("system", system);
  bool first_user = true;
  for (std::size_t i = says_system ? 1 : 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    if (m.role == "assistant") {
      writer.pieces(prompt_, false);
      writer.pieces(prefix_, true);
      writer.content(content_of(m), true);
      writer.pieces(suffix_, true);
      writer.pieces(end_of_turn_, true);
      writer.pieces(behind_, false);
      continue;
    }
    std::string content = content_of(m);
    const bool is_first =
        std::exchange(first_user, first_user && m.role != "user") && m.role == "user";
    if (is_first && !conversation.input.empty()) content += chat_.input_joint + conversation.input;
    writer.pieces(role_of(m.role).prefix, false);
    if (is_first && within && !system.empty()) say("system", system);
    writer.content(content, false);
    writer.pieces(role_of(m.role).suffix, false);
  }
}

ChatEncoder::Encoded ChatEncoder::encode(const Conversation& conversation,
                                         const std::string& where) const {
  check(conversation, where);
  require_good(std::any_of(conversation.messages.begin(), conversation.messages.end(),
                           [](const ChatMessage& m) { return m.role == "assistant"; }),
               kNoAnswer, where, ": no turn of the assistant, nothing to learn");
  Writer writer(tokenizer_, learn_all_);
  write_turns(conversation, writer);
  return writer.take();
}

std::vector<std::int32_t> ChatEncoder::prompt(const Conversation& conversation,
                                              const std::string& where) const {
  check(conversation, where);
  require_good(!conversation.messages.empty() && conversation.messages.back().role != "assistant",
               kOrder, where, ": an answer is asked for, so the last turn must not be one");
  Writer writer(tokenizer_, false);
  write_turns(conversation, writer);
  writer.pieces(prompt_, false);
  return writer.take().ids;
}

std::vector<std::int32_t> ChatEncoder::stop_ids() const {
  for (const Piece& piece : end_of_turn_)
    if (piece.id >= 0) return {piece.id};
  return {};
}

std::vector<std::string> ChatEncoder::stop_texts() const {
  if (!stop_ids().empty()) return {};
  return {chat_.assistant.end_of_turn};
}

}  // namespace moe
