// Layers that look at one place at a time: activations and max pooling.
#pragma once

#include "layers.h"

namespace edgevae {

// y = act(x), element by element; y may be x.
using ActivationRun = void (*)(const float* x, size_t count, Activation, float* y);

// In PyTorch: y = F.max_pool2d(x, kernel, stride). A NaN in the window makes the output NaN.
struct MaxPoolShape {
  int n, ih, iw, c, oh, ow, kernel, stride;
};
using MaxPoolRun = void (*)(const MaxPoolShape&, const float* x, float* y, Pool&);

}  // namespace edgevae
