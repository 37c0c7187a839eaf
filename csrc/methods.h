// Which method computes a layer: one table, made by measurement (docs/kernels.md has the figures).
#pragma once

#include "conv.h"

namespace edgevae {

enum class ConvMethod { kDirect, kNineProducts };

// Nine products do 36/64 of the direct convolution's products on 36/16 as many weights. They pay where a
// weight meets many pixels; with few, reading the weights is what takes the time.
static inline ConvMethod conv_method(const ConvShape& s) {
  const bool window =
      s.kh == 4 && s.kw == 4 && s.stride == 2 && s.oh % 2 == 0 && s.ow % 2 == 0 && s.out_step == 1;
  const bool full_lanes = s.ic >= 16 && s.oc >= 16;
  const bool many_pixels = s.oh * s.ow >= 64;
  return window && full_lanes && many_pixels ? ConvMethod::kNineProducts : ConvMethod::kDirect;
}

// With so few output channels a 2x2 patch of them fits a vector, and the layer is computed by columns
// (upsample_conv_fast.cpp).
inline constexpr int kFewChannels = 4;

}  // namespace edgevae
