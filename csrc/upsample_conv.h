// upsample_conv: nearest-neighbour upsampling by 2, then a 3x3 convolution with padding 1, bias and
// activation, in one pass. The upsampled image never exists.
//
// In PyTorch:
//   y = act(F.conv2d(F.pad(F.interpolate(x, scale_factor=2), (1, 1, 1, 1), mode), w, bias))
//
// Four outputs lie over each input pixel, the phases p = 2 py + px at (2i + py, 2j + px). Taps that fall on
// the same input pixel can be merged: phase (py, px) is a 2x2 convolution over the pixels (i - 1 + py + ty,
// j - 1 + px + tx), in one dimension with taps (a, b + c) or (a + b, c). That is 16 products per input pixel
// and channel pair instead of 36; nine_products.h shows how nine are enough.
//
// A transposed convolution that doubles the image is four such phases too, with zero padding and taps of any
// value: phase (py, px) of a 4x4 kernel with stride 2 and padding 1 has the taps (3 - py - 2 ty, 3 - px - 2
// tx).
//
// Integer arithmetic (WeightType::kQuads) takes the merged form: differences of uint8 would need nine bits,
// which only 16-bit multipliers hold, at half the speed of 8-bit ones: 9 / (1/2) = 18 > 16. Each phase was
// quantized with scales of its own.
#pragma once

#include "layers.h"

namespace edgevae {

struct UpsampleConvShape {
  int n, ih, iw, ic;  // the output is (n, 2 ih, 2 iw, oc)
  int oc;
  Padding padding;
  WeightType weights = WeightType::kFloat32;
  int input_zero = 0;   // of kQuads
  bool phases = false;  // the weights are merged taps (4, oc, ic, 2, 2): always with kQuads
};

// As ConvKernel. Weights are (oc, ic, 3, 3), or merged taps; the scales of the epilogue are (4, oc).
struct UpsampleConvKernel {
  size_t (*packed_bytes)(const UpsampleConvShape&);
  void (*pack)(const UpsampleConvShape&, const float* weights, void* packed);
  size_t (*scratch_floats)(const UpsampleConvShape&);
  void (*run)(const UpsampleConvShape&, const void* x, const void* packed, const Epilogue&, void* y, Scratch,
              Pool&);
};

}  // namespace edgevae
