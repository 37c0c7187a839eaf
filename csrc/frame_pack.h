// frame_pack: camera arrays to network input, in one pass; frame_unpack: network output to arrays.
//
// Colour is averaged over the area of the source that an output pixel covers; depth is the sample at the
// centre of that area, never a mixture of two surfaces. Output pixel x covers the source interval
// [x * w / out_w, (x + 1) * w / out_w), its centre sample is floor((x + 0.5) * w / out_w); rows likewise.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "layers.h"

namespace edgevae {

enum class DepthType { kNone, kUint16, kFloat32 };
enum class DepthEncoding { kNone, kLinear, kInverse, kLog, kMinMax };

// How colour and depth become [-1, 1]; docs/model-file.md has the formulas.
struct InputEncoding {
  int channels;  // 1 (luma), 3 (RGB) or 4 (RGB and depth)
  bool color_min_max;
  DepthEncoding depth;
  float min_m, max_m, no_reading;
  bool fill;  // depth without a reading is filled (depth_fill.h) and mirrored about no_reading; not kMinMax

  // Of a frame without depth.
  float nothing() const { return fill ? 2 * no_reading : no_reading; }
};

// Colour that varies by less than this many levels of 255 is constant: what remains is rounding.
inline constexpr float kFlatColor = 0.01f;

struct FramePack {
  const uint8_t* color;
  int height, width;
  ptrdiff_t color_row, color_pixel;  // strides in bytes; the three samples of a pixel are adjacent
  bool bgr;
  const void* depth;  // same height and width as colour; ignored for DepthType::kNone
  DepthType depth_type;
  ptrdiff_t depth_row, depth_pixel;  // bytes
  float depth_scale;                 // metres per unit of uint16; 1 for float32
  InputEncoding encoding;
  float* out;
  int out_height, out_width;
  ptrdiff_t out_channel, out_row, out_pixel;  // strides in floats: NCHW and NHWC alike
  uint8_t* mask;                              // (out_height, out_width) 1 = depth reading; may be null
};

// A depth reading is finite and positive; everything else is "no reading". Scratch is per thread.
struct FramePackKernel {
  size_t (*scratch_floats)(const FramePack&);
  void (*run)(const FramePack&, Scratch, Pool&);
};

// x (pixels, channels) in [-1, 1] to rgb (pixels, 3), rounded to the nearest and clamped, and depth
// (pixels) in metres, clipped to [min_m, max_m] (kMinMax: relative, [0, 1]). depth may be null.
using FrameUnpackRun = void (*)(const float* x, size_t pixels, const InputEncoding&, uint8_t* rgb,
                                float* depth);

}  // namespace edgevae
