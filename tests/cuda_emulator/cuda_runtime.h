// CUDA C++ for the host compiler, as far as csrc/*.cu use it: qualifiers, built-in variables and functions,
// vector types, kernel launches. Kernels run through execution.h; their source says
// `launch(kernel, ...)`, never `<<<...>>>`, and takes shared memory from shared_memory() alone.
#pragma once

#include <math.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "execution.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

inline const uint3 &threadIdx = cuda_emulator::place.thread, &blockIdx = cuda_emulator::place.block;
inline const dim3 &blockDim = cuda_emulator::place.block_dim, &gridDim = cuda_emulator::place.grid_dim;

struct uint2 {
  unsigned x, y;
} __attribute__((aligned(8)));
struct uint4 {
  unsigned x, y, z, w;
} __attribute__((aligned(16)));
struct float2 {
  float x, y;
} __attribute__((aligned(8)));
struct float4 {
  float x, y, z, w;
} __attribute__((aligned(16)));

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

inline void __syncthreads() { cuda_emulator::barrier(); }
inline void __threadfence() {}
template <class T>
T __ldcg(const T* p) {
  cuda_emulator::want_aligned(p, sizeof(T));
  return *p;
}
inline unsigned atomicAdd(unsigned* to, unsigned value) {
  const unsigned before = *to;
  *to += value;
  return before;
}

// The 32 lanes of a warp take part, as with the mask that has all bits.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  struct Brought {
    T value, got;
    int from;
  } mine{value, value, cuda_emulator::place.lane ^ lanes};
  if (mask != ~0u) cuda_emulator::fail("a shuffle wants the mask of the whole warp");
  cuda_emulator::together("shfl", &mine, [](void** brought) {
    for (int i = 0; i < cuda_emulator::kWarp; ++i) {
      auto* lane = static_cast<Brought*>(brought[i]);
      lane->got = static_cast<Brought*>(brought[lane->from])->value;
    }
  });
  return mine.got;
}
inline void __syncwarp() {
  cuda_emulator::together("syncwarp", nullptr, [](void**) {});
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace cuda_emulator {

cudaError_t allow_shared(const void* kernel, int bytes);
cudaError_t launch(const void* kernel, const cudaLaunchConfig_t&, std::function<void()> body);

}  // namespace cuda_emulator

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
  return cuda_emulator::allow_shared(reinterpret_cast<const void*>(kernel), value);
}

template <class... Wanted, class... Given>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Wanted...),
                               Given&&... given) {
  return cuda_emulator::launch(
      reinterpret_cast<const void*>(kernel), *config,
      [kernel, ... arguments = static_cast<Wanted>(given)] { kernel(arguments...); });
}
