// SPDX-License-Identifier: Apache-2.0
#include "data/chat_template.h"

#include <algorithm>
#include <set>

#include "config/declared_files.h"
#include "core/error.h"

namespace moe {
namespace {

ConfigSection role_keys(ChatTemplate::Role& r) {
  return {{
      {"role", &r.role, "its name: system, user, tool or one of your own", true},
      {"prefix", &r.prefix, "before the content", false},
      {"suffix", &r.suffix, "behind the content", false},
  }};
}

ConfigSection assistant_keys(ChatTemplate::Assistant& a) {
  return {{
      {"prompt", &a.prompt, "asks for the answer; not learned", false},
      {"prefix", &a.prefix, "before the content; learned", false},
      {"suffix", &a.suffix, "behind the content; learned", false},
      {"end_of_turn", &a.end_of_turn, "ends the answer; learned", true},
      {"behind", &a.behind, "after the end of the turn; not learned", false},
  }};
}

}  // namespace

ConfigSection chat_template_keys(ChatTemplate& t) {
  using Order = ChatTemplate::Order;
  using Place = ChatTemplate::SystemPlace;
  return {{
      {"name", &t.name, "in messages; default: the file's name", false},
      {"source", &t.source, "where the form comes from, for people", false},
      {"special_tokens", &t.special_tokens, "texts of this file that stand for special tokens",
       false},
      {"begin", &t.begin, "before everything", false},
      {"roles", config_list(t.roles, role_keys), "who speaks besides the assistant", false},
      {"assistant", assistant_keys(t.assistant), "", false},
      {"order", config_choice(t.order, {{"any", Order::any}, {"alternating", Order::alternating}}),
       "of turns", false},
      {"system_place",
       config_choice(t.system_place, {{"turn", Place::turn}, {"first_user", Place::first_user}}),
       "a turn of its own, or within the first user turn", false},
      {"default_system", &t.default_system, "system text where a conversation has none", false},
      {"default_system_with_input", &t.default_system_with_input,
       "the same for an instruction with an input; default: default_system", false},
      {"input_joint", &t.input_joint, "between an instruction and its input", false},
      {"trim", &t.trim, "leave out white space at both ends of contents", false},
  }};
}

const ChatTemplate::Role* ChatTemplate::find_role(const std::string& role) const {
  const auto found =
      std::find_if(roles.begin(), roles.end(), [&](const Role& r) { return r.role == role; });
  return found == roles.end() ? nullptr : &*found;
}

ChatTemplate read_chat_template(const std::filesystem::path& file) {
  ChatTemplate t;
  const std::string where = file.string();
  read_yaml(read_declared(file), where, {}, chat_template_keys(t));
  if (t.name.empty()) t.name = file.stem().string();
  if (t.default_system_with_input.empty()) t.default_system_with_input = t.default_system;
  std::set<std::string> names;
  for (const ChatTemplate::Role& role : t.roles) {
    MOE_REQUIRE(role.role != "assistant", where,
                ": roles: 'assistant' has a section of its own, 'assistant'");
    MOE_REQUIRE(names.insert(role.role).second, where, ": roles: '", role.role, "' is there twice");
  }
  MOE_REQUIRE(names.contains("user"), where, ": roles: 'user' is missing");
  MOE_REQUIRE(!t.assistant.end_of_turn.empty(), where,
              ": assistant.end_of_turn: empty, so no answer would ever end");
  MOE_REQUIRE(t.default_system.empty() || names.contains("system"), where,
              ": default_system: there is no role 'system' to say it");
  for (const std::string& token : t.special_tokens)
    MOE_REQUIRE(!token.empty(), where, ": special_tokens: an empty text");
  return t;
}

ChatTemplate find_chat_template(const std::string& name_or_file) {
  const auto folders = declared_folders("chat");
  if (const auto file = find_declared(name_or_file, folders)) return read_chat_template(*file);
  const auto known = declared_names(folders);
  throw InputError(str(name_or_file, ": no such chat template and no such file; templates here: ",
                       known.empty() ? "none" : join(known, ", ")));
}

}  // namespace moe
