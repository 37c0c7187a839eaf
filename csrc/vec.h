// The vectors of the fast kernels: one type, kLanes floats wide, for whichever instruction set this
// translation unit is compiled for. Arithmetic is written with the compilers' vector operators
// (a * b + c becomes a fused multiply-add under -ffp-contract=fast), so the same text serves SSE, AVX2,
// AVX-512 and NEON; the few intrinsics that are needed stay in this file.
//
// Files that include this header are compiled several times with different flags. They use no inline
// function of the standard library: the linker keeps only one copy of such a function, and that copy
// might hold instructions the machine lacks.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Sets with a dot product of bytes are those without, compiled for CPUs that have it: the compiler's own
// macros tell them apart.
#if defined(EDGEVAE_LANES_avx512_vnni)
#define EDGEVAE_LANES_avx512
#elif defined(EDGEVAE_LANES_avx2_vnni)
#define EDGEVAE_LANES_avx2
#elif defined(EDGEVAE_LANES_neon_dot)
#define EDGEVAE_LANES_neon
#endif

#ifndef EDGEVAE_ISA
#error "EDGEVAE_ISA names the namespace of this instruction set"
#endif

namespace edgevae::EDGEVAE_ISA {

#if defined(EDGEVAE_LANES_avx512)
inline constexpr int kLanes = 16;
inline constexpr int kTilePixels = 14;  // 14 x 2 accumulators, 2 weights, 1 broadcast of 32 registers
#elif defined(EDGEVAE_LANES_avx2)
inline constexpr int kLanes = 8;
inline constexpr int kTilePixels = 6;  // 6 x 2 of 16 registers
#elif defined(EDGEVAE_LANES_neon)
inline constexpr int kLanes = 4;
inline constexpr int kTilePixels = 12;  // 12 x 2 of 32 registers
#else
inline constexpr int kLanes = 4;
inline constexpr int kTilePixels = 6;
#endif

typedef float vf __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t vi __attribute__((vector_size(kLanes * sizeof(int32_t))));

static inline vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

static inline void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }

static inline vf broadcast(float x) { return x - vf{}; }

// kLanes bytes as floats. Intrinsics, because compilers take this conversion apart byte by byte.
static inline vf load_bytes(const uint8_t* p) {
#if defined(EDGEVAE_LANES_avx512)
  return (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(EDGEVAE_LANES_avx2)
  return (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#elif defined(EDGEVAE_LANES_neon)
  uint32_t raw;
  __builtin_memcpy(&raw, p, sizeof raw);
  const uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(raw)));
  return (vf)vcvtq_f32_u32(vmovl_u16(vget_low_u16(words)));
#elif defined(__x86_64__)
  int32_t raw;
  __builtin_memcpy(&raw, p, sizeof raw);
  const __m128i zero = _mm_setzero_si128();
  return (vf)_mm_cvtepi32_ps(_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(raw), zero), zero));
#else
  vf v;
  for (int i = 0; i < kLanes; ++i) v[i] = p[i];
  return v;
#endif
}

// kLanes weights, of either type.
static inline vf load_weights(const float* p) { return load(p); }
static inline vf load_weights(const uint16_t* p) {
#if defined(EDGEVAE_LANES_avx512)
  return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(EDGEVAE_LANES_avx2)
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(EDGEVAE_LANES_neon)
  return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
  vi bits;  // from_half (half.h) in every lane
  for (int i = 0; i < kLanes; ++i) bits[i] = p[i];
  const vf magnitude = (vf)((bits & 0x7fff) << 13) * 0x1p112f;
  return (vf)((vi)magnitude | ((bits & 0x8000) << 16));
#endif
}

// kLanes int8 weights as floats.
static inline vf load_weights(const int8_t* p) {
#if defined(EDGEVAE_LANES_avx512)
  return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(EDGEVAE_LANES_avx2)
  return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  vf v;
  for (int i = 0; i < kLanes; ++i) v[i] = p[i];
  return v;
#endif
}

// Four int8 weights of one output channel, side by side.
struct Quad {
  int8_t k[4];
};

static inline vi load_weights(const Quad* p) {
  vi v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

static inline vi load_integers(const void* p) {
  vi v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

static inline void store(void* p, vi v) { __builtin_memcpy(p, &v, sizeof v); }

// acc + a * w, a in every lane.
static inline vf multiply_add(vf acc, float a, vf w) { return acc + broadcast(a) * w; }

// acc + the four products of the bits of a, as uint8, with the int8 weights in each lane. Exact.
static inline vi multiply_add(vi acc, float a, vi w) {
  int32_t quad;
  __builtin_memcpy(&quad, &a, sizeof quad);
  const vi x = quad - vi{};
#if defined(EDGEVAE_LANES_avx512) && defined(__AVX512VNNI__)
  return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, (__m512i)w);
#elif defined(EDGEVAE_LANES_avx2) && defined(__AVXVNNI__)
  return (vi)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)x, (__m256i)w);
#elif defined(__ARM_FEATURE_DOTPROD)
  return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)x, (int8x16_t)w);  // x less 128, see kQuadShift
#elif defined(__x86_64__)
  // Two products of 16-bit numbers a step: bytes 0 and 2, then 1 and 3 of each lane. (One instruction for all
  // four exists but saturates their sums at 16 bits.)
  typedef int16_t vs __attribute__((vector_size(sizeof(vi))));
  const vi x_even = x & 0x00ff00ff, x_odd = (vi)((vs)x >> 8) & 0x00ff00ff;
  const vi w_even = (vi)((vs)((vs)w << 8) >> 8), w_odd = (vi)((vs)w >> 8);
#if defined(EDGEVAE_LANES_avx512)
  const __m512i even = _mm512_madd_epi16((__m512i)x_even, (__m512i)w_even);
  return acc + (vi)even + (vi)_mm512_madd_epi16((__m512i)x_odd, (__m512i)w_odd);
#elif defined(EDGEVAE_LANES_avx2)
  const __m256i even = _mm256_madd_epi16((__m256i)x_even, (__m256i)w_even);
  return acc + (vi)even + (vi)_mm256_madd_epi16((__m256i)x_odd, (__m256i)w_odd);
#else
  const __m128i even = _mm_madd_epi16((__m128i)x_even, (__m128i)w_even);
  return acc + (vi)even + (vi)_mm_madd_epi16((__m128i)x_odd, (__m128i)w_odd);
#endif
#else
  for (int k = 0; k < 4; ++k) acc += ((x >> (8 * k)) & 255) * ((w << (24 - 8 * k)) >> 24);
  return acc;
#endif
}

// What is subtracted from uint8 inputs before they meet the weights: a dot product of signed bytes wants them
// signed.
#if defined(__ARM_FEATURE_DOTPROD)
inline constexpr int kQuadShift = 128;
#else
inline constexpr int kQuadShift = 0;
#endif

// The first n floats at p, at most kLanes, zero in the other lanes. The only place where tails are read...
static inline vf load_first(const float* p, int n) {
  if (n >= kLanes) return load(p);
#if defined(EDGEVAE_LANES_avx512)
  if (n <= 0) return vf{};
  return (vf)_mm512_maskz_loadu_ps((__mmask16)(0xffffu >> (16 - n)), p);
#endif
  float lanes[kLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

// ... and written.
static inline void store_first(float* p, vf v, int n) {
  if (n >= kLanes) return store(p, v);
#if defined(EDGEVAE_LANES_avx512)
  if (n > 0) _mm512_mask_storeu_ps(p, (__mmask16)(0xffffu >> (16 - n)), (__m512)v);
  return;
#endif
  float lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

// Copies n numbers of 32 bits, at most 16, bits unchanged. A call of memcpy costs more than that.
static inline void copy_few(float* to, const float* from, int n) {
#if defined(EDGEVAE_LANES_avx512)
  const __mmask16 mask = (__mmask16)(0xffffu >> (16 - n));
  _mm512_mask_storeu_epi32(to, mask, _mm512_maskz_loadu_epi32(mask, from));
#else
  typedef int32_t four __attribute__((vector_size(16), aligned(4), may_alias));
  for (; n >= 4; n -= 4, to += 4, from += 4) *(four*)to = *(const four*)from;
  for (int i = 0; i < n; ++i) __builtin_memcpy(to + i, from + i, sizeof(float));
#endif
}

// Writes the bits of `value` n times, at most 16. As a plain loop this becomes a call of memset.
static inline void fill_few(float* to, float value, int n) {
  int32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
#if defined(EDGEVAE_LANES_avx512)
  _mm512_mask_storeu_epi32(to, (__mmask16)(0xffffu >> (16 - n)), _mm512_set1_epi32(bits));
#else
  typedef int32_t four __attribute__((vector_size(16), aligned(4), may_alias));
  for (; n >= 4; n -= 4, to += 4) *(four*)to = bits - four{};
  for (int i = 0; i < n; ++i) __builtin_memcpy(to + i, &bits, sizeof bits);
#endif
}

// The first n lanes, 0 to 255 each, as bytes.
static inline void store_bytes(uint8_t* p, vi v, int n) {
#if defined(EDGEVAE_LANES_avx512)
  const __mmask16 mask = (__mmask16)(n >= kLanes ? 0xffffu : n <= 0 ? 0 : 0xffffu >> (16 - n));
  _mm512_mask_cvtepi32_storeu_epi8(p, mask, (__m512i)v);
#else
  uint8_t lanes[kLanes];
  uint8_t* to = n >= kLanes ? p : lanes;
#if defined(EDGEVAE_LANES_avx2)
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  _mm_storel_epi64((__m128i*)to, _mm_packus_epi16(words, words));
#else
  for (int i = 0; i < kLanes; ++i) to[i] = static_cast<uint8_t>(v[i]);
#endif
  if (n >= kLanes) return;
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
#endif
}

static inline vf select(vi mask, vf yes, vf no) { return mask ? yes : no; }
static inline vf vmin(vf a, vf b) { return a < b ? a : b; }
static inline vf vmax(vf a, vf b) { return a > b ? a : b; }

// clamp(rint(x) + zero, 0, 255), halves to even, NaN to zero.
static inline vi quantize(vf x, int zero) {
#if defined(EDGEVAE_LANES_avx512)
  const __m512 v = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_ORD_Q), (__m512)x);
  const __m512i q =
      _mm512_cvtps_epi32(_mm512_min_ps(v, _mm512_set1_ps(511.0f)));  // far below: the smallest integer
  const __m512i low = _mm512_max_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(zero)), _mm512_setzero_si512());
  return (vi)_mm512_min_epi32(low, _mm512_set1_epi32(255));
#else
  const vf magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  x = x == x ? x : vf{};
  x = vmin(vmax(x, broadcast(-511.0f)), broadcast(511.0f));
  const vi q = (vi)(x + magic) - (vi)magic + zero;
  const vi low = q > 0 ? q : vi{};
  return low < 255 ? low : 255 - vi{};
#endif
}

// e^x within 2 ulp for |x| <= 87; saturates outside. Cody-Waite reduction by ln 2, then the Taylor
// polynomial of degree 6 on [-ln2/2, ln2/2] (next term below 2e-8 relative).
static inline vf vexp(vf x) {
  // Operands are ordered so that a NaN in x survives both clamps.
  x = x > 87.0f ? broadcast(87.0f) : x;
  x = x < -87.0f ? broadcast(-87.0f) : x;
  const vf magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const vf shifted = x * 1.44269504f + magic;
  const vi n = (vi)shifted - (vi)magic;
  const vf k = shifted - magic;
  const vf r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
  vf p = broadcast(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return x == x ? (vf)((vi)p + (n << 23)) : x;  // scaling by bits would turn a NaN into a number
}

// ln x for finite x > 0, within 2e-7 absolute plus 1 ulp: x = m 2^e with m in [1/sqrt2, sqrt2),
// ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.1716, odd series to s^9.
static inline vf vlog(vf x) {
  const vi bits = (vi)x;
  const vi e = (bits - 0x3f3504f3) >> 23;  // 0x3f3504f3 = 1/sqrt2
  const vf m = (vf)(bits - (e << 23));
  const vf s = (m - 1.0f) / (m + 1.0f);
  const vf s2 = s * s;
  vf p = broadcast(2.0f / 9);
  p = p * s2 + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  p = p * s2 + 2.0f;
  return __builtin_convertvector(e, vf) * 0.693147181f + s * p;
}

// 1 / x for 1 <= x <= 2^126, within 2 ulp. Wide vectors divide slowly: there, from 14 bits by a Newton step.
static inline vf vreciprocal(vf x) {
#if defined(EDGEVAE_LANES_avx512)
  const vf r = (vf)_mm512_rcp14_ps((__m512)x);
  return r + r * (1.0f - x * r);
#else
  return 1.0f / x;
#endif
}

// tanh x = 1 - 2 / (e^2x + 1), within 2e-7 absolute. NaN stays NaN.
static inline vf vtanh(vf x) { return 1.0f - 2.0f * vreciprocal(vexp(2.0f * x) + 1.0f); }

static inline vf vsigmoid(vf x) { return vreciprocal(1.0f + vexp(-x)); }

// ln(1 + e^x), linear where the exponential no longer matters.
static inline vf vsoftplus(vf x) {
  const vf e = vexp(x > 20.0f ? broadcast(20.0f) : x);
  return x <= 20.0f ? vlog(1.0f + e) : x;  // NaN takes the second branch and stays
}

}  // namespace edgevae::EDGEVAE_ISA
