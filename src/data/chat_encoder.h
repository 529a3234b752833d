// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/chat_template.h"
#include "data/conversation.h"
#include "data/tokenizer.h"

namespace moe {

/// Conversations as the token ids of a template. Safe from many threads.
///
/// Special tokens come from the template only: what looks like one in a message is text. Text
/// between special tokens is tokenized in one piece, but for a cut where learning begins and where
/// it ends: so what stands before an answer has the ids that a prompt has when text is generated.
class ChatEncoder {
 public:
  /// `learn_all`: every token but the first is learned, and text is cut at special tokens only.
  /// Throws InputError when the tokenizer lacks a special token of the template. The tokenizer must
  /// outlive the encoder.
  ChatEncoder(ChatTemplate chat, const Tokenizer& tokenizer, bool learn_all = false);

  struct Encoded {
    std::vector<std::int32_t> ids;
    std::vector<std::uint8_t> learned;  // as long: 1 for answers and the ends of their turns
  };
  /// Throws BadDocument beginning with `where` for a conversation without an assistant turn, with a
  /// role that the template lacks, with an empty turn (of the system excepted), or in an order that
  /// the template cannot express.
  Encoded encode(const Conversation& conversation, const std::string& where) const;

  /// The ids to generate an answer from. The last turn must not be the assistant's. Throws as
  /// encode() does.
  std::vector<std::int32_t> prompt(const Conversation& conversation,
                                   const std::string& where) const;

  /// What ends an answer: a token, or else a text.
  std::vector<std::int32_t> stop_ids() const;
  std::vector<std::string> stop_texts() const;

  const ChatTemplate& chat() const { return chat_; }
  bool learns_all() const { return learn_all_; }

 private:
  /// Some text of the template: special tokens and what is between them.
  struct Piece {
    std::string text;
    std::int32_t id = -1;  // of a special token
  };
  using Pieces = std::vector<Piece>;
  struct Role {
    Pieces prefix, suffix;
  };
  class Writer;

  Pieces parse(const std::string& text) const;
  void check(const Conversation& conversation, const std::string& where) const;
  void write_turns(const Conversation& conversation, Writer& writer) const;
  std::string content_of(const ChatMessage& message) const;

  ChatTemplate chat_;
  const Tokenizer& tokenizer_;
  bool learn_all_;
  Pieces begin_;
  std::vector<Role> roles_;  // as chat_.roles
  Pieces prompt_, prefix_, suffix_, end_of_turn_, behind_;
};

}  // namespace moe
