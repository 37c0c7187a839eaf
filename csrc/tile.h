// What every fast kernel shares: a tile of pixels times a panel of output channels (tile.cpp has the loop),
// how tiles are gathered, and how what comes out of them is finished.
//
// Every convolution here is a matrix product, or nine of them: pixels (M) by taps and channels (K) by output
// channels (N). The left side is gathered ("packed") from the image a few pixels at a time:
//
//   packed pixels   [K / 16][P][16]       P pixels of a tile, 16 consecutive k side by side: gathering is
//                                         plain copies, and one pointer with constant offsets reads it all
//   packed weights  [panel][K][width]     width = NV vectors; read front to back
//
// One step of k takes NV loads and P broadcasts for P * NV fused multiply-adds. AVX-512: 14 x 2, so 16
// loads feed 28 products of 16 lanes and the loop is bound by arithmetic. Where k is no multiple of 16, rows
// are filled up but not multiplied to their end.
#pragma once

#include "half.h"
#include "layers.h"
#include "vec.h"

namespace edgevae::EDGEVAE_ISA {

inline constexpr int kDepth = 16;  // k is packed in runs of 16 whatever the vector length
inline constexpr int kStep = 4;    // and multiplied four at a time

static constexpr int round_up(int x, int step) { return (x + step - 1) / step * step; }
static inline int ceil_div(int x, int y) { return (x + y - 1) / y; }
static constexpr int min_of(int a, int b) { return a < b ? a : b; }
static inline int max_of(int a, int b) { return a > b ? a : b; }

// The most pixels of a tile. With panels of one vector the registers hold twice as many, but beyond 16 GCC
// loads their broadcasts ahead of their use and runs out of registers all the same: 75 GFLOP/s instead of
// 220.
static constexpr int most_pixels(int vectors) {
  return vectors == 2 ? kTilePixels : min_of(16, 2 * kTilePixels);
}

// What lies in the rows of kDepth of a run of k, again and again: `full` rows, and one that is multiplied as
// far as `last`, a multiple of kStep below kDepth; 0 for none.
struct Rows {
  int full, last;

  int all() const { return full + (last > 0); }
};

// What one call of a tile adds up: `count` times `rows`, once where all are full. Meanwhile memory is asked
// for what comes next, `stride` bytes further at every k from `ahead` on, so that it works while the
// multipliers do.
struct Run {
  int count;
  Rows rows;
  bool first;  // c is written, not added to
  const char* ahead;
  int stride;
};

// c (pixels, vectors * kLanes) += a packed by rows of kDepth, times a panel of weights.
using TileFn = void (*)(const Run& run, const float* a, const void* weights, float* c);

// The tile for 1..most_pixels(vectors) pixels, for runs of such rows (tile.cpp).
TileFn tile_for(int pixels, int vectors, WeightType type, const Rows& rows);

// The bytes of one packed weight, or of one quad of them.
static inline size_t weight_bytes(WeightType type) {
  return type == WeightType::kFloat16 ? 2 : type == WeightType::kInt8 ? 1 : 4;
}

static inline void set_weight(void* packed, size_t index, float value, WeightType type) {
  if (type == WeightType::kFloat16) {
    static_cast<uint16_t*>(packed)[index] = to_half(value);
  } else if (type == WeightType::kFloat32) {
    static_cast<float*>(packed)[index] = value;
  } else {
    static_cast<int8_t*>(packed)[index] = static_cast<int8_t>(value);
  }
}

// Copies `units` numbers of each of `count` pixels, `step` apart from `src` on, into a packed tile of
// `tile_pixels` at position k; src null writes `padding`. `at` points to the first pixel's first row of the
// tile.
static inline void put(float* at, int tile_pixels, int k, const float* src, ptrdiff_t step, int count,
                       int units, float padding) {
  const ptrdiff_t next_row = static_cast<ptrdiff_t>(tile_pixels) * kDepth;
  float* row = at + k / kDepth * next_row;
  if (src != nullptr && k % kDepth == 0 && units % kDepth == 0) {  // most layers: memory is read in its order
    for (int i = 0; i < count; ++i, row += kDepth, src += step) {
      float* to = row;
      for (int u = 0; u < units; u += kDepth, to += next_row) {
        __builtin_memcpy(to, src + u, kDepth * sizeof(float));
      }
    }
    return;
  }
  for (int lane = k % kDepth; units > 0; lane = 0, row += next_row) {
    const int run = min_of(kDepth - lane, units);
    if (src != nullptr) {
      for (int i = 0; i < count; ++i) copy_few(row + lane + i * kDepth, src + i * step, run);
    } else {
      for (int i = 0; i < count; ++i) fill_few(row + lane + i * kDepth, padding, run);
    }
    if (src != nullptr) src += run;
    units -= run;
  }
}

// What a float or a quad of zeros looks like to a layer.
static inline float zero_padding(WeightType type, int input_zero) {
  if (type != WeightType::kQuads) return 0.0f;
  const uint32_t quad = static_cast<uint32_t>(input_zero) * 0x01010101u;
  float bits;
  __builtin_memcpy(&bits, &quad, sizeof bits);
  return bits;
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

// Pixels of the output that follow each other `step` apart, and up to kLanes of their channels. Sums often
// come in groups of N, each for a pixel of its own.
template <int N>
struct Places {
  size_t first[N];
  int step, count;
  int channel, left;  // channels [channel, channel + left), at most kLanes of them
  int scale[N];       // the number of their first scale
};

// Where a kernel's results go: pixels of `channels`, in float32 or uint8.
struct Output {
  const Epilogue& epilogue;
  void* y;
  int channels;

  // Finishes and stores the sums of `places`; sums(i, to) writes the N vectors of group i. What the epilogue
  // asks for is found out once.
  template <int N, class Sums>
  void put(const Places<N>& places, Sums sums) const {
    const ActivationKind kind = epilogue.act.kind;
    if (kind == ActivationKind::kLeakyRelu || kind == ActivationKind::kNone) {
      put_scaled<true>(places, sums);
    } else {
      put_scaled<false>(places, sums);
    }
  }

 private:
  template <bool Leaky, int N, class Sums>
  void put_scaled(const Places<N>& places, Sums sums) const {
    if (epilogue.scale == nullptr) {
      put_quantized<Leaky, false>(places, sums);
    } else {
      put_quantized<Leaky, true>(places, sums);
    }
  }

  template <bool Leaky, bool Scaled, int N, class Sums>
  void put_quantized(const Places<N>& places, Sums sums) const {
    const int left = places.left;
    if (epilogue.inverse_scale != nullptr) {
      const vf inverse = load_first(epilogue.inverse_scale + places.channel, left);
      const int zero = epilogue.zero;
      put_all<Leaky, Scaled, uint8_t>(places, sums, round_up(channels, 4), [=](uint8_t* to, vf value) {
        store_bytes(to, quantize(value * inverse, zero), left);
      });
    } else if (left >= kLanes) {
      put_all<Leaky, Scaled, float>(places, sums, channels, [](float* to, vf value) { store(to, value); });
    } else {
      put_all<Leaky, Scaled, float>(places, sums, channels,
                                    [=](float* to, vf value) { store_first(to, value, left); });
    }
  }

  // Not inlined, so that what the loop needs stays in registers.
  template <bool Leaky, bool Scaled, class T, int N, class Sums, class Store>
  __attribute__((noinline)) void put_all(const Places<N>& places, Sums sums, int pixel_stride,
                                         Store store_value) const {
    const Activation act = epilogue.act;
    const float slope = act.kind == ActivationKind::kNone ? 1.0f : act.slope;
    const vf bias = load_first(epilogue.bias + places.channel, places.left);
    vf scale[N];
    T* to[N];
    for (int n = 0; n < N; ++n) {
      scale[n] = Scaled ? load_first(epilogue.scale + places.scale[n], places.left) : vf{};
      to[n] = static_cast<T*>(y) + places.first[n] * pixel_stride + places.channel;
    }
    const ptrdiff_t apart = static_cast<ptrdiff_t>(places.step) * pixel_stride;
    for (int i = 0; i < places.count; ++i) {
      vf group[N];
      sums(i, group);
      for (int n = 0; n < N; ++n) {
        const vf sum = Scaled ? group[n] * scale[n] + bias : group[n] + bias;
        store_value(to[n] + i * apart, Leaky ? (sum < 0.0f ? sum * slope : sum) : activate(sum, act));
      }
    }
  }
};

}  // namespace edgevae::EDGEVAE_ISA
