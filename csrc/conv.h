// conv: 2-D convolution, bias and activation in one pass.
//
//   y[b, oy, ox, o] = epilogue of the sum over ky, kx, i of
//                         x[b, oy * stride + ky - pad_top, ox * stride + kx - pad_left, i] * w[o, i, ky, kx]
//
// In PyTorch, with pad_top = pad_left = p:
//   y = act(F.conv2d(F.pad(x, (p, p, p, p), mode), w, bias, stride))
//
// A tap outside the input reads zero (Padding::kZeros) or the nearest pixel (Padding::kReplicate).
// BatchNorm has been folded into w and bias. A linear layer is the case ih = iw = kh = kw = 1.
//
// Output pixel (oy, ox) is stored at (out_y + oy * out_step, out_x + ox * out_step) of an image of
// out_h x out_w: the plain convolution has out_step 1, and a transposed convolution of stride s is s * s
// convolutions with out_step s, each over the taps that reach its outputs. Where `patch` is not 1, the oc
// channels of pixel (oy, ox) are patch x patch pixels of that image, (y, x, channel), from (oy * patch,
// ox * patch) on: a transposed convolution whose kernel is its stride is one convolution so.
#pragma once

#include "layers.h"

namespace edgevae {

struct ConvShape {
  int n, ih, iw, ic;
  int oh, ow, oc;
  int kh, kw;
  int stride = 1, pad_top = 0, pad_left = 0;
  Padding padding = Padding::kZeros;
  int out_h, out_w, out_step = 1, out_y = 0, out_x = 0;
  int patch = 1;  // out_step is 1, out_y and out_x are 0 otherwise
  WeightType weights = WeightType::kFloat32;
  int input_zero = 0;  // of kQuads
  int outputs;         // channels wanted, at most oc: the others are neither computed nor stored
};

// One image, stride 1, no padding, output in its place: what differs is set by the caller.
static inline ConvShape conv_shape(int ih, int iw, int ic, int oh, int ow, int oc, int kh, int kw) {
  ConvShape s;
  s.n = 1;
  s.ih = ih, s.iw = iw, s.ic = ic;
  s.oh = s.out_h = oh, s.ow = s.out_w = ow, s.oc = s.outputs = oc;
  s.kh = kh, s.kw = kw;
  return s;
}

// One implementation of the contract. `packed` is what pack made of weights (oc, ic, kh, kw), given as floats
// whatever type they are kept in; its layout belongs to the implementation. n does not change the packing.
struct ConvKernel {
  size_t (*packed_bytes)(const ConvShape&);
  void (*pack)(const ConvShape&, const float* weights, void* packed);
  size_t (*scratch_floats)(const ConvShape&);  // per thread
  void (*run)(const ConvShape&, const void* x, const void* packed, const Epilogue&, void* y, Scratch, Pool&);
};

}  // namespace edgevae
