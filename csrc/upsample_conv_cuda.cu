// upsample_conv on a GPU: nine products (nine_products.h), whose sums a warp keeps in registers.
//
// A warp takes a strip of 8 columns and 4 rows of input pixels, and 8 or 16 output channels. Eight pixels of
// a row are eight rows of a matrix to ldmatrix, so the 6x10 pixels that a strip looks at are loaded once and
// serve all nine products; their differences are taken in registers.
//
// The other way would be four 2x2 convolutions, one for each output over a pixel: 16 products and 16 weights
// where there are 9. Its sums take 4 registers where these take 9, so a block could keep 9216 pairs of pixel
// and channel instead of 4096. For k = 16 and 1024 pairs:
//
//                                nine     four 2x2
//      mma.m16n8k16              72       128         6.4 clocks each, on one of four tensor cores
//      read from shared memory   18 KB    20 KB       128 bytes a clock, reading or writing
//      loaded by a block         4.2 KB   4.0 KB      24 bytes a clock from the second-level cache
//      weights of a pair         18 B     32 B
//
// Where pixels are many, nine products take 177 clocks of a multiprocessor for that, bound by shared memory,
// and 16 take 205, bound by tensor cores. Where they are few, time goes into reading weights: 9/16.
//
// The error, in half precision: differences are rounded to halves (the first ones as if taken in float32;
// they are exact between neighbours within a factor of two), and so are the sums of weights. On random input
// outputs are off by 5e-4 of their size, root mean square, where the definition with rounded weights has
// 3e-4: a cosine of 1 - 1.2e-7 for each layer.
//
// Where pixels are few, the warps of a block share k, and their sums meet in shared memory in a fixed order.
// k is not split between blocks: for 4x4 pixels of 512 channels 64 blocks read 110 KB each, and 64
// multiprocessors can take in more than the second-level cache gives (64 x 64 bytes a clock is 7 TB/s, of
// about 5.5), while a second meeting, through memory, would cost more than the 0.6 us it might save.
#include <algorithm>

#include "cuda_device.cuh"
#include "cuda_kernels.h"
#include "half.h"
#include "nine_weights.h"

namespace edgevae::cuda {
namespace {

constexpr int kColumns = 8, kRows = 4;  // of a strip
constexpr int kHaloRows = kRows + 2;
constexpr int kHalo = kHaloRows * 12;  // pixels, at most
constexpr int kStepBytes = 32;         // k of one mma: 16 halves or 8 floats
constexpr int kTile = 8;               // channels of one mma
enum Product { kX, kL, kR, kU, kD, kUL, kUR, kDL, kDR };
constexpr int kTileBytes = kNine * kTile * kStepBytes;  // weights of 8 channels for one k step

struct Strip {
  int image, row, column;  // of its first pixel
};

// What a block keeps in shared memory beside its stages: its strips, and where each of their pixels lies,
// null for one that reads zero.
template <int Strips>
struct Map {
  Strip strips[Strips];
  const char* pixels[Strips * kHalo];
};

// How blocks are cut: warps by strips, by channels and by k; k steps in a stage; tiles of 8 channels a warp.
template <int Strips, int Channels, int Depth, int Steps, int Tiles, int Stages, int BlocksPerSm>
struct Cut {
  static constexpr int kStrips = Strips, kDepth = Depth, kSteps = Steps, kTiles = Tiles, kStages = Stages;
  static constexpr int kThreads = kWarp * Strips * Channels * Depth, kBlocks = BlocksPerSm;
  static constexpr int kBlockTiles = Channels * Tiles, kBlockChannels = kBlockTiles * kTile;

  // 16 bytes more than the steps fill: eight pixels lie in different banks.
  static constexpr int kPixelBytes = Steps * kStepBytes + 16;
  static constexpr int kInputBytes = Strips * kHalo * kPixelBytes;
  static constexpr int kStageBytes = kInputBytes + kBlockTiles * Steps * kTileBytes;

  // A row of outputs on its way through shared memory, by pixel: 4 floats more, for the same reason.
  static constexpr int kPitch = kBlockChannels + 4;
  static constexpr int kOutputs = Strips * kRows * 2 * kColumns;  // pixels of one phase row
  static constexpr int kOutputBytes = Depth * kOutputs * kPitch * static_cast<int>(sizeof(float));

  static constexpr int kMapBytes = (static_cast<int>(sizeof(Map<Strips>)) + 127) / 128 * 128;

  static constexpr int shared_bytes(int chunks) {
    return kMapBytes + std::max(std::min(Stages, chunks) * kStageBytes, kOutputBytes);
  }
};

struct Problem {
  int n, ih, iw, ic, oc;
  bool replicate;
  bool paired;         // a strip is 4 columns of one image and 4 of the next
  int across, down;    // strips of an image
  int channel_blocks;  // blocks that share a strip
  int steps;           // of k
  const void *x, *packed;
  Epilogue epilogue;
  void* y;

  // Pixels of a row of a strip and its neighbours, and of all of them.
  __device__ int halo_columns() const { return paired ? 2 * (kColumns / 2 + 2) : kColumns + 2; }
  __device__ int halo() const { return kHaloRows * halo_columns(); }
};

__device__ Strip strip_at(const Problem& p, int index) {
  const int row = index % p.down, column = index / p.down % p.across, images = index / (p.down * p.across);
  return {images * (p.paired ? 2 : 1), row * kRows, column * kColumns};
}

// What the numbers are. In shared memory and in registers they are words of 32 bits.
struct Halves {
  using Number = uint16_t;
  static constexpr bool kTensorCores = true;
  static __device__ uint32_t subtract(uint32_t a, uint32_t b) {
    __half2 x, y;
    memcpy(&x, &a, 4), memcpy(&y, &b, 4);
    x = __hsub2(x, y);
    memcpy(&a, &x, 4);
    return a;
  }
  static __device__ uint32_t factor(uint32_t a) { return a; }
};

struct Floats32 {
  using Number = float;
  static constexpr bool kTensorCores = false;
  static __device__ uint32_t subtract(uint32_t a, uint32_t b) {
    return __float_as_uint(__uint_as_float(a) - __uint_as_float(b));
  }
};

struct Tf32 : Floats32 {
  static constexpr bool kTensorCores = true;
  static __device__ uint32_t factor(uint32_t a) { return to_tf32(a); }
};

template <class C, class N>
__device__ void draw_map(const Problem& p, int first_strip, Map<C::kStrips>& map) {
  const int columns = p.halo_columns(), halo = p.halo();
  for (int i = threadIdx.x; i < C::kStrips; i += C::kThreads) map.strips[i] = strip_at(p, first_strip + i);
  for (int i = threadIdx.x; i < C::kStrips * halo; i += C::kThreads) {
    const Strip strip = strip_at(p, first_strip + i / halo);
    const int at = i % halo % columns, second = p.paired ? at / 6 : 0;
    const int image = strip.image + second;
    const int row = strip.row + i % halo / columns - 1, column = strip.column + at - 6 * second - 1;
    const int y = max(0, min(row, p.ih - 1)), x = max(0, min(column, p.iw - 1));
    // Beyond the image's neighbours nobody looks.
    const bool wanted = image < p.n && row <= p.ih && column <= p.iw,
               read = wanted && (p.replicate || (x == column && y == row));
    const size_t pixel = (static_cast<size_t>(image) * p.ih + y) * p.iw + x;
    map.pixels[i] =
        read ? static_cast<const char*>(p.x) + pixel * p.ic * sizeof(typename N::Number) : nullptr;
  }
}

// Begins to copy k steps [chunk * C::kSteps, ...) of the block's pixels to a stage.
template <class C, class N>
__device__ void load_pixels(const Problem& p, const Map<C::kStrips>& map, int chunk, char* stage) {
  constexpr int kPieces = C::kSteps * kStepBytes / 16, kPiece = 16 / sizeof(typename N::Number);
  const int pixels = C::kStrips * p.halo();
  const bool pieces = p.ic % kPiece == 0;  // then every pixel begins at a multiple of 16 bytes
  for (int i = threadIdx.x; i < pixels * kPieces; i += C::kThreads) {
    const int pixel = i / kPieces, piece = i % kPieces;
    char* to = stage + pixel * C::kPixelBytes + piece * 16;
    const char* from = map.pixels[pixel];
    const int channel = (chunk * kPieces + piece) * kPiece, left = from == nullptr ? 0 : p.ic - channel;
    if (pieces || left <= 0) {
      copy_async<16>(to, left > 0 ? from + channel * sizeof(typename N::Number) : p.x, left > 0);
    } else {
      const auto* numbers = reinterpret_cast<const typename N::Number*>(from) + channel;
      for (int j = 0; j < kPiece; ++j)
        reinterpret_cast<typename N::Number*>(to)[j] = j < left ? numbers[j] : typename N::Number{};
    }
  }
}

// The same of the weights, C::kBlockTiles tiles from first_tile on.
template <class C>
__device__ void load_weights(const Problem& p, int first_tile, int chunk, char* stage) {
  constexpr int kTilePieces = C::kSteps * kTileBytes / 16;
  const int some = min(C::kSteps, p.steps - chunk * C::kSteps) * (kTileBytes / 16);
  const int tiles = min(C::kBlockTiles, (p.oc + kTile - 1) / kTile - first_tile);
  for (int i = threadIdx.x; i < tiles * kTilePieces; i += C::kThreads) {
    const int tile = i / kTilePieces, piece = i % kTilePieces;
    const size_t step = static_cast<size_t>(first_tile + tile) * p.steps + chunk * C::kSteps;
    const char* from = static_cast<const char*>(p.packed) + step * kTileBytes;
    if (piece < some) copy_async<16>(stage + C::kInputBytes + i * 16, from + piece * 16, true);
  }
}

// A pixel of a strip's halo, of column 0 to 7 (8 and 9, or 10 and 11 in pairs, are reached by adding to it).
__device__ int halo_column(const Problem& p, int column) {
  return p.paired ? column + column / 4 * 2 : column;
}

// The pixels of a strip for one k step: by row of the halo, by column before, at and after the pixel, two
// words of each thread. On tensor cores these are the two halves of a k step for pixel lane / 4, as mma wants
// them; else two k, the `part`-th such pair, of that pixel.
using Pixels = uint32_t[kHaloRows][3][2];

template <class C, class N>
__device__ void gather(const char* strip, int row_bytes, int column, int step, int part, Pixels& v) {
  const int lane = threadIdx.x % kWarp;
  const char* from = strip + column * C::kPixelBytes + step * kStepBytes;
#pragma unroll
  for (int shift = 0; shift < 3; ++shift, from += C::kPixelBytes) {
    if constexpr (N::kTensorCores) {
#pragma unroll
      for (int r = 0; r < kHaloRows; r += 2) {
        uint32_t words[4];
        load_matrices(from + (r + lane / 16) * row_bytes + lane / 8 % 2 * 16, words);
        v[r][shift][0] = words[0], v[r][shift][1] = words[1];
        v[r + 1][shift][0] = words[2], v[r + 1][shift][1] = words[3];
      }
    } else {
#pragma unroll
      for (int r = 0; r < kHaloRows; ++r) {
        const uint2 words = *reinterpret_cast<const uint2*>(from + r * row_bytes + part * 8);
        v[r][shift][0] = words.x, v[r][shift][1] = words.y;
      }
    }
  }
}

// sums[m][tile] += the `product`-th weights times rows first + 2m and first + 2m + 1 of v's column.
template <class N, int Tiles>
__device__ void add_product(const Pixels& v, int column, int first, const char* weights, int tile_bytes,
                            int part, float (&sums)[2][Tiles][4]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile, weights += tile_bytes) {
    if constexpr (N::kTensorCores) {
      uint2 b;
      if constexpr (sizeof(typename N::Number) == 2) {
        b = reinterpret_cast<const uint2*>(weights)[lane];
      } else {
        const auto* words = reinterpret_cast<const uint32_t*>(weights) + lane % 4 * kTile + lane / 4;
        b = make_uint2(words[0], words[4 * kTile]);
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const auto& above = v[first + 2 * m][column];
        const auto& below = v[first + 2 * m + 1][column];
        const uint32_t a[4] = {N::factor(above[0]), N::factor(below[0]), N::factor(above[1]),
                               N::factor(below[1])};
        if constexpr (sizeof(typename N::Number) == 2) {
          multiply_halves(a, b.x, b.y, sums[m][tile]);
        } else {
          multiply_tf32(a, b.x, b.y, sums[m][tile]);
        }
      }
    } else {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float2 b = reinterpret_cast<const float2*>(weights)[(2 * part + k) * (kTile / 2) + lane % 4];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const float above = __uint_as_float(v[first + 2 * m][column][k]),
                      below = __uint_as_float(v[first + 2 * m + 1][column][k]);
          sums[m][tile][0] += above * b.x;
          sums[m][tile][1] += above * b.y;
          sums[m][tile][2] += below * b.x;
          sums[m][tile][3] += below * b.y;
        }
      }
    }
  }
}

// One k step of a warp: the pixels of its strip times its channels.
template <class C, class N>
__device__ void multiply_step(const Problem& p, const char* strip, int step, const char* weights,
                              float (&sums)[kNine][2][C::kTiles][4]) {
  constexpr int kParts = N::kTensorCores ? 1 : 4;
  const int lane = threadIdx.x % kWarp, row_bytes = p.halo_columns() * C::kPixelBytes;
  const int column = halo_column(p, N::kTensorCores ? lane % 8 : lane / 4);
#pragma unroll 1
  for (int part = 0; part < kParts; ++part) {
    Pixels v;
    gather<C, N>(strip, row_bytes, column, step, part, v);
    const auto add = [&](Product product, int at, int first) {
      add_product<N, C::kTiles>(v, at, first, weights + product * kTile * kStepBytes, C::kSteps * kTileBytes,
                                part, sums[product]);
    };
    // Differences along rows: x[-1] - x and x - x[1].
#pragma unroll
    for (int r = 0; r < kHaloRows; ++r) {
#pragma unroll
      for (int word = 0; word < 2; ++word) {
        v[r][0][word] = N::subtract(v[r][0][word], v[r][1][word]);
        v[r][2][word] = N::subtract(v[r][1][word], v[r][2][word]);
      }
    }
    add(kX, 1, 1);
    add(kL, 0, 1);
    add(kR, 2, 1);
    // And between rows: the one below a row is the one above the next.
#pragma unroll
    for (int r = 0; r + 1 < kHaloRows; ++r) {
#pragma unroll
      for (int at = 0; at < 3; ++at) {
#pragma unroll
        for (int word = 0; word < 2; ++word) v[r][at][word] = N::subtract(v[r][at][word], v[r + 1][at][word]);
      }
    }
    add(kU, 1, 0);
    add(kD, 1, 1);
    add(kUL, 0, 0);
    add(kUR, 2, 0);
    add(kDL, 0, 1);
    add(kDR, 2, 1);
  }
}

// The block's sums of output rows 2i + py, of this warp's pixels and channels, on their way to other threads:
// (C::kDepth, pixels, C::kPitch).
template <class C>
__device__ void give_sums(const float (&sums)[kNine][2][C::kTiles][4], int py, int strip, int channel,
                          int depth, float* shared) {
  const int lane = threadIdx.x % kWarp;
  float* to = shared + ((depth * C::kStrips + strip) * kRows * 2 * kColumns + lane / 4 * 2) * C::kPitch +
              channel + lane % 4 * 2;
#pragma unroll
  for (int row = 0; row < kRows; ++row, to += 2 * kColumns * C::kPitch) {
#pragma unroll
    for (int tile = 0; tile < C::kTiles; ++tile) {
      float even[2], odd[2];  // columns, of two channels
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const auto product = [&](Product j) { return sums[j][row / 2][tile][row % 2 * 2 + i]; };
        if (py == 0) {
          even[i] = (product(kX) + product(kL)) + (product(kU) + product(kUL));
          odd[i] = (product(kX) - product(kR)) + (product(kU) - product(kUR));
        } else {
          even[i] = (product(kX) + product(kL)) - (product(kD) + product(kDL));
          odd[i] = (product(kX) - product(kR)) - (product(kD) - product(kDR));
        }
      }
      *reinterpret_cast<float2*>(to + tile * kTile) = make_float2(even[0], even[1]);
      *reinterpret_cast<float2*>(to + C::kPitch + tile * kTile) = make_float2(odd[0], odd[1]);
    }
  }
}

// Finishes four sums, and stores those of channels that there are.
template <class N>
__device__ void store_four(const Problem& p, const float4& sum, int channel, size_t at) {
  const Epilogue& e = p.epilogue;
  const bool halves = sizeof(typename N::Number) == 2 && !e.floats;
  if (p.oc % 4 == 0) {
    const float4 bias = *reinterpret_cast<const float4*>(e.bias + channel);
    const float4 y = make_float4(activate(sum.x + bias.x, e.act), activate(sum.y + bias.y, e.act),
                                 activate(sum.z + bias.z, e.act), activate(sum.w + bias.w, e.act));
    if (halves) {
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.y) + at) =
          make_uint2(pack_halves(y.x, y.y), pack_halves(y.z, y.w));
    } else {
      *reinterpret_cast<float4*>(static_cast<float*>(p.y) + at) = y;
    }
    return;
  }
  const float sums[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (channel + i >= p.oc) return;
    const float y = activate(sums[i] + e.bias[channel + i], e.act);
    if (halves) {
      static_cast<uint16_t*>(p.y)[at + i] = static_cast<uint16_t>(pack_halves(y, 0.0f));
    } else {
      static_cast<float*>(p.y)[at + i] = y;
    }
  }
}

// Adds up what the warps gave, and stores it: four channels of a pixel at a time.
template <class C, class N>
__device__ void store_outputs(const Problem& p, const Map<C::kStrips>& map, int py, int first_channel,
                              const float* shared) {
  constexpr int kGroups = C::kBlockChannels / 4;
  for (int i = threadIdx.x; i < C::kOutputs * kGroups; i += C::kThreads) {
    const int channel = first_channel + i % kGroups * 4, pixel = i / kGroups;
    const int column = pixel % (2 * kColumns), row = pixel / (2 * kColumns) % kRows;
    const Strip strip = map.strips[pixel / (2 * kColumns) / kRows];
    const int second = p.paired ? column / kColumns : 0;
    const int image = strip.image + second, y = 2 * (strip.row + row) + py,
              x = 2 * strip.column + column - kColumns * second;
    if (image >= p.n || y >= 2 * p.ih || x >= 2 * p.iw || channel >= p.oc) continue;
    float4 sum = {};
#pragma unroll
    for (int depth = 0; depth < C::kDepth; ++depth) {
      const float4 part = *reinterpret_cast<const float4*>(
          shared + (depth * C::kOutputs + pixel) * C::kPitch + i % kGroups * 4);
      sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
    const size_t at = ((static_cast<size_t>(image) * 2 * p.ih + y) * 2 * p.iw + x) * p.oc + channel;
    store_four<N>(p, sum, channel, at);
  }
}

template <class C, class N>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks) nine_products(const Problem p) {
  auto& map = *reinterpret_cast<Map<C::kStrips>*>(shared_memory());
  char* const stages = shared_memory() + C::kMapBytes;
  const auto stage = [=](int chunk) { return stages + chunk % C::kStages * C::kStageBytes; };
  const int first_strip = static_cast<int>(blockIdx.x) / p.channel_blocks * C::kStrips;
  const int first_tile = static_cast<int>(blockIdx.x) % p.channel_blocks * C::kBlockTiles;
  const int chunks = (p.steps + C::kSteps - 1) / C::kSteps;
  constexpr int kAhead = C::kStages - 1;

  // Weights are there before the kernel that makes the pixels is done. Each chunk's pixels close its group of
  // copies; the weights of the first ones all belong to the first.
  for (int chunk = 0; chunk < min(kAhead, chunks); ++chunk)
    load_weights<C>(p, first_tile, chunk, stage(chunk));
  draw_map<C, N>(p, first_strip, map);
  __syncthreads();
  await_previous_kernel();
  for (int chunk = 0; chunk < kAhead; ++chunk) {
    if (chunk < chunks) load_pixels<C, N>(p, map, chunk, stage(chunk));
    close_copies();
  }
  let_next_kernel_start();

  const int warp = threadIdx.x / kWarp, depth = warp % C::kDepth, strip = warp / C::kDepth % C::kStrips,
            channels = warp / C::kDepth / C::kStrips * C::kTiles;
  float sums[kNine][2][C::kTiles][4] = {};
  for (int chunk = 0; chunk < chunks; ++chunk) {
    await_copies<kAhead - 1>();
    __syncthreads();  // everybody's copies are here, and nobody reads the stage before any more
    if (chunk + kAhead < chunks) {
      load_weights<C>(p, first_tile, chunk + kAhead, stage(chunk + kAhead));
      load_pixels<C, N>(p, map, chunk + kAhead, stage(chunk + kAhead));
    }
    close_copies();
    const char* pixels = stage(chunk) + strip * p.halo() * C::kPixelBytes;
    const char* weights = stage(chunk) + C::kInputBytes + channels * C::kSteps * kTileBytes;
    const int steps = min(C::kSteps, p.steps - chunk * C::kSteps);
    for (int step = depth; step < steps; step += C::kDepth)
      multiply_step<C, N>(p, pixels, step, weights + step * kTileBytes, sums);
  }

  float* const shared = reinterpret_cast<float*>(stages);
  for (int py = 0; py < 2; ++py) {
    __syncthreads();  // the stages, or the sums before, are read
    give_sums<C>(sums, py, strip, channels * kTile, depth, shared);
    __syncthreads();
    store_outputs<C, N>(p, map, py, first_tile * kTile, shared);
  }
}

// Many pixels and channels: warps share both. 37 thousand sums fill the registers of a multiprocessor.
template <int Tiles>
using Wide = Cut<4, 2, 1, 2, Tiles, 2, 1>;
// At most 8 channels, as the last layer has, which is bound by the bytes of its pixels.
using Narrow = Cut<4, 1, 1, 2, 1, 2, 3>;
// Few pixels: one strip and 8 channels, k in four parts.
using Deep = Cut<1, 1, 4, 4, 1, 3, 3>;

// A launch: what of the problem it depends on, and what it depends on of the problem.
struct Work {
  Problem problem;
  void (*kernel)(Problem);
  int strips, tiles, depth;  // of a block: strips, tiles of 8 channels, parts of k
  int threads, shared_bytes;
  unsigned blocks;
};

template <class C, class N>
Work cut(const Problem& p, int strips) {
  Work w{p, nine_products<C, N>, C::kStrips, C::kBlockTiles, C::kDepth, C::kThreads, 0, 0};
  w.problem.channel_blocks = (p.oc + C::kBlockChannels - 1) / C::kBlockChannels;
  w.shared_bytes = C::shared_bytes((p.steps + C::kSteps - 1) / C::kSteps);
  w.blocks = static_cast<unsigned>((strips + C::kStrips - 1) / C::kStrips) *
             static_cast<unsigned>(w.problem.channel_blocks);
  return w;
}

// For as many strips and channels, Deep takes twice as long as the others on a full device: it reads shared
// memory as often for half as many products. So they may leave half of the device idle.
template <class N, int Tiles>
Work work(const Problem& p, int strips, const Device& device) {
  const Work many = p.oc <= kTile ? cut<Narrow, N>(p, strips) : cut<Wide<Tiles>, N>(p, strips);
  const bool idle = 2 * size_t{many.blocks} < static_cast<size_t>(device.sms);
  return idle || many.shared_bytes > device.shared_per_block ? cut<Deep, N>(p, strips) : many;
}

int step_channels(Arithmetic arithmetic) {
  return kStepBytes / static_cast<int>(activation_bytes(arithmetic));
}

Work work(const UpsampleConvShape& s, Arithmetic arithmetic, const Device& device) {
  Problem p{};
  p.n = s.n, p.ih = s.ih, p.iw = s.iw, p.ic = s.ic, p.oc = s.oc;
  p.replicate = s.padding == Padding::kReplicate;
  p.paired = s.iw <= kColumns / 2 && s.n > 1;
  p.across = (s.iw + kColumns - 1) / kColumns;
  p.down = (s.ih + kRows - 1) / kRows;
  p.steps = (s.ic + step_channels(arithmetic) - 1) / step_channels(arithmetic);
  const int strips = (p.paired ? (s.n + 1) / 2 : s.n) * p.across * p.down;
  switch (arithmetic_on(device, arithmetic)) {
    case Arithmetic::kFloat16:
      return work<Halves, 2>(p, strips, device);
    case Arithmetic::kTf32:
      return work<Tf32, 2>(p, strips, device);
    case Arithmetic::kFloat32:
      break;
  }
  return work<Floats32, 1>(p, strips, device);
}

}  // namespace

// By tiles of 8 channels and k steps the nine products' weights. Halves: of lane 4 o + t, those of mma's k
// 2t, 2t + 1, 2t + 8 and 2t + 9 for channel o. Floats: (k, channel), which both ways to multiply read without
// conflicts.
Bytes pack_upsample_conv(const UpsampleConvShape& s, const float* weights, Arithmetic arithmetic) {
  const int depth = step_channels(arithmetic), steps = (s.ic + depth - 1) / depth;
  Bytes packed(static_cast<size_t>((s.oc + kTile - 1) / kTile) * steps * kTileBytes);
  for (int o = 0; o < s.oc; ++o) {
    for (int i = 0; i < s.ic; ++i) {
      float nine[kNine];
      transform_weights(weights + (static_cast<size_t>(o) * s.ic + i) * 9, nine);
      const size_t block = static_cast<size_t>(o / kTile) * steps + i / depth;
      const int k = i % depth, column = o % kTile;
      for (int product = 0; product < kNine; ++product) {
        std::byte* to = packed.data() + block * kTileBytes + product * kTile * kStepBytes;
        if (arithmetic == Arithmetic::kFloat16) {
          const uint16_t half = to_half(nine[product]);
          const int word = (column * 4 + k % 8 / 2) * 2 + k / 8;
          memcpy(to + word * 4 + k % 2 * 2, &half, sizeof half);
        } else {
          const float number = as_factor(nine[product], arithmetic);
          memcpy(to + (k * kTile + column) * 4, &number, sizeof number);
        }
      }
    }
  }
  return packed;
}

size_t upsample_conv_workspace(const UpsampleConvShape&, Arithmetic, const Device&) { return 0; }

Plan upsample_conv_plan(const UpsampleConvShape& s, Arithmetic arithmetic, const Device& device) {
  const Work w = work(s, arithmetic, device);
  const bool tensor_cores = arithmetic_on(device, arithmetic) != Arithmetic::kFloat32;
  return {tensor_cores ? "tensor cores" : "fp32", w.strips * kColumns * kRows, w.tiles * kTile, w.depth,
          w.blocks};
}

void upsample_conv(const UpsampleConvShape& s, Arithmetic arithmetic, const Device& device, const void* x,
                   const void* packed, const Epilogue& epilogue, void* y, void*, Stream stream) {
  Work w = work(s, arithmetic, device);
  w.problem.x = x, w.problem.packed = packed, w.problem.epilogue = epilogue, w.problem.y = y;
  launch(device, w.kernel, w.blocks, w.threads, w.shared_bytes, stream, w.problem);
}

}  // namespace edgevae::cuda
