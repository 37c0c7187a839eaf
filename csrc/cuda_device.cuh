// What the kernels need of the device beyond CUDA C++: tensor cores, ldmatrix, cp.async, and launches. The
// only file with PTX; tests/cuda_emulator stands in for it on the CPU.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "cuda_check.h"

namespace edgevae::cuda {

inline constexpr int kWarp = 32;

// What a device does where it is asked for `a`.
inline Arithmetic arithmetic_on(const Device& device, Arithmetic a) {
  return a == Arithmetic::kTf32 && device.compute < 80 ? Arithmetic::kFloat32 : a;
}

// A weight of four bytes as it is packed for `a`: for TF32 rounded on the host as to_tf32 does on the device.
inline float as_factor(float x, Arithmetic a) {
  if (a != Arithmetic::kTf32) return x;
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x1000u) & ~0x1fffu;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Numbers of kSize bytes that are copied as one.
template <int kSize>
struct WordOf;
template <>
struct WordOf<16> {
  using type = uint4;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <int kSize>
using Word = typename WordOf<kSize>::type;

// The block's dynamic shared memory. It is all there is: kernels declare no other.
__device__ __forceinline__ char* shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(128) char edgevae_shared[];
  return edgevae_shared;
#else
  return static_cast<char*>(cuda_emulator::shared_memory());
#endif
}

#if defined(__CUDACC__)

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four 8x8 matrices of 16-bit numbers, a row of 16 bytes at the address that lane 8 i + row gives for matrix
// i. Lane l gets of each the 32 bits at row l / 4, column l % 4: a pair of halves, or one float of an 8x4
// matrix.
__device__ __forceinline__ void load_matrices(const void* row, uint32_t (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b for a 16x8 tile of sums, k being 32 bytes wide: 16 halves, or 8 floats that the multiplier takes
// as TF32. In lane l, with g = l / 4 and t = l % 4 and columns counted in 32 bits:
//   a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)      b: (t, g), (t + 4, g), transposed
//   d: (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
__device__ __forceinline__ void multiply_halves(const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                                float (&d)[4]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%8}, {%0, %1, %2, %3};\n"
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%6, %7}, {%9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ __forceinline__ void multiply_tf32(const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                              float (&d)[4]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();  // arithmetic_on() never lets it come to this
#endif
}

// A float rounded to TF32: eleven bits of mantissa, ties away from zero.
__device__ __forceinline__ uint32_t to_tf32(uint32_t bits) {
#if __CUDA_ARCH__ >= 800
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
#else
  return bits;
#endif
}

// Copies kSize bytes (16, 8 or 4, at multiples of it) to shared memory behind the thread's back, or zeros if
// not `wanted`: then `from` is not read, but valid all the same. Before compute capability 8.0 the copy is
// done at once.
template <int kSize>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool wanted) {
#if __CUDA_ARCH__ >= 800
  if constexpr (kSize == 16) {  // past the first-level cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(wanted ? kSize : 0)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from),
                 "n"(kSize), "r"(wanted ? kSize : 0)
                 : "memory");
  }
#else
  *static_cast<Word<kSize>*>(to) = wanted ? *static_cast<const Word<kSize>*>(from) : Word<kSize>{};
#endif
}

// Closes a group of copies, and waits until at most the latest kGroups of the thread's groups are under way.
// Other threads see what has arrived after a barrier.
__device__ __forceinline__ void close_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kGroups>
__device__ __forceinline__ void await_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

// A kernel may be started while the one before it in its stream still runs. Before it touches anything that
// a kernel wrote or reads (activations, workspace; not weights), every thread calls this, which returns when
// the kernels before are done and their memory is there.
__device__ __forceinline__ void await_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// From here on the next kernel may start, as far as this one leaves room.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#else

#include <emulated_ptx.h>

#endif

// Two floats as halves side by side, the first in the lower bits.
__device__ __forceinline__ uint32_t pack_halves(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}
__device__ __forceinline__ float2 unpack_halves(uint32_t bits) {
  __half2 pair;
  memcpy(&pair, &bits, sizeof bits);
  return make_float2(__low2float(pair), __high2float(pair));
}

// An activation of either type as a float, and back.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ void store_float(float x, float* y) { *y = x; }
__device__ __forceinline__ void store_float(float x, __half* y) { *y = __float2half_rn(x); }

// tanh, sigmoid and softplus by one exponential of at most 1, each within 2^-21 of the exact number or, where
// that is more, as much of its size. Short, for kernels have a copy of this for each number that a thread
// stores.
__device__ __forceinline__ float activate_smoothly(float x, ActivationKind kind) {
  const float e = __expf(kind == ActivationKind::kTanh ? -2.0f * fabsf(x) : -fabsf(x));
  if (kind == ActivationKind::kSoftplus) return fmaxf(x, 0.0f) + __logf(1.0f + e);
  const float share = __fdividef(1.0f, 1.0f + e);
  if (kind == ActivationKind::kSigmoid) return x < 0 ? e * share : share;
  return copysignf((1.0f - e) * share, x);
}

__device__ __forceinline__ float activate(float x, const Activation& act) {
  switch (act.kind) {
    case ActivationKind::kNone:
      return x;
    case ActivationKind::kRelu:
      return x < 0 ? 0.0f : x;
    case ActivationKind::kLeakyRelu:
      return x < 0 ? x * act.slope : x;
    default:
      return activate_smoothly(x, act.kind);
  }
}

// Division by a number that the host knows: n / d = (n * multiplier >> 32) >> shift for 0 <= n < 2^31.
struct Divider {
  unsigned divisor = 1, multiplier = 0, shift = 0;

  Divider() = default;
  explicit Divider(int d) : divisor(static_cast<unsigned>(d)) {
    if (d == 1) return;
    unsigned bits = 1;  // of d - 1
    while ((divisor - 1) >> bits != 0) ++bits;
    shift = bits - 1;
    multiplier = static_cast<unsigned>(((1ull << (31 + bits)) + divisor - 1) / divisor);
  }
  __device__ __forceinline__ int quotient(int n) const {
    return divisor == 1 ? n : static_cast<int>(__umulhi(static_cast<unsigned>(n), multiplier) >> shift);
  }
};

inline constexpr size_t kSharedUnasked = 48 * 1024;  // what a block may have without asking

// kernel<<<grid, threads, shared_bytes, stream>>>(arguments...), every kernel's way to the device.
template <class... Wanted>
void launch(const Device& device, void (*kernel)(Wanted...), dim3 grid, int threads, size_t shared_bytes,
            Stream stream, std::type_identity_t<Wanted>... arguments) {
  if (shared_bytes > kSharedUnasked) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "cudaFuncSetAttribute");
  }
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &overlap;
  config.numAttrs = device.compute >= 90 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "cudaLaunchKernelEx");
}

}  // namespace edgevae::cuda
