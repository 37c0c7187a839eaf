// Half-precision numbers as 16 bits: weights may be stored this way, arithmetic is float32 all the same.
//
// Static, so that every translation unit keeps its own copy (see vec.h).
#pragma once

#include <stdint.h>

namespace edgevae {

inline constexpr float kLargestHalf = 65504.0f;

// Exact for every finite half: the exponent is moved by a multiplication, which also takes care of
// subnormal numbers.
static inline float from_half(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  __builtin_memcpy(&value, &magnitude, sizeof value);
  value *= 0x1p112f;
  return half & 0x8000 ? -value : value;
}

// Rounds to the nearest half, ties to even. |value| must be at most kLargestHalf.
static inline uint16_t to_half(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  float magnitude = value < 0 ? -value : value;
  if (magnitude < 0x1p-14f) {
    // Subnormal: a multiple of 2^-24, rounded by adding a number whose last bit that is.
    magnitude += 0.5f;
    __builtin_memcpy(&bits, &magnitude, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000));
  }
  __builtin_memcpy(&bits, &magnitude, sizeof bits);
  bits += 0xfff + (bits >> 13 & 1);
  return static_cast<uint16_t>(sign | ((bits >> 13) - (112 << 10)));
}

}  // namespace edgevae
