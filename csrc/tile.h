// The one inner loop of the fast kernels: a tile of pixels times a panel of output channels.
//
// Every convolution here is a matrix product, or nine of them: pixels (M) by taps and channels (K) by output
// channels (N). The left side is gathered ("packed") from the image a few pixels at a time:
//
//   packed pixels   [K / 16][P][16]       P pixels of a tile, 16 consecutive k side by side: gathering is
//                                         plain copies, and one pointer with constant offsets reads it all
//   packed weights  [panel][K][width]     width = NV vectors; read front to back
//
// One step of k takes NV loads and P broadcasts for P * NV fused multiply-adds. AVX-512: 14 x 2, so 16
// loads feed 28 products of 16 lanes and the loop is bound by arithmetic.
#pragma once

#include <utility>

#include "half.h"
#include "layers.h"
#include "vec.h"

namespace edgevae::EDGEVAE_ISA {

inline constexpr int kDepth = 16;  // k is packed in runs of 16 whatever the vector length

static inline int round_up(int x, int step) { return (x + step - 1) / step * step; }
static inline int ceil_div(int x, int y) { return (x + y - 1) / y; }
static constexpr int round_to_lanes(int x) { return (x + kLanes - 1) / kLanes * kLanes; }
static inline int min_of(int a, int b) { return a < b ? a : b; }
static inline int max_of(int a, int b) { return a > b ? a : b; }

// The most pixels of a tile: with panels of one vector the registers hold twice as many.
static constexpr int most_pixels(int vectors) { return 2 * kTilePixels / vectors; }

// What one call of a tile adds up: `blocks` runs of kDepth. Meanwhile memory is asked for what comes next,
// `stride` bytes further at every k from `ahead` on, so that it works while the multipliers do.
struct Run {
  int blocks;
  bool first;  // c is written, not added to
  const char* ahead;
  int stride;
};

// c (P, NV * kLanes) += a packed by rows of kDepth, times a panel.
template <int P, int NV, class W>
void tile(Run run, const float* a, const void* weights, float* c) {
  const W* b = static_cast<const W*>(weights);
  vf acc[P][NV] = {};
  for (; run.blocks > 0; --run.blocks, a += P * kDepth, b += kDepth * NV * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < kDepth; ++k) {
      __builtin_prefetch(run.ahead, 0, 3);
      run.ahead += run.stride;
      vf w[NV];
      for (int v = 0; v < NV; ++v) w[v] = load_weights(b + (k * NV + v) * kLanes);
      for (int p = 0; p < P; ++p) {
        const vf x = broadcast(a[p * kDepth + k]);
        for (int v = 0; v < NV; ++v) acc[p][v] += x * w[v];
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < NV; ++v, c += kLanes) store(c, run.first ? acc[p][v] : load(c) + acc[p][v]);
  }
}

using TileFn = void (*)(Run run, const float* a, const void* weights, float* c);

template <int NV, class W, int... P>
constexpr TileFn tile_of(int pixels, std::integer_sequence<int, P...>) {
  constexpr TileFn table[] = {tile<P + 1, NV, W>...};
  return table[pixels - 1];
}

// The tile for 1..most_pixels(vectors) pixels.
static inline TileFn tile_for(int pixels, int vectors, WeightType type) {
  using Tall = std::make_integer_sequence<int, most_pixels(1)>;
  using Wide = std::make_integer_sequence<int, most_pixels(2)>;
  if (type == WeightType::kFloat16) {
    return vectors == 1 ? tile_of<1, uint16_t>(pixels, Tall{}) : tile_of<2, uint16_t>(pixels, Wide{});
  }
  return vectors == 1 ? tile_of<1, float>(pixels, Tall{}) : tile_of<2, float>(pixels, Wide{});
}

// Packed weights of either type, by index.
static inline size_t weight_bytes(WeightType type) { return type == WeightType::kFloat16 ? 2 : 4; }

static inline void set_weight(void* packed, size_t index, float value, WeightType type) {
  if (type == WeightType::kFloat16) {
    static_cast<uint16_t*>(packed)[index] = to_half(value);
  } else {
    static_cast<float*>(packed)[index] = value;
  }
}

// Copies `count` floats of one pixel into a packed tile of `tile_pixels` at position k; src null writes
// zeros. `at` points to the pixel's first row of the tile.
static inline void put(float* at, int tile_pixels, int k, const float* src, int count) {
  const ptrdiff_t step = static_cast<ptrdiff_t>(tile_pixels) * kDepth;
  float* row = at + k / kDepth * step;
  for (int lane = k % kDepth; count > 0; lane = 0, row += step) {
    const int run = min_of(kDepth - lane, count);
    if (run == kDepth && src != nullptr) {
      __builtin_memcpy(row, src, kDepth * sizeof(float));
    } else {
      for (int i = 0; i < run; ++i) row[lane + i] = src != nullptr ? src[i] : 0.0f;
    }
    if (src != nullptr) src += run;
    count -= run;
  }
}

static inline vf activate(vf x, Activation act) {
  switch (act.kind) {
    case ActivationKind::kRelu:
      return x < 0.0f ? vf{} : x;  // a NaN passes through
    case ActivationKind::kLeakyRelu:
      return x < 0.0f ? x * act.slope : x;
    case ActivationKind::kTanh:
      return vtanh(x);
    case ActivationKind::kSigmoid:
      return vsigmoid(x);
    case ActivationKind::kSoftplus:
      return vsoftplus(x);
    case ActivationKind::kNone:
      break;
  }
  return x;
}

// Stores the first `count` of the channels of one pixel, `vectors` long in `sums`: act(sums + bias).
static inline void finish(const float* sums, const float* bias, int count, int vectors, Activation act,
                          float* y) {
  for (int v = 0; v < vectors; ++v) {
    const int left = count - v * kLanes;
    if (left <= 0) break;
    const vf value = activate(load(sums + v * kLanes) + load_first(bias + v * kLanes, left), act);
    store_first(y + v * kLanes, value, left);
  }
}

}  // namespace edgevae::EDGEVAE_ISA
