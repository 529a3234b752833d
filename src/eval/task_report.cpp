// SPDX-License-Identifier: Apache-2.0
#include "eval/task_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace moe {
namespace {

using Json = nlohmann::ordered_json;

std::string line(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

bool has_subsets(const TaskGroup& group) {
  return group.results.size() != 1 || group.results[0].name != group.spec.name;
}

std::vector<Metric> together(const TaskGroup& group) {
  std::vector<std::vector<std::vector<double>>> values;
  for (const TaskResult& result : group.results) {
    values.emplace_back();
    for (const Sample& sample : result.samples) values.back().push_back(sample.values);
  }
  return pool(values, group.spec.form);
}

Json metrics_json(const std::string& alias, const std::vector<Metric>& metrics) {
  Json out = {{"alias", alias}};
  for (const Metric& m : metrics) {
    out[m.name + ",none"] = m.value;
    out[m.name + "_stderr,none"] = m.standard_error ? Json(*m.standard_error) : Json("N/A");
  }
  return out;
}

const char* form_name(TaskForm form) {
  switch (form) {
    case TaskForm::choices:
      return "choices";
    case TaskForm::several:
      return "several";
    case TaskForm::contexts:
      return "contexts";
    case TaskForm::continuation:
      return "continuation";
    case TaskForm::requests:
      return "requests";
  }
  return "";
}

Json config_json(const TaskResult& result) {
  const TaskSpec& t = result.spec;
  return {{"task", result.name},
          {"dataset_path", t.data},
          {"output_type", t.form == TaskForm::continuation ? "loglikelihood" : "multiple_choice"},
          {"form", form_name(t.form)},
          {"description", t.description},
          {"doc_to_text", t.prompt},
          {"target_delimiter", t.delimiter},
          {"fewshot_delimiter", t.separator},
          {"fewshot_split", t.shots_data},
          {"num_fewshot", t.shots},
          {"truncated_requests", result.truncated},
          {"tokens", result.tokens},
          {"metadata", {{"version", t.version}}}};
}

}  // namespace

std::string task_results_json(const std::vector<TaskGroup>& groups, const TaskRun& run) {
  Json out = {{"results", Json::object()},          {"groups", Json::object()},
              {"group_subtasks", Json::object()},   {"configs", Json::object()},
              {"versions", Json::object()},         {"n-shot", Json::object()},
              {"higher_is_better", Json::object()}, {"n-samples", Json::object()}};
  const auto describe = [&](const std::string& name, const std::vector<Metric>& metrics,
                            const TaskSpec& spec) {
    out["results"][name] = metrics_json(name, metrics);
    out["versions"][name] = spec.version;
    out["n-shot"][name] = spec.shots;
    for (const Metric& m : metrics) out["higher_is_better"][name][m.name] = m.higher_is_better;
  };
  for (const TaskGroup& group : groups) {
    Json& subtasks = out["group_subtasks"][group.spec.name] = Json::array();
    if (has_subsets(group)) {
      describe(group.spec.name, together(group), group.results[0].spec);
      out["groups"][group.spec.name] = out["results"][group.spec.name];
    }
    for (const TaskResult& result : group.results) {
      describe(result.name, result.metrics(), result.spec);
      if (has_subsets(group)) subtasks.push_back(result.name);
      out["configs"][result.name] = config_json(result);
      out["n-samples"][result.name] = {{"original", result.original},
                                       {"effective", result.samples.size()}};
    }
  }
  const TaskOptions& o = run.options;
  const bool limited = o.limit != TaskOptions().limit;
  out["config"] = {{"model", "moe-eval"},
                   {"model_args", "pretrained=" + run.model + ",tokenizer=" + run.tokenizer +
                                      ",dtype=" + run.dtype},
                   {"batch_size", o.batch},
                   {"limit", limited ? Json(o.limit) : Json(nullptr)},
                   {"fewshot_seed", o.seed},
                   {"add_bos_token", o.bos}};
  out["total_evaluation_time_seconds"] = run.seconds;
  return line(out, 2);
}

std::string task_results_table(const std::vector<TaskGroup>& groups) {
  std::string out = fmt::format("{:<32} {:>6} {:>6} {:<10} {:>9} {:>9}\n", "task", "shots", "n",
                                "metric", "value", "stderr");
  std::int64_t truncated = 0;
  const auto add = [&](const std::string& name, std::int64_t shots, std::size_t n,
                       const std::vector<Metric>& metrics) {
    for (std::size_t m = 0; m < metrics.size(); ++m) {
      const Metric& metric = metrics[m];
      out += m == 0 ? fmt::format("{:<32} {:>6} {:>6} ", name, shots, n) : std::string(47, ' ');
      out += fmt::format(
          "{:<10} {:>9.4f} {:>9}\n", metric.name, metric.value,
          metric.standard_error ? fmt::format("{:.4f}", *metric.standard_error) : std::string("-"));
    }
  };
  for (const TaskGroup& group : groups) {
    std::size_t questions = 0;
    for (const TaskResult& result : group.results) {
      add(result.name, result.spec.shots, result.samples.size(), result.metrics());
      questions += result.samples.size();
      truncated += result.truncated;
    }
    if (has_subsets(group))
      add(group.spec.name, group.results[0].spec.shots, questions, together(group));
  }
  if (truncated > 0)
    out += fmt::format(
        "{} requests were longer than the model and lost the left end of their "
        "context\n",
        truncated);
  return out;
}

std::string task_samples_jsonl(const std::vector<TaskGroup>& groups) {
  std::string out;
  for (const TaskGroup& group : groups)
    for (const TaskResult& result : group.results) {
      const std::vector<std::string> names = metric_names(result.spec.form);
      for (std::size_t i = 0; i < result.samples.size(); ++i) {
        const Sample& s = result.samples[i];
        Json json = {{"task", result.name},
                     {"doc_id", i},
                     {"where", s.question.where},
                     {"gold", s.question.gold}};
        for (const RequestScore& option : s.options) {
          json["log_likelihoods"].push_back(option.log_likelihood);
          json["tokens"].push_back(option.tokens);
          json["greedy"].push_back(option.greedy);
        }
        for (std::size_t m = 0; m < names.size(); ++m)
          json[names[m] == "perplexity" ? "log_likelihood" : names[m]] = s.values[m];
        out += line(json);
      }
    }
  return out;
}

}  // namespace moe
