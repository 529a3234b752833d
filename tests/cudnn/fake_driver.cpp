// SPDX-License-Identifier: Apache-2.0
// Stands in for libcuda.so.1, which comes with the driver of a device. cuDNN makes a kernel by
// handing its binary to the driver, so without one no plan can be finished. This one takes whatever
// it is given and runs nothing.

namespace {
constexpr int kSuccess = 0, kNoDevice = 100;
int anything;  // what every handle points to
int hand_out(void** handle) {
  *handle = &anything;
  return kSuccess;
}
}  // namespace

extern "C" {

int cuInit(unsigned) { return kSuccess; }
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}
int cuDeviceGetCount(int* count) {
  *count = 0;
  return kNoDevice;
}
int cuLibraryLoadData(void** library) { return hand_out(library); }
int cuLibraryGetKernel(void** kernel) { return hand_out(kernel); }
int cuLibraryGetModule(void** module) { return hand_out(module); }
int cuLibraryUnload(void*) { return kSuccess; }
int cuKernelGetFunction(void** function) { return hand_out(function); }
int cuKernelGetAttribute(int* value) {
  *value = 0;
  return kSuccess;
}
int cuModuleLoadData(void** module) { return hand_out(module); }
int cuModuleLoadDataEx(void** module) { return hand_out(module); }
int cuModuleGetFunction(void** function) { return hand_out(function); }
int cuModuleUnload(void*) { return kSuccess; }

// What cuDNN looks for and must not call here.
#define MOE_ABSENT(name) \
  int name() { return kNoDevice; }
MOE_ABSENT(cuCtxGetCurrent)
MOE_ABSENT(cuCtxGetLimit)
MOE_ABSENT(cuCtxPopCurrent)
MOE_ABSENT(cuCtxPushCurrent)
MOE_ABSENT(cuDeviceGet)
MOE_ABSENT(cuGetErrorName)
MOE_ABSENT(cuGetErrorString)
MOE_ABSENT(cuGetExportTable)
MOE_ABSENT(cuKernelSetAttribute)
MOE_ABSENT(cuLaunchCooperativeKernel)
MOE_ABSENT(cuLaunchKernel)
MOE_ABSENT(cuLaunchKernelEx)
MOE_ABSENT(cuLibraryLoadFromFile)
MOE_ABSENT(cuLinkAddData)
MOE_ABSENT(cuLinkComplete)
MOE_ABSENT(cuLinkCreate)
MOE_ABSENT(cuLinkDestroy)
MOE_ABSENT(cuOccupancyMaxPotentialClusterSize)
MOE_ABSENT(cuStreamGetCtx)
}
