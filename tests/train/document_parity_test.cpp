// SPDX-License-Identifier: Apache-2.0
// Rows that hold several documents: every layout computes the same, and the documents in a row are
// what they are alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;

TEST(DocumentParity, EveryLayoutAndAccumulationEqualsOneProcess) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    EngineOptions o = parity_options(dtype);
    const Outcome want = reference_outcome(parity_model(), o, true);
    // The documents are seen: one process without them computes something else.
    EXPECT_NE(differences(reference_outcome(parity_model(), o), want, tolerance_of(dtype)), "");
    for (const auto& [ep, dp] : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}})
      for (const std::int64_t micro : {1, 2})
        for (const Recompute recompute : {Recompute::none, Recompute::block, Recompute::cheap}) {
          o.micro_batch = micro;
          o.recompute = recompute;
          o.zero = micro == 2;
          run_ranks(ep * dp, [&, ep = ep](Communicator& world) {
            EXPECT_EQ(differences(run_job(world, ep, parity_model(), o, {}, true), want,
                                  tolerance_of(dtype)),
                      "")
                << "EP " << ep << ", " << world.size() << " ranks, micro-batches of " << micro
                << ", " << name(dtype);
          });
        }
  }
}

/// What a step gave: the loss and each parameter's gradient.
struct Gradients {
  double loss = 0;
  std::map<std::string, Tensor> of;  // f64
};

Gradients gradients(const ModelConfig& config, const EngineOptions& options, const Batch& batch,
                    const GlobalCounts& counts) {
  const std::unique_ptr<Communicator> world = single_rank();
  const ProcessGrid grid(*world, 1);
  Engine engine(config, options, grid, parity_weights(config));
  Gradients g{engine.compute_gradients(batch, counts, 1).loss, {}};
  for (std::size_t i = 0; i < engine.parameters().all().size(); ++i) {
    const Parameter& p = engine.parameters().all()[i];
    if (p.trained) g.of[p.name()] = to_f64(engine.gradients().gradient(i)).clone();
  }
  return g;
}

constexpr std::int64_t kRows = 4, kLength = 12;
/// The documents' lengths in each row; what is left is padding.
const std::array<std::vector<std::int64_t>, kRows> kDocuments = {
    {{5, 7}, {12}, {1, 4, 1, 6}, {3, 3, 2}}};

Batch empty_batch(std::int64_t rows) {
  Batch b;
  b.tokens = Tensor::empty({rows, kLength}, DType::i32);
  std::fill_n(b.tokens.data<std::int32_t>(), b.tokens.size(), -1);
  b.labels = b.tokens.clone();
  for (std::int64_t r = 0; r < rows; ++r) {
    b.sequence_ids.push_back(r);
    b.domains.push_back(0);
  }
  return b;
}

/// The same documents in shared rows and in rows of their own.
struct Packed {
  Batch together = empty_batch(kRows), alone;
  GlobalCounts counts;

  Packed() {
    std::int64_t documents = 0;
    for (const auto& row : kDocuments) documents += std::int64_t(row.size());
    alone = empty_batch(documents);
    together.document_starts = Tensor::zeros({kRows, kLength}, DType::i32);
    const Philox random(21, RandomPurpose::test);
    std::int64_t document = 0;
    for (std::int64_t r = 0; r < kRows; ++r) {
      std::int64_t begin = 0;
      for (const std::int64_t length : kDocuments[std::size_t(r)]) {
        for (std::int64_t t = 0; t < length; ++t) {
          const std::int64_t here = r * kLength + begin + t, there = document * kLength + t;
          const auto draw = [&](std::int64_t i) {
            return std::int32_t(random.below(std::uint64_t(i), 37));
          };
          for (const auto& [batch, at] : {std::pair(&together, here), {&alone, there}}) {
            batch->tokens.data<std::int32_t>()[at] = draw(here);
            batch->labels.data<std::int32_t>()[at] = t + 1 < length ? draw(here + 1) : -1;
          }
          together.document_starts.data<std::int32_t>()[here] = std::int32_t(begin);
          counts.labelled += t + 1 < length;
          ++counts.routed;
        }
        begin += length;
        ++document;
      }
    }
  }
};

void expect_packed_equals_alone(const ModelConfig& config, EngineOptions options) {
  // Balance losses are of sequences, which differ here.
  options.dtype = DType::f64;
  options.router.cv_squared = options.router.switch_top_k = 0;
  const Packed p;
  options.micro_batch = 1;
  const Gradients want = gradients(config, options, p.alone, p.counts);
  for (const std::int64_t micro : {1, 4})
    for (const Recompute recompute : {Recompute::none, Recompute::block, Recompute::cheap}) {
      options.micro_batch = micro;
      options.recompute = recompute;
      const Gradients got = gradients(config, options, p.together, p.counts);
      EXPECT_NEAR(got.loss, want.loss, 1e-12 * want.loss) << "micro-batches of " << micro;
      for (const auto& [name, gradient] : got.of)
        EXPECT_LE(relative_difference({0, gradient}, {0, want.of.at(name)}), 1e-12)
            << name << ", micro-batches of " << micro;
    }
}

TEST(DocumentParity, PackedIsUnpackedInADenseModel) {
  ModelConfig c = parity_model();
  c.moe = {};
  expect_packed_equals_alone(c, parity_options(DType::f64));
}

TEST(DocumentParity, PackedIsUnpackedToTheTeacher) {
  ModelConfig c = parity_model();
  c.moe.gate_noise = false;
  expect_packed_equals_alone(c, taught(parity_options(DType::f64)));
}

TEST(DocumentParity, PackedIsUnpackedWithExperts) {
  ModelConfig c = parity_model();
  c.moe.gate_noise = false;
  EngineOptions o = parity_options(DType::f64);
  ASSERT_GT(o.router.z, 0);  // a sum over tokens, so it is the same too
  expect_packed_equals_alone(c, o);
}

TEST(DocumentParity, LossesOfASequenceAreOfItsWholeRow) {
  ModelConfig c = parity_model();
  c.moe.gate_noise = false;
  const Packed p;
  const EngineOptions o = parity_options(DType::f64);
  const std::unique_ptr<Communicator> world = single_rank();
  const ProcessGrid grid(*world, 1);
  Engine engine(c, o, grid, parity_weights(c));
  const StepResult together = engine.compute_gradients(p.together, p.counts, 1),
                   alone = engine.compute_gradients(p.alone, p.counts, 1);
  EXPECT_NEAR(together.loss, alone.loss, 1e-12 * alone.loss);
  EXPECT_NEAR(together.routing.z, alone.routing.z, 1e-12 * alone.routing.z);
  // A document of one token cannot be balanced; its row can.
  EXPECT_LT(together.routing.cv_squared, 0.9 * alone.routing.cv_squared);
  EXPECT_LT(together.routing.switch_top_k, 0.95 * alone.routing.switch_top_k);
}

}  // namespace
}  // namespace moe
