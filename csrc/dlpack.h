// The exchange format of array libraries, as much of it as tensors on a CUDA device need.
// https://dmlc.github.io/dlpack/latest/c_api.html, the unversioned structs that a capsule "dltensor" holds.
#pragma once

#include <stdint.h>

extern "C" {

struct DLDevice {
  int32_t device_type;  // kDLCpu, ...
  int32_t device_id;
};
enum { kDLCPU = 1, kDLCUDA = 2, kDLCUDAHost = 3, kDLCUDAManaged = 13 };

struct DLDataType {
  uint8_t code;  // 2: floating point
  uint8_t bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: dense
  uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};

}  // extern "C"
