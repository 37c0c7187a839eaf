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

// What one call of a tile adds up: `blocks` runs of kDepth. Meanwhile memory is asked for what comes next,
// `stride` bytes further at every k from `ahead` on, so that it works while the multipliers do.
struct Run {
  int blocks;
  bool first;  // c is written, not added to
  const char* ahead;
  int stride;
};

// c (P, NV * kLanes) += a packed by rows of kDepth, times a panel.
// Quads of uint8 and their sums in int32 travel as floats, bits unchanged.
template <int P, int NV, class W>
void tile(Run run, const float* a, const void* weights, float* c) {
  const W* b = static_cast<const W*>(weights);
  using Vector = decltype(load_weights(b));  // of floats, or of integers
  Vector acc[P][NV] = {};
  for (; run.blocks > 0; --run.blocks, a += P * kDepth, b += kDepth * NV * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < kDepth; ++k) {
      __builtin_prefetch(run.ahead, 0, 2);
      run.ahead += run.stride;
      Vector w[NV];
      for (int v = 0; v < NV; ++v) w[v] = load_weights(b + (k * NV + v) * kLanes);
      for (int p = 0; p < P; ++p) {
        for (int v = 0; v < NV; ++v) acc[p][v] = multiply_add(acc[p][v], a[p * kDepth + k], w[v]);
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < NV; ++v, c += kLanes) {
      Vector before = {};
      if (!run.first) __builtin_memcpy(&before, c, sizeof before);
      store(c, before + acc[p][v]);
    }
  }
}

using TileFn = void (*)(Run run, const float* a, const void* weights, float* c);

template <int NV, class W, int... P>
constexpr TileFn tile_of(int pixels, std::integer_sequence<int, P...>) {
  constexpr TileFn table[] = {tile<P + 1, NV, W>...};
  return table[pixels - 1];
}

template <class W>
TileFn tile_of_type(int pixels, int vectors) {
  return vectors == 1 ? tile_of<1, W>(pixels, std::make_integer_sequence<int, most_pixels(1)>{})
                      : tile_of<2, W>(pixels, std::make_integer_sequence<int, most_pixels(2)>{});
}

// The tile for 1..most_pixels(vectors) pixels.
static inline TileFn tile_for(int pixels, int vectors, WeightType type) {
  switch (type) {
    case WeightType::kFloat16:
      return tile_of_type<uint16_t>(pixels, vectors);
    case WeightType::kInt8:
      return tile_of_type<int8_t>(pixels, vectors);
    case WeightType::kQuads:
      return tile_of_type<Quad>(pixels, vectors);
    case WeightType::kFloat32:
      break;
  }
  return tile_of_type<float>(pixels, vectors);
}

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

// Copies `count` floats of one pixel into a packed tile of `tile_pixels` at position k; src null writes
// `padding`. `at` points to the pixel's first row of the tile.
static inline void put(float* at, int tile_pixels, int k, const float* src, int count, float padding) {
  const ptrdiff_t step = static_cast<ptrdiff_t>(tile_pixels) * kDepth;
  float* row = at + k / kDepth * step;
  for (int lane = k % kDepth; count > 0; lane = 0, row += step) {
    const int run = min_of(kDepth - lane, count);
    if (run == kDepth && src != nullptr) {
      __builtin_memcpy(row, src, kDepth * sizeof(float));
    } else if (src != nullptr) {
      copy_few(row + lane, src, run);
    } else {
      for (int i = 0; i < run; ++i) __builtin_memcpy(row + lane + i, &padding, sizeof padding);
    }
    if (src != nullptr) src += run;
    count -= run;
  }
}

// What a float or a quad of zeros looks like to a layer.
static inline float zero_padding(WeightType type, int input_zero) {
  if (type != WeightType::kQuads) return 0.0f;
  const int32_t quad = input_zero * 0x01010101;
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

// Where a kernel's results go: pixels of `channels`, in float32 or uint8.
struct Output {
  const Epilogue& epilogue;
  void* y;
  int channels;

  // Calls body with a function put(pixel, o, left, sums, scale) that finishes the sums of channels [o, o +
  // left), at most kLanes, of a pixel; their scales begin at number `scale`. What the epilogue asks for is
  // found out here, not for every vector.
  template <class Body>
  void with_put(Body body) const {
    const ActivationKind kind = epilogue.act.kind;
    if (kind == ActivationKind::kLeakyRelu || kind == ActivationKind::kNone) {
      with_put<true>(body);
    } else {
      with_put<false>(body);
    }
  }

 private:
  template <bool Leaky, class Body>
  void with_put(Body body) const {
    const auto with_put_as = [&]<bool Scaled, bool Quantized>() {
      const Epilogue e = epilogue;
      const float slope = e.act.kind == ActivationKind::kNone ? 1.0f : e.act.slope;
      void* const to = y;
      const int stride = Quantized ? round_up(channels, 4) : channels;
      body([=](size_t pixel, int o, int left, vf sums, int scale) {
        if (Scaled) sums *= load_first(e.scale + scale, left);
        sums += load_first(e.bias + o, left);
        const vf value = Leaky ? (sums < 0.0f ? sums * slope : sums) : activate(sums, e.act);
        if (Quantized) {
          const vi q = quantize(value * load_first(e.inverse_scale + o, left), e.zero);
          store_bytes(static_cast<uint8_t*>(to) + pixel * stride + o, q, left);
        } else {
          store_first(static_cast<float*>(to) + pixel * stride + o, value, left);
        }
      });
    };
    const bool quantized = epilogue.inverse_scale != nullptr;
    if (epilogue.scale == nullptr) {
      quantized ? with_put_as.template operator()<false, true>()
                : with_put_as.template operator()<false, false>();
    } else {
      quantized ? with_put_as.template operator()<true, true>()
                : with_put_as.template operator()<true, false>();
    }
  }
};

}  // namespace edgevae::EDGEVAE_ISA
