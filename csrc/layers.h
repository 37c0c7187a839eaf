// What every layer kernel agrees on.
//
// Activations are float32, NHWC, dense: element (b, y, x, c) of an (n, h, w, c) image is at
// ((b * h + y) * w + x) * c + c'. Input and output never overlap. Buffers are readable and writable for
// exactly their size: kernels handle every channel count and never touch a float beyond.
// Arguments are checked where a network is built (network.cpp); kernels trust them.
//
// The input of a layer with integer arithmetic (WeightType::kQuads) is uint8 instead, a pixel's channels
// rounded up to whole quads of four, and stands for (q - input_zero). The channels beyond hold any value:
// they meet weights that are zero.
#pragma once

#include <stddef.h>

namespace edgevae {

class Pool;

// How a layer keeps its packed weights. Arithmetic is float32, but for kQuads: int8 weights, four k side by
// side, times uint8 input, summed exactly in int32.
enum class WeightType { kFloat32, kFloat16, kInt8, kQuads };

// Input channels as a kernel counts them: numbers of 32 bits, a float or a quad.
static inline int input_units(int channels, WeightType type) {
  return type == WeightType::kQuads ? (channels + 3) / 4 : channels;
}

enum class Padding { kZeros, kReplicate };

enum class ActivationKind { kNone, kRelu, kLeakyRelu, kTanh, kSigmoid, kSoftplus };

struct Activation {
  ActivationKind kind = ActivationKind::kNone;
  float slope = 0.0f;  // of kLeakyRelu for negative x
};

// What becomes of a sum before it is stored, per output channel o:
//   y = act(sum * scale[o] + bias[o])                   float32, or where inverse_scale is given
//   q = clamp(rint(y * inverse_scale[o]) + zero)        uint8, halves to even, NaN to zero
struct Epilogue {
  const float* bias;
  const float* scale = nullptr;  // null: 1
  Activation act;
  const float* inverse_scale = nullptr;
  int zero = 0;
};

// Scratch memory of a kernel call: `per_thread` floats for each thread of the pool, thread t's at
// base + t * per_thread.
struct Scratch {
  float* base;
  size_t per_thread;
};

}  // namespace edgevae
