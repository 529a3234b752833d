// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_hdf5.h"

#include <hdf5.h>

#include <map>

#include "core/error.h"
#include "data/checksum.h"
#include "data/hdf5_support.h"
#include "data/hdf5_write_driver.h"

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
void write_dataset(hid_t file, const std::string& name, const TensorRows& rows,
                   const Tensor& value) {
  const Hdf5Handle link(HDF5_CHECK(H5Pcreate(H5P_LINK_CREATE)), H5Pclose);
  HDF5_CHECK(H5Pset_create_intermediate_group(link.get(), 1));
  const Hdf5Handle create(HDF5_CHECK(H5Pcreate(H5P_DATASET_CREATE)), H5Pclose);
  HDF5_CHECK(H5Pset_obj_track_times(create.get(), false));
  HDF5_CHECK(H5Pset_layout(create.get(), H5D_CONTIGUOUS));
  HDF5_CHECK(H5Pset_fill_time(create.get(), H5D_FILL_TIME_NEVER));
  const Hdf5Handle space = dataspace(value.shape());
  const hid_t type = stored_type(value.dtype());
  const Hdf5Handle set(HDF5_CHECK(H5Dcreate2(file, name.c_str(), type, space.get(), link.get(),
                                             create.get(), H5P_DEFAULT),
                                  "dataset ", name),
                       H5Dclose);
  HDF5_CHECK(H5Dwrite(set.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value.bytes()), "dataset ",
             name);
  write_text_attribute(set.get(), "dtype", moe::name(value.dtype()));
  write_attribute(set.get(), "first_row", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, &rows.first_row);
  write_attribute(set.get(), "global_shape", H5T_STD_I64LE, H5T_NATIVE_INT64,
                  rows.global_shape.size(), rows.global_shape.data());
}

}  // namespace

std::vector<ManifestTensor> write_rank_file(const std::filesystem::path& path,
                                            const std::vector<TensorRows>& rows) {
  const auto lock = lock_hdf5();
  Hdf5WriteFile file(path);
  std::vector<ManifestTensor> tensors;
  std::map<std::string, std::size_t> index;
  for (const TensorRows& r : rows) {
    const auto [known, is_new] = index.try_emplace(r.name, tensors.size());
    if (is_new) tensors.push_back({r.name, r.value.dtype(), r.global_shape, {}});
    ManifestTensor& tensor = tensors[known->second];
    MOE_CHECK(tensor.dtype == r.value.dtype() && tensor.shape == r.global_shape, r.name,
              " is given twice, with two types or shapes");
    if (r.value.rows() == 0) continue;
    const Tensor host = r.value.device() == Device::cpu ? r.value : r.value.to(Device::cpu);
    tensor.parts.push_back({0, r.first_row, host.rows(), checksum(host.bytes(), host.nbytes())});
    write_dataset(file.get(), tensor.dataset(tensor.parts.back()), r, host);
    file.check();  // a full disk: do not go on through the rest
  }
  file.finish();
  return tensors;
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

  std::vector<hsize_t> offset(dims.size(), 0), count = dims;
  offset[0] = hsize_t(first - part.first_row);
  count[0] = hsize_t(out.rows());
  HDF5_CHECK(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, offset.data(), nullptr, count.data(),
                                 nullptr));
  const Hdf5Handle memory = dataspace(out.shape());
  HDF5_CHECK(H5Dread(id, type.get(), memory.get(), space.get(), H5P_DEFAULT, out.bytes()), "file ",
             state_->path, ", dataset ", name);
}

}  // namespace moe
