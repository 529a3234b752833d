// SPDX-License-Identifier: Apache-2.0
// One thread's speed of a tokenizer:
//   bench_tokenizer TOKENIZER REPEATS FILE...          prints seconds, bytes and tokens of each
//   repeat bench_tokenizer --ids TOKENIZER FILE...            prints the ids, a line for each
//   document bench_tokenizer --library MODEL REPEATS FILE...    the same by sentencepiece's library
// Documents are the "text" of jsonl lines; in a .txt file each line is one. tokenizer_bench.py
// compares the figures with other programs'.
#include <sentencepiece_processor.h>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/text_reader.h"
#include "data/tokenizer.h"

using namespace moe;

namespace {

std::vector<std::string> read_documents(const std::vector<std::string>& files) {
  std::vector<std::string> documents;
  for (const std::string& file : files) {
    std::ifstream in(file);
    MOE_REQUIRE(in.is_open(), file, ": cannot open");
    for (std::string line; std::getline(in, line);)
      documents.push_back(file.ends_with(".txt") ? line : parse_text(line, "text", file));
  }
  return documents;
}

using Encode = std::function<std::vector<std::int32_t>(const std::string&)>;

Encode encoder_of(const std::string& path, bool library) {
  if (!library)
    return [tokenizer = std::make_shared<Tokenizer>(Tokenizer::open(path))](
               const std::string& text) { return tokenizer->encode(text); };
  auto processor = std::make_shared<sentencepiece::SentencePieceProcessor>();
  MOE_REQUIRE(processor->Load(path).ok(), path, ": not a sentencepiece model");
  return [processor](const std::string& text) { return processor->EncodeAsIds(text); };
}

void run(std::vector<std::string> arguments) {
  std::string option;
  if (!arguments.empty() && arguments[0].starts_with("--")) {
    option = arguments[0];
    arguments.erase(arguments.begin());
  }
  const std::size_t files = option == "--ids" ? 1 : 2;
  MOE_REQUIRE(
      arguments.size() > files && (option.empty() || option == "--ids" || option == "--library"),
      "usage: bench_tokenizer [--library] TOKENIZER REPEATS FILE..., or "
      "bench_tokenizer --ids TOKENIZER FILE...");
  const std::vector<std::string> documents =
      read_documents({arguments.begin() + std::ptrdiff_t(files), arguments.end()});
  const Encode encode = encoder_of(arguments[0], option == "--library");
  if (option == "--ids") {
    for (const std::string& document : documents) {
      for (const std::int32_t id : encode(document)) std::printf("%d ", id);
      std::printf("\n");
    }
    return;
  }
  for (int repeat = 0; repeat < std::stoi(arguments[1]); ++repeat) {
    std::size_t bytes = 0, tokens = 0;
    const std::clock_t start = std::clock();
    for (const std::string& document : documents) {
      bytes += document.size();
      tokens += encode(document).size();
    }
    const double seconds = double(std::clock() - start) / CLOCKS_PER_SEC;
    std::printf("%.6f %zu %zu\n", seconds, bytes, tokens);
  }
}

}  // namespace

int main(int count, char** values) {
  try {
    run({values + 1, values + count});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_tokenizer: %s\n", e.what());
    return dynamic_cast<const InputError*>(&e) != nullptr ? 2 : 1;
  }
}
