// Half-precision numbers as csrc/*.cu use them, rounded to the nearest, ties to even.
#pragma once

#include <stdint.h>
#include <string.h>

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
} __attribute__((aligned(4)));

inline float __half2float(__half h) {
  const uint32_t magnitude = static_cast<uint32_t>(h.bits & 0x7fff) << 13;
  uint32_t bits = magnitude;
  float value;
  if (magnitude >= 0x7c00u << 13) {  // infinity and NaN
    bits |= 0x7f800000u;
    memcpy(&value, &bits, sizeof value);
  } else {
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
  }
  return h.bits & 0x8000 ? -value : value;
}

inline __half __float2half_rn(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return {0x7fff};
  if (bits >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00)};  // 65520 and more
  if (bits < 0x38800000u) {  // subnormal: a multiple of 2^-24, rounded by adding a number with that last bit
    float magnitude;
    memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    memcpy(&bits, &magnitude, sizeof bits);
    return {static_cast<uint16_t>(sign | (bits - 0x3f000000u))};
  }
  bits += 0xfff + (bits >> 13 & 1);
  return {static_cast<uint16_t>(sign | ((bits >> 13) - (112 << 10)))};
}

inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float __low2float(__half2 h) { return __half2float(h.x); }
inline float __high2float(__half2 h) { return __half2float(h.y); }
inline __half2 __hsub2(__half2 a, __half2 b) {
  return __floats2half2_rn(__half2float(a.x) - __half2float(b.x), __half2float(a.y) - __half2float(b.y));
}
