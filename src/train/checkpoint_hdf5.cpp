// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_hdf5.h"

#include <hdf5.h>

#include <algorithm>
#include <map>
#include <utility>

#include "core/error.h"
#include "data/checksum.h"
#include "data/hdf5_support.h"
#include "data/hdf5_write_driver.h"
#include "train/checkpoint_files.h"

namespace moe {
namespace {

/// HDF5 has no bf16: 16-bit floats are kept as their bits. The attribute "dtype" names the type.
hid_t stored_type(DType t) {
  switch (t) {
    case DType::f32:
      return H5T_IEEE_F32LE;
    case DType::f64:
      return H5T_IEEE_F64LE;
    case DType::bf16:
    case DType::f16:
      return H5T_STD_U16LE;
    case DType::i32:
      return H5T_STD_I32LE;
    case DType::i64:
      return H5T_STD_I64LE;
    case DType::u8:
      return H5T_STD_U8LE;
  }
  throw Error("unknown number type");
}

Hdf5Handle dataspace(const Shape& shape) {
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  return {HDF5_CHECK(H5Screate_simple(int(dims.size()), dims.data(), nullptr)), H5Sclose};
}

void write_attribute(hid_t object, const char* name, hid_t stored, hid_t native, hsize_t count,
                     const void* value) {
  const Hdf5Handle space(HDF5_CHECK(H5Screate_simple(1, &count, nullptr)), H5Sclose);
  const Hdf5Handle attribute(
      HDF5_CHECK(H5Acreate2(object, name, stored, space.get(), H5P_DEFAULT, H5P_DEFAULT)),
      H5Aclose);
  HDF5_CHECK(H5Awrite(attribute.get(), native, value));
}

void write_text_attribute(hid_t object, const char* name, const std::string& text) {
  const Hdf5Handle type(HDF5_CHECK(H5Tcopy(H5T_C_S1)), H5Tclose);
  HDF5_CHECK(H5Tset_size(type.get(), text.size()));
  write_attribute(object, name, type.get(), type.get(), 1, text.data());
}

/// Groups are made on the way, and no times are recorded: equal contents give equal files.
Hdf5Handle create_dataset(hid_t file, const std::string& name, DType dtype, hid_t space) {
  const Hdf5Handle link(HDF5_CHECK(H5Pcreate(H5P_LINK_CREATE)), H5Pclose);
  HDF5_CHECK(H5Pset_create_intermediate_group(link.get(), 1));
  const Hdf5Handle create(HDF5_CHECK(H5Pcreate(H5P_DATASET_CREATE)), H5Pclose);
  HDF5_CHECK(H5Pset_obj_track_times(create.get(), false));
  HDF5_CHECK(H5Pset_layout(create.get(), H5D_CONTIGUOUS));
  HDF5_CHECK(H5Pset_fill_time(create.get(), H5D_FILL_TIME_NEVER));
  return {HDF5_CHECK(H5Dcreate2(file, name.c_str(), stored_type(dtype), space, link.get(),
                                create.get(), H5P_DEFAULT),
                     "dataset ", name),
          H5Dclose};
}

/// Selects rows [first, first + count) of a dataset's space.
void select_rows(hid_t space, std::vector<hsize_t> dims, std::int64_t first, std::int64_t count) {
  std::vector<hsize_t> offset(dims.size(), 0);
  offset[0] = hsize_t(first);
  dims[0] = hsize_t(count);
  HDF5_CHECK(
      H5Sselect_hyperslab(space, H5S_SELECT_SET, offset.data(), nullptr, dims.data(), nullptr));
}

}  // namespace

struct RankFileWriter::State {
  Hdf5WriteFile file;
  std::vector<ManifestTensor> tensors;
  std::map<std::string, std::size_t> index;
};

RankFileWriter::RankFileWriter(const std::filesystem::path& path) {
  const auto lock = lock_hdf5();
  state_.reset(new State{Hdf5WriteFile(path), {}, {}});
}
RankFileWriter::~RankFileWriter() {
  const auto lock = lock_hdf5();
  state_.reset();
}

void RankFileWriter::add(
    const std::string& name, const Shape& global_shape, DType dtype, std::int64_t first_row,
    std::int64_t rows, const std::function<Tensor(std::int64_t first, std::int64_t count)>& give) {
  const auto lock = lock_hdf5();
  State& s = *state_;
  const auto [known, is_new] = s.index.try_emplace(name, s.tensors.size());
  if (is_new) s.tensors.push_back({name, dtype, global_shape, {}});
  ManifestTensor& tensor = s.tensors[known->second];
  MOE_CHECK(tensor.dtype == dtype && tensor.shape == global_shape, name,
            " is given twice, with two types or shapes");
  if (rows == 0) return;

  ManifestPart part{0, first_row, rows, 0};
  Shape shape = global_shape;
  shape[0] = rows;
  const Hdf5Handle space = dataspace(shape);
  const std::string path = tensor.dataset(part);
  const Hdf5Handle set = create_dataset(s.file.get(), path, dtype, space.get());
  Checksum sum;
  const std::int64_t step = rows_at_once(shape, dtype);
  for (std::int64_t row = 0; row < rows; row += step) {
    const std::int64_t count = std::min(step, rows - row);
    const Tensor piece = give(first_row + row, count);
    sum.update(piece.bytes(), piece.nbytes());
    select_rows(space.get(), {shape.begin(), shape.end()}, row, count);
    const Hdf5Handle memory = dataspace(piece.shape());
    HDF5_CHECK(H5Dwrite(set.get(), stored_type(dtype), memory.get(), space.get(), H5P_DEFAULT,
                        piece.bytes()),
               "dataset ", path);
    s.file.check();  // a full disk: do not go on through the rest
  }
  write_text_attribute(set.get(), "dtype", moe::name(dtype));
  write_attribute(set.get(), "first_row", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, &first_row);
  write_attribute(set.get(), "global_shape", H5T_STD_I64LE, H5T_NATIVE_INT64, global_shape.size(),
                  global_shape.data());
  part.checksum = sum.value();
  tensor.parts.push_back(part);
}

std::vector<ManifestTensor> RankFileWriter::finish() {
  const auto lock = lock_hdf5();
  state_->file.finish();
  return std::move(state_->tensors);
}

std::vector<ManifestTensor> write_rank_file(const std::filesystem::path& path,
                                            const std::vector<TensorRows>& rows) {
  RankFileWriter writer(path);
  for (const TensorRows& r : rows)
    writer.add(r.name, r.global_shape, r.value.dtype(), r.first_row, r.value.rows(),
               [&](std::int64_t first, std::int64_t count) {
                 const Tensor piece = r.value.slice(first - r.first_row, count);
                 return piece.device() == Device::cpu ? piece : piece.to(Device::cpu);
               });
  return writer.finish();
}

struct RankFile::State {
  std::string path;
  Hdf5Handle file;
};

RankFile::RankFile(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  const auto lock = lock_hdf5();
  state_->path = path.string();
  const hid_t id = H5Fopen(state_->path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  MOE_REQUIRE(id >= 0, state_->path, ": is no HDF5 file");
  state_->file = Hdf5Handle(id, H5Fclose);
}
RankFile::~RankFile() {
  const auto lock = lock_hdf5();
  state_.reset();
}
RankFile::RankFile(RankFile&&) noexcept = default;

void RankFile::read(const ManifestTensor& tensor, const ManifestPart& part, std::int64_t first,
                    const Tensor& out) const {
  const auto lock = lock_hdf5();
  const std::string name = tensor.dataset(part);
  const hid_t id = H5Dopen2(state_->file.get(), name.c_str(), H5P_DEFAULT);
  MOE_REQUIRE(id >= 0, state_->path, ": has no dataset ", name);
  const Hdf5Handle set(id, H5Dclose);
  const Hdf5Handle type(HDF5_CHECK(H5Dget_type(id)), H5Tclose);
  const Hdf5Handle space(HDF5_CHECK(H5Dget_space(id)), H5Sclose);
  std::vector<hsize_t> wanted(tensor.shape.begin(), tensor.shape.end());
  wanted[0] = hsize_t(part.rows);
  std::vector<hsize_t> dims(std::size_t(std::max(H5Sget_simple_extent_ndims(space.get()), 0)));
  if (!dims.empty()) H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr);
  MOE_REQUIRE(dims == wanted && H5Tequal(type.get(), stored_type(tensor.dtype)) > 0, state_->path,
              ": dataset ", name, " is not the ", moe::name(tensor.dtype), " of shape ",
              join(wanted), " that the manifest says");

  select_rows(space.get(), dims, first - part.first_row, out.rows());
  const Hdf5Handle memory = dataspace(out.shape());
  HDF5_CHECK(H5Dread(id, type.get(), memory.get(), space.get(), H5P_DEFAULT, out.bytes()), "file ",
             state_->path, ", dataset ", name);
}

}  // namespace moe
