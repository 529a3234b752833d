// SPDX-License-Identifier: Apache-2.0
#include "config/train_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <tuple>

#include "core/error.h"

namespace moe {
namespace {

const std::string kSmall =
    "run: {folder: runs/x}\n"
    "model: {vocab_size: 64, hidden_size: 32, intermediate_size: 50, layers: 2, heads: 4,\n"
    "        experts: 4, top_k: 2}\n"
    "data: {train: [{domain: a, files: [a.h5]}]}\n"
    "train: {steps: 10}\n";

TrainConfig parse(const std::vector<std::string>& overrides = {}) {
  return parse_train_config(kSmall, "x.yaml", overrides);
}

std::string error_of(const std::vector<std::string>& overrides) {
  try {
    (void)parse(overrides);
  } catch (const InputError& e) {
    return e.what();
  }
  return "no error";
}

TEST(TrainConfig, TheTableInTheReadmeIsTheListOfKeys) {
  TrainConfig config;
  std::string wanted;
  std::set<std::string> rows;
  for (const ConfigKey& k : describe(keys_of(config))) {
    const std::string row = str("| `", k.key, "` | ", k.type, " | ", k.initial, " | ", k.doc, " |");
    EXPECT_TRUE(rows.insert(row).second) << row;
    wanted += row + "\n";
  }
  std::ifstream readme(MOE_SOURCE_DIR "/configs/README.md");
  std::string found;
  for (std::string line; std::getline(readme, line);)
    if (line.starts_with("| `")) found += line + "\n";
  EXPECT_EQ(found, wanted);
}

TEST(TrainConfig, EveryConfigInTheTreeIsValid) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(MOE_SOURCE_DIR "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    EXPECT_NO_THROW((void)load_train_config(entry.path())) << entry.path();
    ++count;
  }
  EXPECT_GT(count, 0);
}

TEST(TrainConfig, EffectiveConfigReadsBackTheSame) {
  for (const TrainConfig& config :
       {parse(), parse({"optimizer.learning_rate=0.1234567890123456789", "router.scope=rank",
                        "model.gate=linear", "model.dtype=bf16", "parallel.recompute=block",
                        "schedule={kind: wsd, decay_steps: 5}",
                        "data.held_out=[{domain: h, files: [h1.h5, h2.h5]}]"})}) {
    const auto file = std::filesystem::path(testing::TempDir()) / "train_config_test.yaml";
    save_config(config, file);
    const TrainConfig back = load_train_config(file);
    EXPECT_EQ(to_yaml(back), to_yaml(config));
    EXPECT_EQ(back.optimizer.learning_rate, config.optimizer.learning_rate);
    EXPECT_EQ(back.data.held_out.size(), config.data.held_out.size());
    std::filesystem::remove(file);
  }
}

TEST(TrainConfig, SavingWhereNothingCanBeWrittenIsAnError) {
  EXPECT_THROW(save_config(parse(), "/nonexistent/config.yaml"), Error);
}

TEST(TrainConfig, MissingFilesAndFoldersAreNamed) {
  for (const char* file : {"/nonexistent.yaml", "/"}) {
    try {
      (void)load_train_config(file);
      FAIL() << file;
    } catch (const InputError& e) {
      EXPECT_THAT(e.what(), testing::StartsWith(str(file, ": cannot be read")));
    }
  }
}

TEST(TrainConfig, ValidationNamesTheKey) {
  const std::pair<const char*, const char*> cases[] = {
      {"run.folder=", "run.folder is empty"},
      {"run.seed=-1", "run.seed must be at least 0, is -1"},
      {"train.steps=0", "train.steps must be at least 1, is 0"},
      {"train.eval_every=5", "train.eval_every is set but data.held_out names no domain"},
      {"train.keep_last=0", "train.keep_last must be at least 1, is 0"},
      {"data.train=[]", "data.train names no domain"},
      {"data.train.0.weight=0", "data.train: the weight of domain a must be positive, is 0"},
      {"data.train.0.files=[]", "data.train: domain a names no files"},
      {"data.train=[{domain: a, files: [x]}, {domain: a, files: [y]}]",
       "data.train: domain a is given twice"},
      {"data.sequence_length=4096",
       "data.sequence_length (4096) exceeds model.max_positions (2048)"},
      {"batch.global=0", "batch.global must be at least 1, is 0"},
      {"batch.micro=0", "batch.micro must be at least 1, is 0"},
      {"parallel.expert=0", "parallel.expert must be at least 1, is 0"},
      {"parallel.exchange_chunks=0", "parallel.exchange_chunks must be at least 1, is 0"},
      {"parallel.ranks_per_host=-1", "parallel.ranks_per_host must be at least 0, is -1"},
      {"parallel.bucket_mb=0", "parallel.bucket_mb must be positive, is 0"},
      {"parallel={zero: false, gradient_dtype: bf16}",
       "parallel.gradient_dtype bf16 needs parallel.zero and a model.dtype of f32 or bf16"},
      {"train.freeze=[router, gate]",
       "train.freeze: 'gate' is no family of parameters: there are embeddings, norms, attention, "
       "router, experts, shared and ffn"},
      {"optimizer.learning_rate=0", "optimizer.learning_rate must be positive, is 0"},
      {"optimizer.beta2=1", "optimizer.beta2 must lie in [0, 1), is 1"},
      {"schedule.floor=1.5", "schedule.floor must lie in [0, 1], is 1.5"},
      {"schedule.kind=wsd", "schedule.decay_steps (with kind wsd) must be at least 1, is 0"},
      {"schedule.decay_steps=3", "schedule.decay_steps has no meaning without kind wsd"},
      {"schedule={kind: wsd, decay_steps: 11}",
       "schedule.decay_steps (11) exceeds train.steps (10)"},
      {"router.cv_squared=-1", "router.cv_squared must be at least 0, is -1"},
      {"router.scope=global_batch",
       "router.scope global_batch is for router.switch: CV^2 of the previous step's counts would "
       "teach the router nothing; set router.cv_squared to 0, or choose scope sequence or step"},
      {"router.noise_anneal_steps=-1", "router.noise_anneal_steps must be at least 0, is -1"},
      {"router.capacity_factor=-0.5", "router.capacity_factor must be at least 0, is -0.5"},
      {"router.bias_update_rate=-1", "router.bias_update_rate must be at least 0, is -1"},
      {"router.bias_update_rate=1",
       "router.bias_update_rate must be below 1, the largest probability, is 1"},
      {"router.top_k_from=-1", "router.top_k_from must be at least 0 (all experts), is -1"},
      {"router.top_k_from=0",
       "router.top_k_from and top_k_steps belong together: where from, and in how many steps"},
      {"attention_router.top_k_steps=3",
       "attention_router.top_k_from and top_k_steps belong together: where from, and in how many "
       "steps"},
      {"router={top_k_from: 5, top_k_steps: 2}", "router.top_k_from is 5, the model has 4 experts"},
      {"attention_router={top_k_from: 0, top_k_steps: 2}",
       "attention_router.bias_update_rate, top_k_from and refresh_every need a model with experts "
       "in "
       "its attention"},
      {"router.refresh_every=-1", "router.refresh_every must be at least 0, is -1"},
      {"router.refresh_every=3",
       "router.refresh_every needs linear gates, the loaded model's are mlp"},
      {"router.refresh_blend=0", "router.refresh_blend must lie in (0, 1], is 0"},
      {"attention_router.refresh_every=3",
       "attention_router.refresh_every: only gates of the feed-forward's experts can be fitted "
       "anew "
       "(router.refresh_every)"},
      {"optimizer.rates.router=0",
       "optimizer.rates.router must be finite and positive, is 0: what shall stay as it is, "
       "train.freeze names"},
      {"distill.weight=-1", "distill.weight must be finite and at least 0, is -1"},
      {"distill.lm_weight=-0.5", "distill.lm_weight must be finite and at least 0, is -0.5"},
      {"distill.temperature=0", "distill.temperature must be finite and positive, is 0"},
      {"distill={teacher: x, weight: 0, lm_weight: 0}",
       "distill.weight and distill.lm_weight are both 0: there is nothing to learn from"},
      {"model.top_k=5", "model.top_k must lie between 1 and the number of experts (4), is 5"},
      {"model.heads=5", "model.hidden_size (32) must be a multiple of model.heads (5)"},
      {"model.layers=null", "model.layers is needed when model.init_from is empty"},
      {"model.experts=0",
       "model.top_k, gate, gate_noise, score_scale and softmax_over_all need a model with experts"},
      {"model.experts=51", "model.experts (51) exceeds model.intermediate_size (50)"},
  };
  for (const auto& [override, message] : cases)
    EXPECT_EQ(error_of({override}), str("x.yaml: ", message)) << override;
}

TEST(RouterOptions, ExpertsPerTokenGoFromTheStartToTheModelsInHalfACosineWave) {
  RouterOptions o;
  EXPECT_EQ(o.top_k_in(1, 4, 16), 4);
  o.top_k_steps = 5;
  o.top_k_from = 0;
  const auto list = [&](std::int64_t top_k) {
    std::vector<std::int64_t> all;
    for (std::int64_t step = 1; step <= 7; ++step) all.push_back(o.top_k_in(step, top_k, 16));
    return all;
  };
  // 4 + 12 (1 + cos(pi p)) / 2 for p = 0, 1/4, 1/2, 3/4, 1.
  EXPECT_EQ(list(4), (std::vector<std::int64_t>{16, 14, 10, 6, 4, 4, 4}));
  o.top_k_from = 2;
  EXPECT_EQ(list(4), (std::vector<std::int64_t>{2, 2, 3, 4, 4, 4, 4}));
  o.top_k_steps = 1;
  EXPECT_EQ(list(4), (std::vector<std::int64_t>(7, 4)));
}

TEST(ModelFromConfig, SharesNeuronsAmongExpertsAndScalesByExpertsOverK) {
  const ModelConfig c = model_from(parse());
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.moe.expert_sizes,
            (std::vector<std::vector<std::int64_t>>{{13, 13, 12, 12}, {13, 13, 12, 12}}));
  EXPECT_EQ(c.moe.score_scale, (std::vector<double>{2, 2}));
  EXPECT_EQ(c.moe.gate, GateKind::mlp);
  EXPECT_TRUE(c.moe.gate_noise);
  EXPECT_FALSE(c.moe.softmax_over_all);
  EXPECT_EQ(model_from(parse({"model.score_scale=3"})).moe.score_scale[1], 3);
  EXPECT_EQ(model_from(parse({"model.gate=linear"})).moe.gate, GateKind::linear);
  EXPECT_FALSE(model_from(parse({"model.gate_noise=false"})).moe.gate_noise);
}

TEST(ModelFromConfig, ABiasUpdateRateGivesTheModelASelectionBiasThatStays) {
  EXPECT_FALSE(model_from(parse()).moe.selection_bias);
  ModelConfig c = model_from(parse({"router.bias_update_rate=0.001"}));
  EXPECT_TRUE(c.moe.selection_bias);
  apply_model_settings(parse(), c);  // a later run without updates still chooses by it
  EXPECT_TRUE(c.moe.selection_bias);
}

TEST(ModelFromConfig, OneExpertPerTokenTakesTheSoftmaxOverAllUnlessTold) {
  EXPECT_TRUE(model_from(parse({"model.top_k=1"})).moe.softmax_over_all);
  EXPECT_FALSE(
      model_from(parse({"model.top_k=1", "model.softmax_over_all=false"})).moe.softmax_over_all);
}

TEST(ModelFromConfig, WithoutExpertsTheFfnIsDense) {
  const ModelConfig c = model_from(parse({"model.experts=0", "model.top_k=null"}));
  EXPECT_FALSE(c.is_moe());
  EXPECT_TRUE(c.moe.score_scale.empty());
}

TEST(ModelSettings, OverrideRoutingButMustAgreeWithTheShapeOfTheLoadedModel) {
  ModelConfig loaded = model_from(parse());
  loaded.moe.score_scale = {1.5, 2.5};
  ModelConfig changed = loaded;
  apply_model_settings(parse({"model.init_from=m", "model.top_k=null"}), changed);
  EXPECT_EQ(changed.moe.score_scale, loaded.moe.score_scale);
  EXPECT_EQ(changed.moe.top_k, 2);

  apply_model_settings(parse({"model.init_from=m", "model.top_k=1", "model.score_scale=0",
                              "model.gate_noise=false"}),
                       changed);
  EXPECT_EQ(changed.moe.top_k, 1);
  EXPECT_EQ(changed.moe.score_scale, (std::vector<double>{4, 4}));
  EXPECT_FALSE(changed.moe.gate_noise);
  EXPECT_TRUE(changed.moe.softmax_over_all);

  try {
    apply_model_settings(parse({"model.init_from=m", "model.hidden_size=64"}), loaded);
    FAIL();
  } catch (const InputError& e) {
    EXPECT_STREQ(e.what(), "model.hidden_size is 64 but the loaded model has 32");
  }
  EXPECT_THROW(apply_model_settings(parse({"model.init_from=m", "model.gate=linear"}), loaded),
               InputError);
}

/// A recipe of LLaMA-MoE v1, as config and as text without what tells the three apart.
struct Recipe {
  TrainConfig config;
  std::string common;

  explicit Recipe(const std::string& name)
      : config(load_train_config(MOE_SOURCE_DIR "/configs/" + name + ".yaml")) {
    TrainConfig c = config;
    EXPECT_EQ(c.run.folder, "runs/" + name);
    EXPECT_EQ(c.model.init_from, "models/" + name);
    c.run.folder = "r";
    c.model.init_from = "m";
    c.model.experts = c.model.top_k = 1;
    c.model.score_scale = 1;
    common = to_yaml(c);
  }
};

TEST(TrainConfig, TheV1RecipesHaveTheirNumbersAndDifferInTheExpertsAlone) {
  const Recipe a("llama_moe_3_0b_2_16"), b("llama_moe_3_5b_4_16"), c("llama_moe_3_5b_2_8");
  EXPECT_EQ(a.common, b.common);
  EXPECT_EQ(b.common, c.common);
  for (const auto& [recipe, experts, top_k, scale] :
       {std::tuple(&a, 16, 2, 8.0), {&b, 16, 4, 4.0}, {&c, 8, 2, 4.0}}) {
    EXPECT_EQ(recipe->config.model.experts, experts);
    EXPECT_EQ(recipe->config.model.top_k, top_k);
    EXPECT_EQ(recipe->config.model.score_scale, scale);
    EXPECT_EQ(scale, double(experts) / top_k);
  }
  const TrainConfig& recipe = a.config;
  EXPECT_EQ(recipe.batch.global * recipe.data.sequence_length, 14'680'064);
  EXPECT_EQ(recipe.train.steps, 13'623);
  EXPECT_GE(14'680'064 * recipe.train.steps, 199'985'000'000);
  EXPECT_EQ(recipe.optimizer.learning_rate, 2e-4);
  EXPECT_EQ(recipe.schedule.warmup_steps, 100);
  EXPECT_EQ(recipe.schedule.floor, 0.1);
  EXPECT_EQ(recipe.router.cv_squared, 0.01);
  const std::map<std::string, double> weights = {
      {"en_cc", .361},   {"en_c4", .492},    {"github", .008},  {"en_wikipedia", .031},
      {"en_book", .091}, {"en_arxiv", .007}, {"en_stack", .010}};
  for (const TrainConfig& c7 :
       {recipe, load_train_config(MOE_SOURCE_DIR "/configs/recipe_small.yaml")}) {
    ASSERT_EQ(c7.data.train.size(), 7u);
    for (const auto& d : c7.data.train) EXPECT_EQ(d.weight, weights.at(d.domain)) << d.domain;
  }
}

TEST(TrainConfig, TheV2StagesAreSevenBillionTokensOneAfterTheOther) {
  const TrainConfig both = load_train_config(MOE_SOURCE_DIR "/configs/llama_moe_v2.yaml");
  ASSERT_EQ(both.stages.size(), 2u);
  double tokens = 0;
  for (const std::size_t stage : {0, 1}) {
    const TrainConfig c = both.of_stage(stage);
    EXPECT_EQ(c.batch.global * c.data.sequence_length, 1'048'576);
    EXPECT_EQ(c.optimizer.learning_rate, 2e-5);
    EXPECT_NEAR(double(c.schedule.warmup_steps) / double(c.train.steps), 0.03, 1e-3);
    EXPECT_EQ(both.stages[stage].export_format, "llama-moe-v2");
    tokens += double(c.batch.global * c.data.sequence_length * c.train.steps);
  }
  EXPECT_NEAR(tokens, 7e9, 5e6);
}

}  // namespace
}  // namespace moe
