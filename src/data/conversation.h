// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// One turn. Roles are "system", "user", "assistant", "tool" or what a template calls its own.
struct ChatMessage {
  std::string role, content;
  friend bool operator==(const ChatMessage&, const ChatMessage&) = default;
};

struct Conversation {
  std::vector<ChatMessage> messages;
  std::string input = {};  // Alpaca's: what the instruction, the first user turn, is about
  friend bool operator==(const Conversation&, const Conversation&) = default;
};

/// The conversation of a JSON object, told by its keys:
///
/// - "messages": [{"role", "content"}]
/// - "conversations" (ShareGPT): [{"from", "value"}], human and gpt being user and assistant
/// - "instruction", "input" (may be missing or empty), "output" (Alpaca)
/// - "prompt" and "response" or "completion"
///
/// Turns of the first two may have either pair of keys. Throws BadDocument beginning with `where`.
Conversation parse_conversation(std::string_view line, const std::string& where);

}  // namespace moe
