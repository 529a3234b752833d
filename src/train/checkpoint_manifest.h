// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace moe {

// What manifest.json of a checkpoint says (docs/file_formats.md). Internal to the checkpoint files.

struct ManifestFile {
  std::string name;  // in the checkpoint's folder
  std::int64_t bytes = 0;
  std::uint64_t checksum = 0;  // of the whole file
};

/// Rows [first_row, first_row + rows) of a tensor and the file that holds them.
struct ManifestPart {
  std::size_t file = 0;  // index into Manifest::files
  std::int64_t first_row = 0, rows = 0;
  std::uint64_t checksum = 0;  // of the rows' bytes
};

struct ManifestTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;                      // of the whole tensor
  std::vector<ManifestPart> parts;  // by first row

  std::string dataset(const ManifestPart& part) const { return str(name, "/", part.first_row); }
};

struct Manifest {
  std::int64_t step = 0;
  std::vector<ManifestFile> files;
  std::vector<ManifestTensor> tensors;
};

inline constexpr const char* kManifestName = "manifest.json";

/// JSON that carries its own checksum: every damaged byte is noticed.
std::string to_text(const Manifest& manifest);

/// Throws InputError starting with `where` for a damaged text, another format version, and fields
/// that cannot be. That tensors are complete is for require_rows to say.
Manifest parse_manifest(std::string_view text, const std::string& where);

/// Proves that the parts hold each of the rows [first, first + rows) exactly once; throws
/// InputError naming the tensor and the rows otherwise.
void require_rows(const ManifestTensor& tensor, std::int64_t first, std::int64_t rows,
                  const std::string& where);

/// The ranks' reports, texts of manifests with at most one file each, as the manifest of a whole
/// checkpoint. Throws Error unless every row of every tensor is there exactly once.
Manifest merge_manifests(std::int64_t step, const std::vector<std::string>& reports);

}  // namespace moe
