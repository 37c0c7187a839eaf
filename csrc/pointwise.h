// Layers that look at one place at a time: activations, quantization and max pooling.
#pragma once

#include "layers.h"

namespace edgevae {

// y = act(x), element by element; y may be x.
using ActivationRun = void (*)(const float* x, size_t count, Activation, float* y);

// q = clamp(rint(x * inverse_scale[c]) + zero), as Epilogue has it, of pixels of `channels`; a pixel of q has
// its channels rounded up to whole quads.
using QuantizeRun = void (*)(const float* x, size_t pixels, int channels, const float* inverse_scale,
                             int zero, unsigned char* q);

// In PyTorch: y = F.max_pool2d(x, kernel, stride). A NaN in the window makes the output NaN.
struct MaxPoolShape {
  int n, ih, iw, c, oh, ow, kernel, stride;
};
using MaxPoolRun = void (*)(const MaxPoolShape&, const float* x, float* y, Pool&);

}  // namespace edgevae
