// SPDX-License-Identifier: Apache-2.0
// Learning from a teacher: the same on every layout, through a stop, and refused where it cannot
// be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "train/parity_checks.h"
#include "train/run_fixture.h"
#include "train/run_plan.h"
#include "train/selfcheck.h"
#include "train/stages.h"
#include "train/teacher.h"

namespace moe {
namespace {

using namespace testing;

EngineOptions distilling(DType dtype) {
  EngineOptions o = parity_options(dtype);
  o.distill = {.teacher = {}, .weight = 0.7, .lm_weight = 0.4, .temperature = 2};
  return o;
}

Outcome reference(const ModelConfig& student, const ModelConfig& teacher,
                  const EngineOptions& options, bool documents) {
  EngineOptions exact = options;
  exact.dtype = DType::f64;
  return reference_outcome(student, taught(exact, teacher), documents);
}

TEST(DistillParity, EveryLayoutAccumulationAndRecomputationEqualsOneProcess) {
  ModelConfig routed_teacher = parity_model();
  routed_teacher.moe.gate_noise = false;
  for (const auto& [teacher, dtype] : {std::pair(dense_teacher(), DType::f64),
                                       {dense_teacher(), DType::f32},
                                       {routed_teacher, DType::f64}}) {
    EngineOptions o = distilling(dtype);
    const Outcome want = reference(parity_model(), teacher, o, true);
    for (const auto& [ep, dp, micro, recompute] : {std::tuple(1, 1, 1, Recompute::none),
                                                   {2, 1, 2, Recompute::block},
                                                   {1, 2, 4, Recompute::cheap},
                                                   {2, 2, 1, Recompute::block},
                                                   {4, 1, 2, Recompute::none}}) {
      o.micro_batch = micro;
      o.recompute = recompute;
      o.zero = ep == 2;
      run_ranks(ep * dp, [&, ep = ep](Communicator& world) {
        const Outcome got = run_job(world, ep, parity_model(), taught(o, teacher), {}, true);
        EXPECT_EQ(differences(got, want, tolerance_of(dtype)), "")
            << "EP " << ep << ", rank " << world.rank() << ", " << name(dtype);
      });
    }
  }
}

TEST(DistillParity, TheTeacherItsTemperatureAndTheWeightsAreSeen) {
  const EngineOptions o = distilling(DType::f64);
  const Outcome want = reference(parity_model(), dense_teacher(), o, true);
  const auto differs = [&](const EngineOptions& other, bool documents, std::uint64_t seed = 9) {
    const std::unique_ptr<Communicator> alone = single_rank();
    const Outcome got =
        run_job(*alone, 1, parity_model(), taught(other, dense_teacher(), seed), {}, documents);
    return differences(got, want, tolerance_of(DType::f64)) != "";
  };
  EXPECT_FALSE(differs(o, true));
  EXPECT_TRUE(differs(o, true, 10));
  for (double TrainConfig::Distill::*key :
       {&TrainConfig::Distill::temperature, &TrainConfig::Distill::weight,
        &TrainConfig::Distill::lm_weight}) {
    EngineOptions other = o;
    other.distill.*key *= 1.01;
    EXPECT_TRUE(differs(other, true));
  }
}

TEST(Distill, WithoutWeightATeacherOnlyWatches) {
  EngineOptions o = parity_options(DType::f64);
  const Outcome want = reference_outcome(parity_model(), o);
  o.distill.weight = 0;
  const std::unique_ptr<Communicator> alone = single_rank();
  Outcome got = run_job(*alone, 1, parity_model(), taught(o));
  EXPECT_GT(got.first.teacher_kl.value(), 0.01);
  EXPECT_FALSE(want.first.teacher_kl);
  got.first.teacher_kl.reset();
  EXPECT_EQ(differences(got, want, tolerance_of(DType::f64)), "");
}

TEST(Distill, AStudentThatIsItsTeacherStaysAsItIs) {
  const ModelConfig c = dense_teacher();
  EngineOptions o = distilling(DType::f64);
  o.distill.lm_weight = 0;
  const std::unique_ptr<Communicator> alone = single_rank();
  const ProcessGrid grid(*alone, 1);
  Engine engine(c, taught(o, c), grid, initial_weights(c, 9));
  const GlobalBatch batch = parity_batch(1);
  const StepResult r = engine.compute_gradients(batch.all, batch.counts, 1);
  EXPECT_NEAR(r.teacher_kl.value(), 0, 1e-14);
  EXPECT_LT(r.grad_norm, 1e-13);
  EXPECT_GT(r.loss, 1);
}

TEST(Distill, ATeacherWhoseOutputIsNotFiniteIsNamed) {
  const ModelConfig t = dense_teacher();
  EngineOptions o = distilling(DType::f32);
  const auto loaded = std::make_shared<const LoadedModel>(
      ModelSource{t,
                  [rows = initial_weights(t, 1)](const std::string& name, std::int64_t first,
                                                 std::int64_t count) {
                    Tensor values = rows(name, first, count);
                    if (name == "norm.weight") values.data<float>()[3] = NAN;
                    return values;
                  },
                  {}},
      DType::f32);
  o.teacher = {loaded, &loaded->model()};
  const std::unique_ptr<Communicator> alone = single_rank();
  const ProcessGrid grid(*alone, 1);
  Engine engine(parity_model(), o, grid, parity_weights(parity_model()));
  const GlobalBatch batch = parity_batch(1);
  try {
    (void)engine.compute_gradients(batch.all, batch.counts, 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("the teacher's output is not finite"));
  }
}

TEST(Distill, SelfcheckHoldsWithATeacher) {
  run_ranks(2, [](Communicator& world) {
    const ProcessGrid grid(world, 2);
    const EngineOptions o = taught(distilling(DType::f32), dense_teacher());
    EXPECT_LT(selfcheck(parity_model(), o, grid, parity_weights(parity_model()), 6, true).worst,
              1e-3);
  });
}

class DistillRun : public RunFixture {
 protected:
  void SetUp() override {
    RunFixture::SetUp();
    TrainConfig c = config("parent", 4, 1);
    c.model.experts = c.model.top_k = std::nullopt;
    c.model.gate = std::nullopt;
    c.model.hidden_size = 24;
    train(1, c);
  }
  TrainConfig student(const std::string& run, std::int64_t steps, std::int64_t ep = 1) const {
    TrainConfig c = config(run, steps, ep);
    c.distill.teacher = (folder_ / "parent").string();
    return c;
  }
  nlohmann::json line(const std::string& run, int step) const {
    std::ifstream in(folder_ / run / "metrics.jsonl");
    std::string text;
    for (int i = 0; i < step; ++i) std::getline(in, text);
    return nlohmann::json::parse(text);
  }
  nlohmann::json state(const std::string& run, int step) const {
    return nlohmann::json::parse(checkpoint(run, step).texts().state);
  }
  std::string refusal(const TrainConfig& c) const {
    try {
      train(1, c);
    } catch (const InputError& e) {
      return e.what();
    }
    return "nothing refused";
  }
};

TEST_F(DistillRun, DivergenceFallsAndIsInTheMetricsAndTheTeacherInTheCheckpoint) {
  TrainConfig c = student("student", 30, 2);
  c.distill.lm_weight = 0;
  train(2, c);
  const double first = line("student", 1).at("teacher_kl"),
               last = line("student", 30).at("teacher_kl");
  EXPECT_GT(first, 0);
  EXPECT_LT(last, 0.7 * first);
  EXPECT_GT(line("student", 30).at("phase_seconds").at("teacher"), 0);
  EXPECT_FALSE(line("parent", 1).contains("teacher_kl"));
  EXPECT_EQ(state("student", 30).at("teacher").get<std::string>().size(), 16u);
  EXPECT_FALSE(state("parent", 4).contains("teacher"));
  // Nothing of the teacher but that: as many tensors as without one.
  TrainConfig alone = config("alone", 1, 2);
  train(2, alone);
  EXPECT_EQ(checkpoint("student", 30).tensors().size(), checkpoint("alone", 1).tensors().size());
}

TEST_F(DistillRun, StoppedAndResumedIsTheSameToTheBit) {
  train(2, student("straight", 24, 2));
  TrainConfig part = student("resumed", 10, 2);
  part.schedule = student("straight", 24, 2).schedule;
  train(2, part);
  train(2, student("resumed", 24, 2), "auto");
  EXPECT_EQ(curve("straight"), curve("resumed"));
  EXPECT_EQ(line("straight", 24).at("teacher_kl"), line("resumed", 24).at("teacher_kl"));
}

TEST_F(DistillRun, AnotherTeacherOnResumeIsSaid) {
  train(1, student("run", 3));
  TrainConfig other = config("other-parent", 2, 1);
  train(1, other);
  TrainConfig c = student("run", 5);
  c.distill.teacher = (folder_ / "other-parent").string();
  ::testing::internal::CaptureStderr();
  ::testing::internal::CaptureStdout();
  train(1, c, "auto");
  const std::string text =
      ::testing::internal::GetCapturedStderr() + ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(text, ::testing::HasSubstr("the checkpoint's was the one of checksum " +
                                         state("run", 3).at("teacher").get<std::string>()));
  EXPECT_NE(state("run", 5).at("teacher"), state("run", 3).at("teacher"));
}

TEST_F(DistillRun, ATeacherThatDoesNotSuitIsRefusedByName) {
  TrainConfig c = student("run", 2);
  c.distill.teacher = (folder_ / "nobody").string();
  EXPECT_THAT(refusal(c), ::testing::AllOf(::testing::HasSubstr("distill.teacher: "),
                                           ::testing::HasSubstr("no such folder")));
  TrainConfig small = config("small", 1, 1);
  small.model.vocab_size = 41;
  train(1, small);
  c.distill.teacher = (folder_ / "small").string();
  EXPECT_THAT(refusal(c), ::testing::HasSubstr("a vocabulary of 41 tokens, the model one of 40"));
  TrainConfig narrow = config("narrow", 1, 1);
  narrow.model.max_positions = 12;
  train(1, narrow);
  c = student("run", 2);
  c.distill.teacher = (folder_ / "narrow").string();
  c.data.sequence_length = 13;
  EXPECT_THAT(refusal(c), ::testing::HasSubstr("has 12 positions, data.sequence_length is 13"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "run"));
}

TEST_F(DistillRun, AStageMayLearnFromATeacherAndTheNextAlone) {
  TrainConfig c = config("staged", 3, 1);
  const TrainConfig::Stage base{"",       "",          false,      c.data,   c.batch,
                                c.train,  c.optimizer, c.schedule, c.router, c.attention_router,
                                c.distill};
  c.stages.assign(2, base);
  c.stages[0].name = "taught";
  c.stages[0].distill.teacher = (folder_ / "parent").string();
  c.stages[1].name = "alone";
  run_ranks(1, [&](Communicator& world) { train_run(c, {}, world); });
  EXPECT_TRUE(line("staged/taught", 3).contains("teacher_kl"));
  EXPECT_FALSE(line("staged/alone", 3).contains("teacher_kl"));
}

TEST_F(DistillRun, ThePlanCountsTheTeacher) {
  const TrainConfig c = student("run", 2);
  const ModelConfig model = plan_stages(c).front().model;
  const RunPlan with = plan_run(c, model, 2), without = plan_run(config("run", 2, 1), model, 2);
  const std::int64_t parameters = count_parameters(open_model(c.distill.teacher).config).total;
  EXPECT_EQ(with.teacher_parameters, parameters);
  EXPECT_EQ(with.memory[0].total() - without.memory[0].total(), with.memory[0].teacher);
  EXPECT_GT(with.memory[0].teacher, parameters * 4);
  EXPECT_LT(with.memory[0].teacher, parameters * 4 + 100000);
  EXPECT_GT(with.teacher_flops, 0);
  EXPECT_EQ(without.teacher_flops, 0);
  EXPECT_THAT(to_text(with), ::testing::HasSubstr("teacher: "));
}

}  // namespace
}  // namespace moe
