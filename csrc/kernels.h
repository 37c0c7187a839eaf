// Every kernel of one instruction set. The reference is one more set: slow, obvious, and the oracle.
#pragma once

#include "conv.h"
#include "depth_fill.h"
#include "frame_pack.h"
#include "pointwise.h"
#include "upsample_conv.h"

namespace edgevae {

struct Kernels {
  const char* name;
  ConvKernel conv;
  ConvKernel conv_nine;  // only for shapes that methods.h gives to it
  UpsampleConvKernel upsample_conv;
  ActivationRun activation;
  QuantizeRun quantize;
  MaxPoolRun max_pool;
  FramePackKernel frame_pack;
  FrameUnpackRun frame_unpack;
  DepthFillKernel depth_fill;
};

}  // namespace edgevae
