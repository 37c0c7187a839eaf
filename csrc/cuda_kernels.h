// What the CUDA kernels are to the engine: packing, workspace sizes and launches. No CUDA header is needed.
//
// Activations are NHWC and dense, as on the CPU (layers.h), in device memory that begins at a multiple of 16
// bytes: half-precision numbers for Arithmetic::kFloat16, else floats. Input and output never overlap. Sums
// are float32 throughout.
//
// A launch is asynchronous, allocates nothing, can be captured in a graph, and gives the same bits on every
// run: partial sums of a split k are added up in a fixed order. It throws Error if the runtime refuses it.
// Shapes are checked where a network is built; launches trust them.
//
// A workspace belongs to one stream and may serve every launch there, one after the other. Its first
// kCounterBytes must be zero before the first launch, and every launch leaves them so.
#pragma once

#include <stdexcept>
#include <string>

#include "aligned.h"
#include "conv.h"
#include "frame_pack.h"
#include "pointwise.h"
#include "upsample_conv.h"

namespace edgevae::cuda {

using Stream = void*;  // a cudaStream_t

// Of multiplications: half-precision numbers on tensor cores, float32 rounded to TF32 there, or float32.
// Devices before compute capability 8.0 have no TF32 and multiply float32 instead.
enum class Arithmetic { kFloat16, kTf32, kFloat32 };

inline size_t activation_bytes(Arithmetic a) { return a == Arithmetic::kFloat16 ? 2 : 4; }

// A call of the CUDA runtime that failed: "cudaMalloc: out of memory".
struct Error : std::runtime_error {
  Error(const std::string& what, int code_) : std::runtime_error(what), code(code_) {}
  int code;  // a cudaError_t
};

// What launches ask about a device.
struct Device {
  int index;
  int sms;               // multiprocessors
  int compute;           // capability, 90 for 9.0
  int shared_per_block;  // bytes a block may have by opting in
};

inline constexpr size_t kCounterBytes = 4096;

// What becomes of a sum: y = act(sum + bias[o]). bias is in device memory, one number per output channel,
// from a multiple of 16 bytes on.
struct Epilogue {
  const float* bias;
  Activation act;
  bool floats = false;  // y is float whatever the arithmetic: latents and pictures on their way out
};

// conv.h, a linear layer too (n images of one pixel). The weights are (oc, ic, kh, kw) floats, for kFloat16
// of at most kLargestHalf; the packed ones fit every n and every device. A pixel of y has s.outputs channels:
// the others are neither computed nor there. s.weights and s.input_zero mean nothing here.
Bytes pack_conv(const ConvShape& s, const float* weights, Arithmetic);
size_t conv_workspace(const ConvShape& s, Arithmetic, const Device&);
void conv(const ConvShape& s, Arithmetic, const Device&, const void* x, const void* packed, const Epilogue&,
          void* y, void* workspace, Stream);

// In PyTorch: y = act(F.conv_transpose2d(x, w, bias, stride, padding, output_padding)), which is where oh and
// ow come from. With kReplicate a tap outside the input reads the nearest pixel instead of zero: a nearest
// upsampling by 2 and a 3x3 convolution whose taps are merged (upsample_conv.h) is such a layer with a 4x4
// kernel, stride 2 and padding 1, phase (py, px) having its taps at (3 - py - 2 ty, 3 - px - 2 tx).
struct ConvTransposeShape {
  int n, ih, iw, ic;
  int oh, ow, oc;
  int kh, kw;
  int stride, pad;
  Padding padding = Padding::kZeros;
};

// Weights (ic, oc, kh, kw).
Bytes pack_conv_transpose(const ConvTransposeShape&, const float* weights, Arithmetic);
size_t conv_transpose_workspace(const ConvTransposeShape&, Arithmetic, const Device&);
void conv_transpose(const ConvTransposeShape&, Arithmetic, const Device&, const void* x, const void* packed,
                    const Epilogue&, void* y, void* workspace, Stream);

// How a layer is cut up, for reports and tests.
struct Plan {
  const char* method;  // "tensor cores", "fp32" or "matrix times vector"
  int tile_pixels, tile_channels, splits;
  long blocks;  // of the launch
};
Plan conv_plan(const ConvShape&, Arithmetic, const Device&);
Plan conv_transpose_plan(const ConvTransposeShape&, Arithmetic, const Device&);
Plan upsample_conv_plan(const UpsampleConvShape&, Arithmetic, const Device&);

// upsample_conv.h, weights (oc, ic, 3, 3), for kFloat16 of at most kLargestHalf / 9; s.phases, s.weights and
// s.input_zero mean nothing here.
Bytes pack_upsample_conv(const UpsampleConvShape& s, const float* weights, Arithmetic);
size_t upsample_conv_workspace(const UpsampleConvShape& s, Arithmetic, const Device&);
void upsample_conv(const UpsampleConvShape& s, Arithmetic, const Device&, const void* x, const void* packed,
                   const Epilogue&, void* y, void* workspace, Stream);

// Layers that look at one place at a time (pointwise.h); x and y are activations, y may be x in activate.
void max_pool(const MaxPoolShape&, Arithmetic, const Device&, const void* x, void* y, Stream);
void activate(size_t count, Activation, Arithmetic, const Device&, const void* x, void* y, Stream);

// (n, c) and (n, size) floats to (n, c + size).
void concat_condition(int n, int c, int size, Arithmetic, const Device&, const void* x,
                      const float* condition, void* y, Stream);

// Between what callers have, (n, c, pixels) floats, and activations, (n, pixels, c). The middle two stay
// activations: a reshape that keeps the order of planes.
void from_nchw(int n, int c, size_t pixels, Arithmetic, const Device&, const float* x, void* y, Stream);
void to_nchw(int n, int c, size_t pixels, Arithmetic, const Device&, const void* x, float* y, Stream);
void planes_to_pixels(int n, int c, size_t pixels, Arithmetic, const Device&, const void* x, void* y, Stream);
void pixels_to_planes(int n, int c, size_t pixels, Arithmetic, const Device&, const void* x, void* y, Stream);

// frame_pack.h with one frame, color and depth in memory the device can read. `out` is the frame's
// (out_height, out_width, channels) place in a network's input; f.out, its strides and f.mask mean nothing
// here.
size_t pack_frame_workspace(const FramePack& f);
void pack_frame(const FramePack& f, Arithmetic, const Device&, void* out, void* workspace, Stream);

// depth_fill.h's filling, of planes (4, h, w): the depth of `out`, (h, w, 4) activations. `floats` is
// depth_fill_floats(h, w) long.
size_t depth_fill_floats(int h, int w);
void fill_depth(const float* planes, int h, int w, float mirror, Arithmetic, const Device&, float* floats,
                void* out, Stream);

// x (pixels, channels) floats; rgb and depth as frame_pack.h says, depth may be null.
void unpack_frames(const float* x, size_t pixels, const InputEncoding&, const Device&, unsigned char* rgb,
                   float* depth, Stream);

}  // namespace edgevae::cuda
