// SPDX-License-Identifier: Apache-2.0
#include "eval/question.h"

#include <algorithm>

#include "core/error.h"
#include "core/rng.h"
#include "eval/template.h"

namespace moe {
namespace {

std::vector<std::string> filled(const std::vector<std::string>& templates, const std::string& field,
                                const Record& record) {
  if (templates.empty()) return record.texts(field);
  std::vector<std::string> texts;
  for (const std::string& t : templates) texts.push_back(fill_template(t, record));
  return texts;
}

std::size_t gold_of(const Record& record, const TaskSpec& task, std::size_t options) {
  std::int64_t gold = 0;
  if (task.gold) {
    gold = *task.gold;
  } else if (!task.labels.empty() || !task.labels_field.empty()) {
    const std::vector<std::string> labels =
        task.labels.empty() ? record.texts(task.labels_field) : task.labels;
    const std::string label = record.text(task.gold_field);
    gold = std::find(labels.begin(), labels.end(), label) - labels.begin();
    MOE_REQUIRE(std::size_t(gold) < labels.size(), record.where(), ": field '", task.gold_field,
                "' is '", label, "', which is none of the labels ", join(labels, ", "));
  } else {
    gold = record.integer(task.gold_field);
  }
  MOE_REQUIRE(gold >= 0 && std::size_t(gold) < options, record.where(), ": the right option is ",
              gold, ", but the options are 0 to ", std::int64_t(options) - 1);
  return std::size_t(gold);
}

/// The list of 0 and 1 that says which options are right.
void mark_right(const Record& record, const TaskSpec& task, Question& q) {
  for (const std::string& flag : record.texts(task.gold_field)) {
    MOE_REQUIRE(flag == "0" || flag == "1", q.where, ": field '", task.gold_field, "' has '", flag,
                "' where 1 (right) or 0 is expected");
    q.right.push_back(flag == "1");
  }
  MOE_REQUIRE(q.right.size() == q.continuations.size(), q.where, ": ", q.continuations.size(),
              " options, but field '", task.gold_field, "' is about ", q.right.size());
  q.gold = std::size_t(std::find(q.right.begin(), q.right.end(), true) - q.right.begin());
  MOE_REQUIRE(q.gold < q.right.size(), q.where, ": no option is right");
}

void check(const Question& q) {
  for (std::size_t i = 0; i < q.continuations.size(); ++i)
    MOE_REQUIRE(!q.continuations[i].empty(), q.where, ": option ", i, " is empty");
}

Question question_of(const Record& record, const TaskSpec& task) {
  Question q;
  q.where = record.where();
  if (task.form == TaskForm::contexts) {
    q.contexts = filled(task.contexts, task.contexts_field, record);
    MOE_REQUIRE(!q.contexts.empty(), q.where, ": no contexts to choose from");
    q.continuations.assign(q.contexts.size(), fill_template(task.continuation, record));
  } else if (task.form == TaskForm::choices || task.form == TaskForm::several) {
    q.continuations = filled(task.choices, task.choices_field, record);
    MOE_REQUIRE(!q.continuations.empty(), q.where, ": no choices");
    q.contexts.assign(q.continuations.size(), fill_template(task.prompt, record));
  } else {
    q.contexts = {fill_template(task.prompt, record)};
    q.continuations = {fill_template(task.continuation, record)};
  }
  if (task.form == TaskForm::several)
    mark_right(record, task, q);
  else if (task.form != TaskForm::continuation)
    q.gold = gold_of(record, task, q.continuations.size());
  if (!task.clean.empty())
    for (std::vector<std::string>* texts : {&q.contexts, &q.continuations})
      for (std::string& text : *texts) text = filter_text(task.clean, text, q.where);
  check(q);
  return q;
}

/// Ready requests: those of one document follow each other, numbered by idx.
std::vector<Question> questions_of_requests(const std::vector<Record>& records) {
  std::vector<Question> questions;
  std::string document;
  std::vector<std::int64_t> gold;
  for (const Record& r : records) {
    const std::string inside = r.has("request.continuation") ? "request." : "";
    const std::string id = r.text("doc_id");
    if (questions.empty() || id != document) {
      questions.push_back({r.where(), {}, {}, 0});
      gold.push_back(r.integer("label"));
      document = id;
    }
    Question& q = questions.back();
    const auto place = std::int64_t(q.contexts.size());
    MOE_REQUIRE(!r.has("idx") || r.integer("idx") == place, r.where(), ": idx is ",
                r.has("idx") ? r.integer("idx") : 0, ", but it is request ", place, " of document ",
                id, " (those of a document must follow each other in order)");
    MOE_REQUIRE(r.integer("label") == gold.back(), r.where(), ": label ", r.integer("label"),
                " where the document's first request has ", gold.back());
    q.contexts.push_back(r.text(inside + "context"));
    q.continuations.push_back(r.text(inside + "continuation"));
  }
  for (std::size_t i = 0; i < questions.size(); ++i) {
    Question& q = questions[i];
    MOE_REQUIRE(gold[i] >= 0 && std::size_t(gold[i]) < q.contexts.size(), q.where,
                ": the right option is ", gold[i], ", but the options are 0 to ",
                std::int64_t(q.contexts.size()) - 1);
    q.gold = std::size_t(gold[i]);
    check(q);
  }
  return questions;
}

}  // namespace

std::string Question::solved(const TaskSpec& task) const {
  return contexts[gold] + task.delimiter + continuations[gold];
}

std::vector<Question> questions_of(const std::vector<Record>& records, const TaskSpec& task) {
  if (task.form == TaskForm::requests) return questions_of_requests(records);
  std::vector<Question> questions;
  for (const Record& record : records) questions.push_back(question_of(record, task));
  return questions;
}

std::vector<std::size_t> choose_examples(const Question& question, std::int64_t number,
                                         const std::vector<Question>& pool, const TaskSpec& task,
                                         std::uint64_t seed) {
  const auto wanted = std::size_t(task.shots);
  std::vector<std::size_t> chosen;
  const auto too_few = [&] {
    return str(question.where, ": task ", task.name, " wants ", task.shots,
               " examples, but there are only ", chosen.size(), " beside the question itself");
  };
  if (wanted == 0) return chosen;
  if (task.shots_order == ShotOrder::first) {
    for (std::size_t i = 0; i < pool.size() && chosen.size() < wanted; ++i)
      if (!(pool[i] == question)) chosen.push_back(i);
    MOE_REQUIRE(chosen.size() == wanted, too_few());
    return chosen;
  }
  // A random order, walked along until there are enough.
  const Philox random(seed, RandomPurpose::few_shot, {std::uint64_t(number)});
  std::vector<std::size_t> order(pool.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (std::size_t i = 0; i < order.size() && chosen.size() < wanted; ++i) {
    std::swap(order[i], order[i + random.below(i, order.size() - i)]);
    if (!(pool[order[i]] == question)) chosen.push_back(order[i]);
  }
  MOE_REQUIRE(chosen.size() == wanted, too_few());
  return chosen;
}

std::vector<Request> requests_of(const Question& question, const std::string& preamble,
                                 const TaskSpec& task) {
  const std::string between = task.form == TaskForm::requests ? "" : task.delimiter;
  std::vector<Request> requests;
  for (std::size_t i = 0; i < question.contexts.size(); ++i)
    requests.push_back({preamble + question.contexts[i], between + question.continuations[i]});
  return requests;
}

}  // namespace moe
