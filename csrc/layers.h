// What every layer kernel agrees on.
//
// Activations are float32, NHWC, dense: element (b, y, x, c) of an (n, h, w, c) image is at
// ((b * h + y) * w + x) * c + c'. Input and output never overlap. Buffers are readable and writable for
// exactly their size: kernels handle every channel count and never touch a float beyond.
// Arguments are checked where a network is built (network.cpp); kernels trust them.
#pragma once

#include <stddef.h>

namespace edgevae {

class Pool;

// How a layer keeps its packed weights; arithmetic is float32 in either case.
enum class WeightType { kFloat32, kFloat16 };

enum class Padding { kZeros, kReplicate };

enum class ActivationKind { kNone, kRelu, kLeakyRelu, kTanh, kSigmoid, kSoftplus };

struct Activation {
  ActivationKind kind = ActivationKind::kNone;
  float slope = 0.0f;  // of kLeakyRelu for negative x
};

// Scratch memory of a kernel call: `per_thread` floats for each thread of the pool, thread t's at
// base + t * per_thread.
struct Scratch {
  float* base;
  size_t per_thread;
};

}  // namespace edgevae
