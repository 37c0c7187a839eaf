// Calls of the CUDA runtime, checked: check(cudaMalloc(&p, n), "cudaMalloc").
#pragma once

#include <cuda_runtime_api.h>

#include "cuda_kernels.h"

namespace edgevae::cuda {

inline void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // what was reported here shall not be found by the next check
  throw Error(std::string(call) + ": " + cudaGetErrorString(code), code);
}

}  // namespace edgevae::cuda
