// SPDX-License-Identifier: Apache-2.0
#include "data/zstd_frame.h"

#include <zstd.h>

#include "core/error.h"

namespace moe {

std::string zstd_frame(std::string_view bytes) {
  std::string frame(ZSTD_compressBound(bytes.size()), '\0');
  const std::size_t size =
      ZSTD_compress(frame.data(), frame.size(), bytes.data(), bytes.size(), ZSTD_CLEVEL_DEFAULT);
  MOE_CHECK(ZSTD_isError(size) == 0, "zstd: ", ZSTD_getErrorName(size));
  frame.resize(size);
  return frame;
}

}  // namespace moe
