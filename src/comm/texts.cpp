// SPDX-License-Identifier: Apache-2.0
#include "comm/texts.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace moe {

std::vector<std::string> gather_texts(const std::string& text, Communicator& world) {
  const auto size = std::size_t(world.size());
  const Tensor lengths = Tensor::empty({world.size()}, DType::i64);
  world.all_gather(lengths, Tensor::of<std::int64_t>({1}, {std::int64_t(text.size())})).wait();
  const auto* length = lengths.data<std::int64_t>();
  const std::int64_t longest = *std::max_element(length, length + size);
  std::vector<std::string> texts(size);
  if (longest == 0) return texts;
  const Tensor padded = Tensor::zeros({longest}, DType::u8);
  std::memcpy(padded.bytes(), text.data(), text.size());
  const Tensor all = Tensor::empty({world.size() * longest}, DType::u8);
  world.all_gather(all, padded).wait();
  for (std::size_t r = 0; r < size; ++r)
    texts[r].assign(reinterpret_cast<const char*>(all.bytes()) + r * std::size_t(longest),
                    std::size_t(length[r]));
  return texts;
}

std::string broadcast_text(const std::string& text, int root, Communicator& world) {
  const Tensor length = Tensor::of<std::int64_t>({1}, {std::int64_t(text.size())});
  world.broadcast(length, root).wait();
  const Tensor bytes = Tensor::empty({*length.data<std::int64_t>()}, DType::u8);
  if (world.rank() == root) std::copy(text.begin(), text.end(), bytes.data<std::uint8_t>());
  world.broadcast(bytes, root).wait();
  const auto* first = bytes.data<std::uint8_t>();
  return {first, first + bytes.size()};
}

std::string join_failures(const std::vector<std::string>& by_rank) {
  std::string message;
  for (std::size_t rank = 0; rank < by_rank.size(); ++rank)
    if (!by_rank[rank].empty())
      message += str(message.empty() ? "" : "; ", "rank ", rank, ": ", by_rank[rank]);
  return message;
}

std::string distinct_failures(const std::vector<std::string>& by_rank) {
  std::string message;
  for (const std::string& text : std::set<std::string>(by_rank.begin(), by_rank.end()))
    if (!text.empty()) message += (message.empty() ? "" : "; ") + text;
  return message;
}

}  // namespace moe
