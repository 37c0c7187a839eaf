// The one inner loop of the fast kernels: a tile of output pixels times a panel of output channels.
//
// Every convolution here is a matrix product, pixels (M) by taps and channels (K) by output channels (N),
// whose left side is gathered ("packed") from the image a few pixels at a time:
//
//   packed pixels   [K / 16][P][16]       P pixels of a tile, 16 consecutive k side by side: gathering is
//                                         plain copies, and one pointer with constant offsets reads it all
//   packed weights  [panel][K][width]     width = NV vectors; read front to back, exactly once per tile
//
// One step of k takes NV loads and P broadcasts for P * NV fused multiply-adds. AVX-512: 14 x 2, so 16
// loads feed 28 products of 16 lanes and the loop is bound by arithmetic.
#pragma once

#include <utility>

#include "half.h"
#include "layers.h"
#include "threads.h"
#include "vec.h"

namespace edgevae::EDGEVAE_ISA {

inline constexpr int kDepth = 16;  // k is packed in runs of 16 whatever the vector length

static inline int round_up(int x, int step) { return (x + step - 1) / step * step; }
static inline int ceil_div(int x, int y) { return (x + y - 1) / y; }
static inline int min_of(int a, int b) { return a < b ? a : b; }
static inline int max_of(int a, int b) { return a > b ? a : b; }

// Vectors in a panel: one where the layer has no more channels than that, else two.
static inline int panel_vectors(int channels) { return channels <= kLanes ? 1 : 2; }

template <int P, int NV, class W>
void tile(int blocks, const float* a, const void* weights, float* c) {
  const W* b = static_cast<const W*>(weights);
  vf acc[P][NV] = {};
  for (; blocks > 0; --blocks, a += P * kDepth, b += kDepth * NV * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < kDepth; ++k) {
      vf w[NV];
      for (int v = 0; v < NV; ++v) w[v] = load_weights(b + (k * NV + v) * kLanes);
      for (int p = 0; p < P; ++p) {
        const vf x = broadcast(a[p * kDepth + k]);
        for (int v = 0; v < NV; ++v) acc[p][v] += x * w[v];
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < NV; ++v) store(c + (p * NV + v) * kLanes, acc[p][v]);
  }
}

// c (P, NV * kLanes) = a packed by rows of kDepth, times a panel.
using TileFn = void (*)(int blocks, const float* a, const void* weights, float* c);

template <int NV, class W, int... P>
constexpr TileFn tile_of(int pixels, std::integer_sequence<int, P...>) {
  constexpr TileFn table[] = {tile<P + 1, NV, W>...};
  return table[pixels - 1];
}

inline constexpr int kSums = kTilePixels * 2 * kLanes;  // the largest tile's results

// The tile for 1..kTilePixels pixels.
static inline TileFn tile_for(int pixels, int vectors, WeightType type) {
  using Sizes = std::make_integer_sequence<int, kTilePixels>;
  if (type == WeightType::kFloat16) {
    return vectors == 1 ? tile_of<1, uint16_t>(pixels, Sizes{}) : tile_of<2, uint16_t>(pixels, Sizes{});
  }
  return vectors == 1 ? tile_of<1, float>(pixels, Sizes{}) : tile_of<2, float>(pixels, Sizes{});
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

static inline const void* weights_at(const void* packed, size_t index, WeightType type) {
  return static_cast<const char*>(packed) + index * weight_bytes(type);
}

// `pixels` cut into the fewest tiles of at most kTilePixels, as even as can be.
struct Tiling {
  int tiles, base, longer;  // the first `longer` tiles have base + 1 pixels

  explicit Tiling(int pixels)
      : tiles(ceil_div(pixels, kTilePixels)), base(pixels / tiles), longer(pixels % tiles) {}
  int size(int t) const { return base + (t < longer); }
  int begin(int t) const { return t * base + min_of(t, longer); }
};

// How a layer is shared out: blocks of pixels whose packed form stays in the second-level cache, times
// groups of panels. Groups are taken only where blocks alone would leave threads without work; then each
// thread also reads its own share of the weights.
struct Split {
  int pixels, block, blocks, panels, groups;

  Split(int pixels_, int floats_per_pixel, int panels_, int threads) : pixels(pixels_), panels(panels_) {
    constexpr int kPackedFloats = 192 * 1024;  // 768 KiB
    block = max_of(kTilePixels, kPackedFloats / floats_per_pixel / kTilePixels * kTilePixels);
    if (threads > 1)
      block = min_of(block, max_of(kTilePixels, round_up(ceil_div(pixels, 4 * threads), kTilePixels)));
    block = min_of(block, pixels);
    blocks = ceil_div(pixels, block);
    groups = threads == 1 ? 1 : min_of(panels, ceil_div(2 * threads, blocks));
  }
  int tasks() const { return blocks * groups; }
  int pixel_begin(int task) const { return task / groups * block; }
  int pixel_end(int task) const { return min_of(pixels, pixel_begin(task) + block); }
  int panel_begin(int task) const {
    return static_cast<int>(static_cast<long>(task % groups) * panels / groups);
  }
  int panel_end(int task) const { return static_cast<int>((task % groups + 1L) * panels / groups); }
};

// The floats of scratch that for_each_tile needs per thread.
inline constexpr int kBlockHeader =
    16;  // which block is gathered; a cache line, so that the rest stays aligned

static inline size_t tile_scratch_floats(const Split& split, size_t pixel_floats, size_t sums) {
  return kBlockHeader + sums + split.block * pixel_floats;
}

// Runs a layer as shared out by `split`. Of each block of pixels, tile by tile,
//   gather(first, size, at)                 packs pixels [first, first + size) to `at`, pixel_floats each;
//   multiply(panel, first, size, at, sums)  multiplies them with a panel and finishes the results, by way of
//                                           `sums` floats of scratch.
// Tasks of one block follow each other: a thread that takes several of them gathers once.
template <class Gather, class Multiply>
void for_each_tile(const Split& split, size_t pixel_floats, size_t sums, Scratch scratch, Pool& pool,
                   Gather gather, Multiply multiply) {
  for (int t = 0; t < pool_threads(pool); ++t) scratch.base[t * scratch.per_thread] = -1.0f;
  parallel_for(pool, split.tasks(), [&](int task, int thread) {
    float* gathered = scratch.base + static_cast<size_t>(thread) * scratch.per_thread;
    float* results = gathered + kBlockHeader;
    float* pixels = results + sums;
    const int begin = split.pixel_begin(task);
    const Tiling tiling(split.pixel_end(task) - begin);
    const float block = static_cast<float>(begin / split.block);
    if (*gathered != block) {
      for (int t = 0; t < tiling.tiles; ++t) {
        gather(begin + tiling.begin(t), tiling.size(t), pixels + tiling.begin(t) * pixel_floats);
      }
      *gathered = block;
    }
    for (int panel = split.panel_begin(task); panel < split.panel_end(task); ++panel) {
      for (int t = 0; t < tiling.tiles; ++t) {
        multiply(panel, begin + tiling.begin(t), tiling.size(t), pixels + tiling.begin(t) * pixel_floats,
                 results);
      }
    }
  });
}

// Copies `count` floats of one pixel into a packed tile of `tile_pixels` at position k; src null writes
// zeros. `at` points to the pixel's first row of the tile.
static inline void put(float* at, int tile_pixels, int k, const float* src, int count) {
  const ptrdiff_t step = static_cast<ptrdiff_t>(tile_pixels) * kDepth;
  float* row = at + k / kDepth * step;
  int lane = k % kDepth;
  while (count > 0) {
    if (lane == 0 && count >= kDepth) {
      if (src != nullptr) {
        __builtin_memcpy(row, src, kDepth * sizeof(float));
      } else {
        __builtin_memset(row, 0, kDepth * sizeof(float));
      }
      if (src != nullptr) src += kDepth;
      count -= kDepth;
    } else {
      const int run = min_of(kDepth - lane, count);
      for (int i = 0; i < run; ++i) row[lane + i] = src != nullptr ? src[i] : 0.0f;
      if (src != nullptr) src += run;
      count -= run;
      lane = 0;
    }
    row += step;
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
