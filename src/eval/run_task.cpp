// SPDX-License-Identifier: Apache-2.0
#include "eval/run_task.h"

#include "core/error.h"
#include "eval/template.h"

namespace moe {
namespace {

/// The questions of one subset with everything that is computed for them.
struct Prepared {
  TaskResult result;
  std::vector<EncodedRequest> requests;
};

std::string in_subset(std::string path, const std::string& subset) {
  const std::size_t star = path.find('*');
  if (star != path.npos && !subset.empty()) path.replace(star, 1, subset);
  return path;
}

std::vector<Question> load(const std::filesystem::path& file, const std::string& subset,
                           const TaskSpec& task) {
  std::vector<Question> questions = questions_of(read_records(file, task.columns, subset), task);
  MOE_REQUIRE(!questions.empty(), file.string(), ": no records");
  return questions;
}

std::string description_of(const SubsetFile& from, const TaskSpec& task) {
  if (task.description.empty()) return "";
  return fill_template(task.description,
                       read_records(from.file, task.columns, from.subset, 1).at(0));
}

Prepared prepare(const SubsetFile& from, const TaskSpec& task, const TaskOptions& options,
                 const Encode& encode, std::optional<std::int32_t> bos, std::int64_t positions) {
  const std::vector<Question> all = load(from.file, from.subset, task);
  std::vector<Question> others;
  if (task.shots > 0 && !task.shots_data.empty())
    others = load(
        find_data(in_subset(task.shots_data, from.subset), options.data, task.name).front().file,
        from.subset, task);
  const std::vector<Question>& examples = others.empty() ? all : others;

  Prepared p;
  p.result.name = from.subset.empty() ? task.name : task.name + "_" + from.subset;
  p.result.spec = task;
  p.result.original = std::int64_t(all.size());
  const std::string description = description_of(from, task);
  for (std::int64_t i = 0; i < std::min(p.result.original, options.limit); ++i) {
    const Question& question = all[std::size_t(i)];
    std::string preamble = description;
    for (const std::size_t e : choose_examples(question, i, examples, task, options.seed))
      preamble += examples[e].solved(task) + task.separator;
    for (const Request& request : requests_of(question, preamble, task)) {
      p.requests.push_back(encode_request(request, encode, bos, positions, question.where));
      p.result.truncated += p.requests.back().truncated;
      p.result.tokens += std::int64_t(p.requests.back().ids.size());
    }
    p.result.samples.push_back({question, {}, {}});
  }
  return p;
}

}  // namespace

std::vector<Metric> TaskResult::metrics() const {
  std::vector<std::vector<double>> values;
  for (const Sample& sample : samples) values.push_back(sample.values);
  return summarize(values, spec.form);
}

std::vector<TaskResult> run_task(const TaskSpec& declared, const TaskOptions& options,
                                 const Transformer& model, const Tokenizer& tokenizer,
                                 Communicator& world, const TaskProgress& progress) {
  const ModelConfig& c = model.config();
  TaskSpec task = declared;
  if (options.shots) {
    MOE_REQUIRE(task.form != TaskForm::requests || *options.shots == 0, "task ", task.name,
                ": ready requests hold their examples already, another number of shots cannot be "
                "had");
    task.shots = *options.shots;
  }
  const std::int64_t positions = options.positions > 0 ? options.positions : c.max_positions;
  const Encode encode = [&](std::string_view text) {
    std::vector<std::int32_t> ids = tokenizer.encode(text);
    for (const std::int32_t id : ids)
      MOE_REQUIRE(id < c.vocab_size, "the tokenizer gives token ", id,
                  " where the model has a vocabulary of ", c.vocab_size,
                  ": they do not belong together");
    return ids;
  };
  const std::optional<std::int32_t> bos =
      options.bos && c.bos_token >= 0 ? std::optional(std::int32_t(c.bos_token)) : std::nullopt;

  std::vector<Prepared> subsets;
  for (const SubsetFile& file : find_data(task.data, options.data, task.name))
    subsets.push_back(prepare(file, task, options, encode, bos, positions));

  std::vector<TaskResult> results;
  for (Prepared& p : subsets) {
    const std::vector<RequestScore> scores =
        score_requests(model, p.requests, options.batch, world, [&](std::int64_t done) {
          if (progress)
            progress(p.result.name, done * world.size(), std::int64_t(p.requests.size()));
        });
    auto next = scores.begin();
    for (Sample& sample : p.result.samples) {
      const auto end = next + std::ptrdiff_t(sample.question.contexts.size());
      sample.options.assign(next, end);
      sample.values = question_values(sample.question, sample.options, task.form);
      next = end;
    }
    results.push_back(std::move(p.result));
  }
  return results;
}

}  // namespace moe
