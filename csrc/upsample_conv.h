// upsample_conv: nearest-neighbour upsampling by 2, then a 3x3 convolution with padding 1, bias and
// activation, in one pass. The upsampled image never exists.
//
// In PyTorch:
//   y = act(F.conv2d(F.pad(F.interpolate(x, scale_factor=2), (1, 1, 1, 1), mode), w, bias))
//
// Nine products instead of thirty-six
// -----------------------------------
// In one dimension, upsampling repeats every sample, so the two outputs over x[i] are
//
//      samples     ... x[i-1] x[i-1] | x[i]   x[i] | x[i+1] x[i+1] ...
//      y[2i]                    a    |   b      c  |                    = a x[i-1] + (b + c) x[i]
//      y[2i+1]                       |   a      b  |   c                = (a + b) x[i] + c x[i+1]
//
// With s = a + b + c and the difference d[i] = x[i-1] - x[i] they become
//
//      y[2i]   = s x[i] + a d[i]
//      y[2i+1] = s x[i] - c d[i+1]
//
// three products for two outputs, where the plain convolution takes six. Two dimensions are the tensor
// product: the row transform (x, d above, d below) times the column transform (x, d left, d right) gives
// nine products for the four outputs over one input pixel, where the plain convolution takes 36:
//
//      weights          s        a (left)  c (right)         inputs       X     L     R
//      s                ss       sa        sc                             U     UL    UR
//      a (above)        as       aa        ac                             D     DL    DR
//      c (below)        cs       ca        cc
//
//      y[2i  ][2j  ] = ss X + sa L + as U + aa UL
//      y[2i  ][2j+1] = ss X - sc R + as U - ac UR
//      y[2i+1][2j  ] = ss X + sa L - cs D - ca DL
//      y[2i+1][2j+1] = ss X - sc R - cs D + cc DR
//
// The transforms are sums of weights (done once) and differences of neighbouring pixels, so float32
// stays well conditioned. Nine weights per channel pair before, nine after: nothing grows.
// Replicate padding makes the differences across a border vanish; zero padding puts x = 0 there.
#pragma once

#include "layers.h"

namespace edgevae {

struct UpsampleConvShape {
  int n, ih, iw, ic;  // the output is (n, 2 ih, 2 iw, oc)
  int oc;
  Padding padding;
  WeightType weights = WeightType::kFloat32;
};

// As ConvKernel; weights are (oc, ic, 3, 3).
struct UpsampleConvKernel {
  size_t (*packed_bytes)(const UpsampleConvShape&);
  void (*pack)(const UpsampleConvShape&, const float* weights, void* packed);
  size_t (*scratch_floats)(const UpsampleConvShape&);
  void (*run)(const UpsampleConvShape&, const float* x, const void* packed, const float* bias, Activation,
              float* y, Scratch, Pool&);
};

}  // namespace edgevae
