// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "config/yaml_reader.h"

namespace moe {

/// How a conversation is written for a model, as a file of configs/chat declares it (data/README.md
/// has the keys). In its texts {bos} and {eos} stand for the tokenizer's own, and what
/// `special_tokens` lists for those tokens; all else is text.
struct ChatTemplate {
  /// What stands around the content of a turn.
  struct Role {
    std::string role, prefix, suffix;
  };
  struct Assistant {
    std::string prompt;          // asks for the answer; read, not learned
    std::string prefix, suffix;  // around the content; learned
    std::string end_of_turn;     // learned
    std::string behind;          // read, not learned
  };
  enum class Order : std::uint8_t {
    any,          // turns come as they like
    alternating,  // a system turn or none, then user and assistant by turns, a user first
  };
  enum class SystemPlace : std::uint8_t {
    turn,        // a turn like others
    first_user,  // before the content of the first user turn, within it
  };

  std::string name, source;
  std::vector<std::string> special_tokens;
  std::string begin;  // before everything
  std::vector<Role> roles;
  Assistant assistant;
  Order order = Order::any;
  SystemPlace system_place = SystemPlace::turn;
  std::string default_system;             // said where a conversation has no system turn
  std::string default_system_with_input;  // the same before an instruction with an input
  std::string input_joint = "\n\n";       // between an instruction and its input
  bool trim = false;                      // white space at both ends of contents is left out

  const Role* find_role(const std::string& role) const;
};

ConfigSection chat_template_keys(ChatTemplate& t);

/// Reads a template file. Throws InputError with file and line, also for a template that has no
/// role user, no assistant end of turn, or a role twice.
ChatTemplate read_chat_template(const std::filesystem::path& file);

/// `name_or_file`: a file, or the name of one in configs/chat. Throws InputError naming the
/// templates that there are.
ChatTemplate find_chat_template(const std::string& name_or_file);

}  // namespace moe
