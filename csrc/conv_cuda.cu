// conv, conv_transpose and linear layers on the device: one implicit matrix product, and one way to multiply
// a matrix with very few vectors.
//
// The product has a row for each output pixel, a column for each channel, and runs over k = (ky, kx, ic). A
// transposed convolution of stride s is s * s convolutions over every s-th tap, one for each phase of the
// output, in one launch.
//
// A block of threads makes a tile of pixels x channels. Of both, 128 bytes of k at a time travel to shared
// memory by cp.async, some steps ahead of the tensor cores. A row of 128 bytes covers all banks once; its
// 16-byte chunks are exchanged by row (chunk ^ row % 8), so that the eight rows of an ldmatrix, and the eight
// chunks that eight threads copy into one row, meet eight different groups of banks: no conflicts.
//
// All three arithmetics share that text: to ldmatrix, four floats are eight halves, and float32 is multiplied
// by plain instructions from the same rows into the same sums. A thread's sums are of two neighbouring
// channels in each of four columns of eight; packing deals the channels out so that these eight are
// neighbours (packed_channel), and a thread stores them as 16 bytes (32 of floats).
//
// Where pixels are few, k is split among blocks: each leaves its sums in the workspace, and the last to come
// adds them all up in order. kTilings has the tiles, plan() chooses.
#include <algorithm>
#include <array>
#include <cstring>

#include "cuda_device.cuh"
#include "half.h"

namespace edgevae::cuda {
namespace {

constexpr int kRowBytes = 128;
constexpr int kChunkBytes = 16, kChunks = kRowBytes / kChunkBytes;
constexpr int kGroup = 32;  // packed rows come in whole groups of these
constexpr int kMostCounters = kCounterBytes / sizeof(unsigned);

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The channel in row `row` of the packed weights.
__host__ __device__ constexpr int packed_channel(int row) {
  const int within = row % kGroup;
  return row - within + within / 2 % 4 * 8 + within / 8 * 2 + within % 2;
}

// What a kernel is told of a layer. With `phases` per axis, 0 for a plain convolution, the geometry is that
// of one phase, all of them as large as the first.
struct Problem {
  const char* x;
  const char* weights;  // [phase][row][row_bytes]
  void* y;
  float* partial;  // behind the counters of the workspace
  unsigned* counters;
  const float* bias;
  Activation act;
  bool floats, replicate;

  int pixels, channels;  // of the output; pixels of one phase
  int ih, iw, ic;
  int kh, kw, stride, pad_top, pad_left;
  int phases, pad;  // of conv_transpose
  int out_h, out_w, out_step, out_y, out_x;

  int rows, depth;  // of the packed weights of a phase; depth in blocks of kRowBytes
  size_t row_bytes;
  int channel_tiles, splits;
  Divider by_ow, by_oh, by_ic, by_kw;
};

// Where tile row `row` and chunk `chunk` of it lie.
__device__ __forceinline__ int in_shared(int row, int chunk) {
  return row * kRowBytes + (chunk ^ row % kChunks) * kChunkBytes;
}

// The arithmetics: add() adds the products of 32 bytes of k, step `step` of four, of a warp's pixels and
// channels. Sums are those of mma: [16 pixels][8 channels][4].
template <bool kTf32>
struct TensorCores {
  static constexpr int kBytes = kTf32 ? 4 : 2;

  template <int kM, int kN>
  static __device__ __forceinline__ void add(const char* pixels, const char* channels, int step,
                                             float (&sums)[kM][kN][4]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      load_matrices(pixels + in_shared(16 * m + lane % 16, 2 * step + lane / 16), a[m]);
      round(a[m]);
    }
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      load_matrices(channels + in_shared(8 * n + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2), b);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply(a[m], b[0], b[1], sums[m][n]);
        multiply(a[m], b[2], b[3], sums[m][n + 1]);
      }
    }
  }

 private:
  static __device__ __forceinline__ void round(uint32_t (&a)[4]) {
    if constexpr (kTf32) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = to_tf32(a[i]);
    }
  }
  static __device__ __forceinline__ void multiply(const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                                  float (&d)[4]) {
    if constexpr (kTf32) {
      multiply_tf32(a, b0, b1, d);
    } else {
      multiply_halves(a, b0, b1, d);
    }
  }
};

struct Float32 {
  static constexpr int kBytes = 4;

  template <int kM, int kN>
  static __device__ __forceinline__ void add(const char* pixels, const char* channels, int step,
                                             float (&sums)[kM][kN][4]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll 1
    for (int chunk = 2 * step; chunk < 2 * step + 2; ++chunk) {
      float4 a[kM][2];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        a[m][0] = read(pixels, 16 * m + g, chunk);
        a[m][1] = read(pixels, 16 * m + 8 + g, chunk);
      }
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float4 b = read(channels, 8 * n + 2 * t + e, chunk);
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            add_dot(a[m][0], b, sums[m][n][e]);
            add_dot(a[m][1], b, sums[m][n][2 + e]);
          }
        }
      }
    }
  }

 private:
  static __device__ __forceinline__ float4 read(const char* rows, int row, int chunk) {
    return *reinterpret_cast<const float4*>(rows + in_shared(row, chunk));
  }
  static __device__ __forceinline__ void add_dot(const float4& a, const float4& b, float& sum) {
    sum = fmaf(a.x, b.x, sum);
    sum = fmaf(a.y, b.y, sum);
    sum = fmaf(a.z, b.z, sum);
    sum = fmaf(a.w, b.w, sum);
  }
};

// A tile, cut into equal parts for warps_k times as many warps as it has parts: those share each step's k.
template <int kPixels_, int kChannels_, int kWarpPixels, int kWarpChannels, int kWarpsK_, int kStages_>
struct Tile {
  static constexpr int kPixels = kPixels_, kChannels = kChannels_, kStages = kStages_, kWarpsK = kWarpsK_;
  static constexpr int kM = kWarpPixels / 16, kN = kWarpChannels / 8;
  static constexpr int kWarpsN = kChannels / kWarpChannels, kParts = kPixels / kWarpPixels * kWarpsN;
  static constexpr int kThreads = kWarp * kParts * kWarpsK;
  static constexpr int kSums = 4 * kM * kN;  // of a thread
  static constexpr int kStageBytes = (kPixels + kChannels) * kRowBytes;
  static_assert(kWarpPixels % 16 == 0 && kWarpChannels % kGroup == 0);
};

// The pixels and weights of a tile on their way to shared memory. A thread copies the same chunk of every
// kStep-th row, so that it works out which tap the chunk belongs to once for all of them.
template <class Tile, int kNumber, int kCopy>
class Copies {
  static constexpr int kStep = Tile::kThreads / kChunks;
  static constexpr int kPixelRows = Tile::kPixels / kStep, kWeightRows = Tile::kChannels / kStep;
  static constexpr int kFar = 1 << 15;  // added to coordinates, which are less, so that they fit 16 bits each
  static_assert(Tile::kPixels % kStep == 0 && Tile::kChannels % kStep == 0 && kStep % kChunks == 0);
  static_assert(kGroup % kStep == 0);  // so that all rows of a step are there, or none

 public:
  __device__ __forceinline__ Copies(const Problem& p, int pixel_tile, int channel_tile, int phase)
      : p_(p),
        row_(static_cast<int>(threadIdx.x) / kChunks),
        chunk_(static_cast<int>(threadIdx.x) % kChunks) {
    int top = p.pad_top, left = p.pad_left;
    if (p.phases > 0) {
      top -= (phase / p.phases + p.pad) / p.phases;
      left -= (phase % p.phases + p.pad) / p.phases;
    }
#pragma unroll
    for (int i = 0; i < kPixelRows; ++i) {
      const int pixel = pixel_tile * Tile::kPixels + row_ + i * kStep;
      int image = 0, y = -kFar, x = -kFar;  // beyond the last pixel: outside of an image
      if (pixel < p.pixels) {
        const int line = p.by_ow.quotient(pixel);
        image = p.by_oh.quotient(line);
        y = (line - image * static_cast<int>(p.by_oh.divisor)) * p.stride - top;
        x = (pixel - line * static_cast<int>(p.by_ow.divisor)) * p.stride - left;
      }
      corner_[i] = static_cast<unsigned>(y + kFar) << 16 | static_cast<unsigned>(x + kFar);
      first_[i] = (image * p.ih + y) * p.iw + x;
    }
    weight_row_ = channel_tile * Tile::kChannels;
    weights_ = p.weights + (static_cast<size_t>(phase) * p.rows + weight_row_ + row_) * p.row_bytes +
               chunk_ * kChunkBytes;
  }

  __device__ __forceinline__ void weights(int block, char* stage) const {
    char* to = stage + Tile::kPixels * kRowBytes + in_shared(row_, chunk_);
    const char* from = weights_ + static_cast<size_t>(block) * kRowBytes;
#pragma unroll
    for (int i = 0; i < kWeightRows; ++i) {
      const bool wanted = weight_row_ + i * kStep < p_.rows;
      copy_async<kChunkBytes>(to + i * kStep * kRowBytes, wanted ? from : p_.weights, wanted);
      from += kStep * p_.row_bytes;
    }
  }

  __device__ __forceinline__ void pixels(int block, char* stage) const {
    char* to = stage + in_shared(row_, chunk_);
#pragma unroll 1
    for (int part = 0; part < kChunkBytes / kCopy; ++part) {
      const int k = (block * kChunks + chunk_) * (kChunkBytes / kNumber) + part * (kCopy / kNumber);
      const int tap = p_.by_ic.quotient(k), channel = k - tap * p_.ic;
      const int ky = p_.by_kw.quotient(tap), kx = tap - ky * p_.kw;
#pragma unroll
      for (int i = 0; i < kPixelRows; ++i) {
        const int y = static_cast<int>(corner_[i] >> 16) - kFar + ky;
        const int x = static_cast<int>(corner_[i] & 0xffff) - kFar + kx;
        bool wanted = ky < p_.kh;
        int pixel = first_[i] + ky * p_.iw + kx;
        if (p_.replicate) {
          pixel += (clamp(y, p_.ih) - y) * p_.iw + clamp(x, p_.iw) - x;
        } else {
          wanted = wanted && static_cast<unsigned>(y) < static_cast<unsigned>(p_.ih) &&
                   static_cast<unsigned>(x) < static_cast<unsigned>(p_.iw);
        }
        const size_t offset = (static_cast<size_t>(pixel) * p_.ic + channel) * kNumber;
        copy(to + i * kStep * kRowBytes + part * kCopy, wanted ? p_.x + offset : p_.x, wanted);
      }
    }
  }

 private:
  static __device__ __forceinline__ int clamp(int at, int size) { return min(max(at, 0), size - 1); }

  static __device__ __forceinline__ void copy(char* to, const char* from, bool wanted) {
    if constexpr (kCopy >= 4) {
      copy_async<kCopy>(to, from, wanted);
    } else {  // too small for cp.async
      *reinterpret_cast<Word<kCopy>*>(to) = wanted ? *reinterpret_cast<const Word<kCopy>*>(from) : 0;
    }
  }

  const Problem& p_;
  int row_, chunk_;
  unsigned corner_[kPixelRows];  // y and x of the first tap
  int first_[kPixelRows];        // its pixel, were it inside
  int weight_row_;               // the tile's first
  const char* weights_;
};

// Stores eight neighbouring channels from `channel` on, as far as there are so many.
template <int kNumber>
__device__ __forceinline__ void store(const Problem& p, size_t pixel, int channel, const float (&sums)[8],
                                      const float (&bias)[8]) {
  float v[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = activate(sums[i] + bias[i], p.act);
  const size_t at = pixel * p.channels + channel;
  const bool whole = channel + 8 <= p.channels;
  if (kNumber == 4 || p.floats) {
    float* y = static_cast<float*>(p.y) + at;
    if (whole && p.channels % 4 == 0) {
      reinterpret_cast<float4*>(y)[0] = make_float4(v[0], v[1], v[2], v[3]);
      reinterpret_cast<float4*>(y)[1] = make_float4(v[4], v[5], v[6], v[7]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (channel + i < p.channels) y[i] = v[i];
    }
    return;
  }
  __half* y = static_cast<__half*>(p.y) + at;
  if (whole && p.channels % 8 == 0) {
    *reinterpret_cast<uint4*>(y) = make_uint4(pack_halves(v[0], v[1]), pack_halves(v[2], v[3]),
                                              pack_halves(v[4], v[5]), pack_halves(v[6], v[7]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (channel + i < p.channels) y[i] = __float2half_rn(v[i]);
  }
}

template <class Tile, int kNumber>
__device__ __forceinline__ void finish(const Problem& p, int pixel_tile, int channel_tile, int phase,
                                       int part, const float (&sums)[Tile::kM][Tile::kN][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first_pixel = pixel_tile * Tile::kPixels + part / Tile::kWarpsN * 16 * Tile::kM + lane / 4;
  const int first_channel =
      channel_tile * Tile::kChannels + part % Tile::kWarpsN * 8 * Tile::kN + lane % 4 * 8;
  const int out_y = p.out_y + (p.phases > 0 ? phase / p.phases : 0);
  const int out_x = p.out_x + (p.phases > 0 ? phase % p.phases : 0);
#pragma unroll
  for (int j = 0; j < Tile::kN / 4; ++j) {
    const int channel = first_channel + j * kGroup;
    float bias[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) bias[i] = channel + i < p.channels ? p.bias[channel + i] : 0.0f;
#pragma unroll
    for (int i = 0; i < 2 * Tile::kM; ++i) {
      const int pixel = first_pixel + 8 * i;
      const int line = p.by_ow.quotient(pixel), image = p.by_oh.quotient(line);
      const int y = out_y + (line - image * static_cast<int>(p.by_oh.divisor)) * p.out_step;
      const int x = out_x + (pixel - line * static_cast<int>(p.by_ow.divisor)) * p.out_step;
      if (pixel >= p.pixels || y >= p.out_h || x >= p.out_w) continue;
      const auto& of = sums[i / 2];
      const int first = i % 2 * 2;
      const float eight[8] = {of[4 * j][first],         of[4 * j][first + 1],    of[4 * j + 1][first],
                              of[4 * j + 1][first + 1], of[4 * j + 2][first],    of[4 * j + 2][first + 1],
                              of[4 * j + 3][first],     of[4 * j + 3][first + 1]};
      store<kNumber>(p, (static_cast<size_t>(image) * p.out_h + y) * p.out_w + x, channel, eight, bias);
    }
  }
}

// Adds the sums of the warps that shared a part's k to those of its first.
template <class Tile>
__device__ __forceinline__ void gather_warps(int warp, float (&sums)[Tile::kSums]) {
  float* const room = reinterpret_cast<float*>(shared_memory());
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto at = [=](int of_warp, int i) { return (of_warp * Tile::kSums + i) * kWarp + lane; };
  if (warp >= Tile::kParts) {
#pragma unroll
    for (int i = 0; i < Tile::kSums; ++i) room[at(warp, i)] = sums[i];
  }
  __syncthreads();
  if (warp >= Tile::kParts) return;
#pragma unroll
  for (int k = 1; k < Tile::kWarpsK; ++k) {
#pragma unroll
    for (int i = 0; i < Tile::kSums; ++i) sums[i] += room[at(warp + k * Tile::kParts, i)];
  }
}

// Leaves the sums of a split in the workspace. True in the block that comes last, with the sums of all.
template <class Tile>
__device__ __forceinline__ bool gather_splits(const Problem& p, int tile, int split, int warp,
                                              float (&sums)[Tile::kSums]) {
  constexpr int kQuads = Tile::kSums / 4, kThreads = Tile::kParts * kWarp;  // of the warps that have sums
  const int thread = static_cast<int>(threadIdx.x);
  float4* const quads = reinterpret_cast<float4*>(p.partial) +
                        static_cast<size_t>(tile) * p.splits * kQuads * kThreads + thread;
  if (warp < Tile::kParts) {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      quads[(static_cast<size_t>(split) * kQuads + i) * kThreads] =
          make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
    }
  }
  __threadfence();  // the sums are there for whoever sees the count
  __syncthreads();
  int* const is_last = reinterpret_cast<int*>(shared_memory());
  if (thread == 0) *is_last = atomicAdd(p.counters + tile, 1u) + 1 == static_cast<unsigned>(p.splits);
  __syncthreads();
  if (*is_last == 0) return false;
  if (thread == 0) p.counters[tile] = 0;
  __threadfence();
  if (warp >= Tile::kParts) return true;
  // As many loads under way as registers allow: a round trip costs more than all that come along.
  constexpr int kAtOnce = kQuads < 16 ? kQuads : 16, kSplitsAtOnce = kQuads < 32 ? 32 / kQuads : 1;
#pragma unroll
  for (int first = 0; first < kQuads; first += kAtOnce) {
#pragma unroll
    for (int i = 4 * first; i < 4 * (first + kAtOnce); ++i) sums[i] = 0.0f;
#pragma unroll 1
    for (int s = 0; s < p.splits; s += kSplitsAtOnce) {
      float4 read[kSplitsAtOnce][kAtOnce];
#pragma unroll
      for (int u = 0; u < kSplitsAtOnce; ++u) {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const size_t at = (static_cast<size_t>(s + u) * kQuads + first + i) * kThreads;
          read[u][i] = s + u < p.splits ? __ldcg(quads + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
      }
#pragma unroll
      for (int u = 0; u < kSplitsAtOnce; ++u) {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          float* const to = sums + 4 * (first + i);
          to[0] += read[u][i].x;
          to[1] += read[u][i].y;
          to[2] += read[u][i].z;
          to[3] += read[u][i].w;
        }
      }
    }
  }
  return true;
}

// Grid: (tiles, channels first; splits; phases).
template <class Math, class Tile, int kCopy>
__global__ void __launch_bounds__(Tile::kThreads) multiply_tiles(const __grid_constant__ Problem p) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, part = warp % Tile::kParts;
  const int tile = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.y);
  const int phase = static_cast<int>(blockIdx.z);
  const int pixel_tile = tile / p.channel_tiles, channel_tile = tile % p.channel_tiles;
  const Copies<Tile, Math::kBytes, kCopy> copies(p, pixel_tile, channel_tile, phase);
  const int begin = static_cast<int>(static_cast<long long>(split) * p.depth / p.splits);
  const int end = static_cast<int>((split + 1ll) * p.depth / p.splits);
  // Weights do not depend on the kernel before. They all belong to the first group of copies.
#pragma unroll 1
  for (int i = 0; i < Tile::kStages - 1; ++i) {
    if (begin + i < end) copies.weights(begin + i, shared_memory() + i * Tile::kStageBytes);
  }
  await_previous_kernel();
  let_next_kernel_start();
#pragma unroll 1
  for (int i = 0; i < Tile::kStages - 1; ++i) {
    if (begin + i < end) copies.pixels(begin + i, shared_memory() + i * Tile::kStageBytes);
    close_copies();
  }

  float sums[Tile::kM][Tile::kN][4] = {};
  const char* const pixels = shared_memory() + part / Tile::kWarpsN * 16 * Tile::kM * kRowBytes;
  const char* const channels =
      shared_memory() + (Tile::kPixels + part % Tile::kWarpsN * 8 * Tile::kN) * kRowBytes;
  constexpr int kLastStage = (Tile::kStages - 1) * Tile::kStageBytes;
  int stage = 0;
  for (int block = begin; block < end; ++block) {
    await_copies<Tile::kStages - 2>();
    __syncthreads();  // all copies of this block are there, and the stage of the one before is free
    const int ahead = block + Tile::kStages - 1;
    if (ahead < end) {
      char* const before = shared_memory() + (stage == 0 ? kLastStage : stage - Tile::kStageBytes);
      copies.weights(ahead, before);
      copies.pixels(ahead, before);
    }
    close_copies();
#pragma unroll 1  // operands of later steps would take the registers that the sums need
    for (int step = 0; step < 4 / Tile::kWarpsK; ++step) {
      Math::add(pixels + stage, channels + stage, step * Tile::kWarpsK + warp / Tile::kParts, sums);
    }
    stage = stage == kLastStage ? 0 : stage + Tile::kStageBytes;
  }

  auto& flat = reinterpret_cast<float (&)[Tile::kSums]>(sums);
  __syncthreads();  // shared memory is free
  if constexpr (Tile::kWarpsK > 1) gather_warps<Tile>(warp, flat);
  if (p.splits > 1 &&
      !gather_splits<Tile>(p, phase * static_cast<int>(gridDim.x) + tile, split, warp, flat)) {
    return;
  }
  if (warp < Tile::kParts) finish<Tile, Math::kBytes>(p, pixel_tile, channel_tile, phase, part, sums);
}

// A matrix times up to kVectors vectors, in float32 whatever the weights are. Nothing is used twice but the
// vectors, so the weights go straight to registers: kLanes threads share kRows rows, and each has
// kRows * kAhead loads of 16 bytes under way, the first of them before the vectors are there.
constexpr int kVectors = 4, kRows = 4, kAhead = 4, kVectorThreads = 128;

__device__ __forceinline__ void unpack(const uint4& chunk, float (&v)[8]) {
  const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_halves(words[i]);
    v[2 * i] = pair.x;
    v[2 * i + 1] = pair.y;
  }
}
__device__ __forceinline__ void unpack(const uint4& chunk, float (&v)[4]) {
  v[0] = __uint_as_float(chunk.x);
  v[1] = __uint_as_float(chunk.y);
  v[2] = __uint_as_float(chunk.z);
  v[3] = __uint_as_float(chunk.w);
}

// Chunk `chunk` of a vector, zeros beyond its end.
template <int kNumber, int kCount>
__device__ __forceinline__ void read_vector(const char* x, int length, int chunk, float (&v)[kCount]) {
  if (length % kCount == 0) {
    const uint4 all = chunk * kCount < length ? reinterpret_cast<const uint4*>(x)[chunk] : uint4{};
    return unpack(all, v);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int at = chunk * kCount + i;
    if constexpr (kNumber == 2) {
      v[i] = at < length ? __half2float(reinterpret_cast<const __half*>(x)[at]) : 0.0f;
    } else {
      v[i] = at < length ? reinterpret_cast<const float*>(x)[at] : 0.0f;
    }
  }
}

template <int kNumber, int kLanes, int kCount>
__global__ void __launch_bounds__(kVectorThreads) multiply_vectors(const __grid_constant__ Problem p) {
  constexpr int kPerChunk = kChunkBytes / kNumber, kShares = kLanes / kWarp;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes;
  const int first_row = (static_cast<int>(blockIdx.x) * (kVectorThreads / kLanes) + thread / kLanes) * kRows;
  const int chunks = (p.ic + kPerChunk - 1) / kPerChunk;
  const uint4* const weights =
      reinterpret_cast<const uint4*>(p.weights + static_cast<size_t>(first_row) * p.row_bytes);
  const size_t row_chunks = p.row_bytes / kChunkBytes;
  float sums[kRows][kCount] = {};
  for (int begin = 0; begin < chunks; begin += kAhead * kLanes) {
    uint4 w[kAhead][kRows];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int chunk = begin + i * kLanes + lane;
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        w[i][r] = chunk < chunks ? __ldcg(weights + r * row_chunks + chunk) : uint4{};
    }
    if (begin == 0) {
      await_previous_kernel();
      let_next_kernel_start();
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      float x[kCount][kPerChunk];
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        const int vector = min(n, p.pixels - 1);  // of those beyond, nothing is stored
        read_vector<kNumber>(p.x + static_cast<size_t>(vector) * p.ic * kNumber, p.ic,
                             begin + i * kLanes + lane, x[n]);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float v[kPerChunk];
        unpack(w[i][r], v);
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
#pragma unroll
          for (int k = 0; k < kPerChunk; ++k) sums[r][n] = fmaf(v[k], x[n][k], sums[r][n]);
        }
      }
    }
  }
  float* const room = reinterpret_cast<float*>(shared_memory());  // [warp][row][vector]
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      float sum = sums[r][n];
#pragma unroll
      for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (thread % kWarp == 0) room[(thread / kWarp * kRows + r) * kCount + n] = sum;
    }
  }
  __syncthreads();
  constexpr int kOfGroup = kRows * kCount;
  if (thread >= kVectorThreads / kLanes * kOfGroup) return;
  const int group = thread / kOfGroup, r = thread % kOfGroup / kCount, n = thread % kCount;
  const int channel =
      packed_channel((static_cast<int>(blockIdx.x) * (kVectorThreads / kLanes) + group) * kRows + r);
  if (channel >= p.channels || n >= p.pixels) return;
  float sum = 0.0f;
  for (int share = 0; share < kShares; ++share) {
    sum += room[((group * kShares + share) * kRows + r) * kCount + n];
  }
  const float v = activate(sum + p.bias[channel], p.act);
  const size_t at = static_cast<size_t>(n) * p.channels + channel;
  if (kNumber == 4 || p.floats) {
    static_cast<float*>(p.y)[at] = v;
  } else {
    static_cast<__half*>(p.y)[at] = __float2half_rn(v);
  }
}

// The layer as both contracts have it, before a plan and pointers are added.
Problem problem(const ConvShape& s) {
  Problem p{};
  p.replicate = s.padding == Padding::kReplicate;
  p.pixels = s.n * s.oh * s.ow;
  p.channels = s.outputs;
  p.ih = s.ih, p.iw = s.iw, p.ic = s.ic;
  p.kh = s.kh, p.kw = s.kw, p.stride = s.stride, p.pad_top = s.pad_top, p.pad_left = s.pad_left;
  p.out_h = s.out_h, p.out_w = s.out_w, p.out_step = s.out_step, p.out_y = s.out_y, p.out_x = s.out_x;
  p.by_ow = Divider(s.ow), p.by_oh = Divider(s.oh);
  p.rows = ceil_div(s.oc, kGroup) * kGroup;
  return p;
}

// Output row stride * q + phase takes the taps ky = phase + pad (mod stride), from input row
// q + (phase + pad - ky) / stride. Every phase gets as many taps as the first could have, the last ones
// first; where the kernel has no such tap, its weight is zero.
Problem problem(const ConvTransposeShape& s) {
  Problem p{};
  p.replicate = s.padding == Padding::kReplicate;
  p.phases = p.out_step = s.stride;
  p.pad = s.pad;
  const int oh = ceil_div(s.oh, s.stride), ow = ceil_div(s.ow, s.stride);
  p.pixels = s.n * oh * ow;
  p.channels = s.oc;
  p.ih = s.ih, p.iw = s.iw, p.ic = s.ic;
  p.kh = ceil_div(s.kh, s.stride), p.kw = ceil_div(s.kw, s.stride), p.stride = 1;
  p.pad_top = p.kh - 1, p.pad_left = p.kw - 1;
  p.out_h = s.oh, p.out_w = s.ow;
  p.by_ow = Divider(ow), p.by_oh = Divider(oh);
  p.rows = ceil_div(s.oc, kGroup) * kGroup;
  return p;
}

int phases(const Problem& p) { return p.phases > 0 ? p.phases * p.phases : 1; }

int number_bytes(Arithmetic a) { return a == Arithmetic::kFloat16 ? 2 : 4; }

void set_depth(Problem& p, Arithmetic a) {
  p.depth = static_cast<int>((static_cast<long long>(p.kh) * p.kw * p.ic * number_bytes(a) + kRowBytes - 1) /
                             kRowBytes);
  p.row_bytes = static_cast<size_t>(p.depth) * kRowBytes;
  p.by_ic = Divider(p.ic), p.by_kw = Divider(p.kw);
}

// Weights (phase, row, k), those that weight(phase, o, tap, i) gives.
template <class Weight>
Bytes pack(Problem p, Arithmetic a, int oc, Weight weight) {
  set_depth(p, a);
  Bytes packed(p.row_bytes * p.rows * phases(p));
  for (int phase = 0; phase < phases(p); ++phase) {
    for (int row = 0; row < p.rows; ++row) {
      const int o = packed_channel(row);
      if (o >= oc) continue;
      std::byte* to = packed.data() + (static_cast<size_t>(phase) * p.rows + row) * p.row_bytes;
      for (int tap = 0; tap < p.kh * p.kw; ++tap) {
        for (int i = 0; i < p.ic; ++i, to += number_bytes(a)) {
          const float value = weight(phase, o, tap, i);
          if (a == Arithmetic::kFloat16) {
            const uint16_t half = to_half(value);
            std::memcpy(to, &half, sizeof half);
            continue;
          }
          const float number = as_factor(value, a);
          std::memcpy(to, &number, sizeof number);
        }
      }
    }
  }
  return packed;
}

// The tiles, from the most products per byte to the fewest pixels:
//
//   tile       products per byte copied (fp16)    shared memory of all stages, KiB
//   256 x 128  43                                 144: one block of eight warps to a multiprocessor
//   128 x 128  32                                 96: two blocks
//   128 x  64  21, no column in vain at 64        72
//    64 x  64  16                                 64: what Turing has
//    32 x  64  11                                 48
//    16 x  32  5, for a 4x4 image or a batch      48
//              of vectors; its warps share k
//
// A Hopper multiprocessor makes 50 products of halves in the time of a byte from the second-level cache (see
// choose), so the more per byte the better. Float32 makes 4 and needs neither of the first two, for which it
// would run out of registers.
using Huge = Tile<256, 128, 64, 64, 1, 3>;
using Large = Tile<128, 128, 64, 64, 1, 3>;
using Narrow = Tile<128, 64, 64, 32, 1, 3>;
using Medium = Tile<64, 64, 32, 32, 1, 4>;
using Small = Tile<32, 64, 32, 32, 2, 4>;
using Few = Tile<16, 32, 16, 32, 4, 8>;

struct Tiling {
  int pixels, channels, stages, threads, sums;
  bool any_channels;  // has kernels for pixels that are not whole chunks
  bool float32;       // and for float32
  size_t stage_bytes() const { return static_cast<size_t>(pixels + channels) * kRowBytes; }
};
template <class T>
constexpr Tiling tiling(bool any_channels, bool float32 = true) {
  return {T::kPixels, T::kChannels, T::kStages, T::kThreads, T::kSums, any_channels, float32};
}
constexpr std::array kTilings = {tiling<Huge>(false, false), tiling<Large>(false, false),
                                 tiling<Narrow>(true),       tiling<Medium>(false),
                                 tiling<Small>(true),        tiling<Few>(false)};

// A plan: a tiling and how often k is split, or the path for a few vectors.
struct Choice {
  int tiling;  // -1: vectors
  int splits;
  long long tiles;
};

// Bytes that a copy of a pixel's channels can have.
int copy_bytes(const Problem& p, Arithmetic a) {
  const int pixel = p.ic * number_bytes(a);
  if (pixel % kChunkBytes == 0) return kChunkBytes;
  return a == Arithmetic::kFloat16 && pixel % 8 == 0 ? 8 : number_bytes(a);
}

// Chosen by what a Hopper multiprocessor can do in a nanosecond, when all are busy: 42 bytes from the
// second-level cache, 2100 products of halves by mma, half as many of TF32, 160 of float32. A step of k costs
// at least 120 ns from barrier to barrier, unless another block fills the gaps; splits cost 1000 ns for the
// fence and the count, and the last block reads all of their sums at 60 bytes/ns. Figures of the makers and
// of published measurements, not our own: they decide between plans, and no result depends on them.
Choice choose(const Problem& p, Arithmetic a, const Device& device) {
  const bool one_pixel = p.ih * p.iw * p.kh * p.kw == 1 && p.out_h * p.out_w == 1;
  if (one_pixel && p.phases == 0 && p.pixels <= kVectors) return {-1, 1, 0};
  const double products_per_ns = a == Arithmetic::kFloat16 ? 2100 : a == Arithmetic::kTf32 ? 1050 : 160;
  Choice best{};
  double best_time = 0;
  for (int t = 0; t < static_cast<int>(kTilings.size()); ++t) {
    const Tiling& tile = kTilings[t];
    if (tile.stages * tile.stage_bytes() > static_cast<size_t>(device.shared_per_block)) continue;
    if (copy_bytes(p, a) < kChunkBytes && !tile.any_channels) continue;
    if (a == Arithmetic::kFloat32 && !tile.float32) continue;
    const long long tiles =
        static_cast<long long>(ceil_div(p.pixels, tile.pixels)) * ceil_div(p.channels, tile.channels);
    const double bytes = static_cast<double>(tile.stage_bytes());
    const double products = static_cast<double>(tile.pixels) * tile.channels * kRowBytes / number_bytes(a);
    const double step = std::max(bytes / 42, products / products_per_ns);
    for (int splits = 1; splits <= std::min(32, p.depth); ++splits) {
      const double blocks = static_cast<double>(tiles) * phases(p) * splits;
      if (splits > 1 && tiles * phases(p) > kMostCounters) break;
      const double rounds = std::ceil(blocks / device.sms), steps = ceil_div(p.depth, splits);
      double time = steps * std::max(step * rounds, 120 * std::ceil(rounds / 2));
      if (splits > 1) time += 1000 + splits * 4.0 * tile.pixels * tile.channels / 60;
      if (best_time == 0 || time < best_time) best = {t, splits, tiles}, best_time = time;
    }
  }
  return best;
}

size_t partial_bytes(const Problem& p, const Choice& c) {
  if (c.splits == 1) return 0;
  return static_cast<size_t>(c.tiles) * phases(p) * c.splits * kTilings[c.tiling].pixels *
         kTilings[c.tiling].channels * sizeof(float);
}

using Kernel = void (*)(Problem);

template <class Math>
Kernel tile_kernel(int tiling, int copy) {
  if (copy == kChunkBytes) {
    if constexpr (!std::is_same_v<Math, Float32>) {
      if (tiling == 0) return multiply_tiles<Math, Huge, 16>;
      if (tiling == 1) return multiply_tiles<Math, Large, 16>;
    }
    const Kernel kernels[] = {multiply_tiles<Math, Narrow, 16>, multiply_tiles<Math, Medium, 16>,
                              multiply_tiles<Math, Small, 16>, multiply_tiles<Math, Few, 16>};
    return kernels[tiling - 2];
  }
  const bool narrow = kTilings[tiling].pixels == Narrow::kPixels;
  if constexpr (Math::kBytes == 2) {
    if (copy == 8) return narrow ? multiply_tiles<Math, Narrow, 8> : multiply_tiles<Math, Small, 8>;
  }
  return narrow ? multiply_tiles<Math, Narrow, Math::kBytes> : multiply_tiles<Math, Small, Math::kBytes>;
}

Kernel tile_kernel(Arithmetic a, int tiling, int copy) {
  if (a == Arithmetic::kFloat16) return tile_kernel<TensorCores<false>>(tiling, copy);
  if (a == Arithmetic::kTf32) return tile_kernel<TensorCores<true>>(tiling, copy);
  return tile_kernel<Float32>(tiling, copy);
}

// As many threads to a row as give each of them kAhead chunks or more.
int vector_lanes(const Problem& p, Arithmetic a) {
  return p.ic * number_bytes(a) / kChunkBytes >= kVectorThreads * kAhead ? kVectorThreads : kWarp;
}

template <int kNumber>
Kernel vector_kernel(int lanes, int vectors) {
  if (lanes == kWarp) {
    return vectors == 1 ? multiply_vectors<kNumber, kWarp, 1> : multiply_vectors<kNumber, kWarp, kVectors>;
  }
  return vectors == 1 ? multiply_vectors<kNumber, kVectorThreads, 1>
                      : multiply_vectors<kNumber, kVectorThreads, kVectors>;
}

int vector_blocks(const Problem& p, Arithmetic a) {
  return ceil_div(p.channels, kGroup) * kGroup / (kVectorThreads / vector_lanes(p, a) * kRows);
}

void run(Problem p, Arithmetic a, const Device& device, const void* x, const void* packed, const Epilogue& e,
         void* y, void* workspace, Stream stream) {
  a = arithmetic_on(device, a);
  set_depth(p, a);
  p.x = static_cast<const char*>(x);
  p.weights = static_cast<const char*>(packed);
  p.y = y;
  p.bias = e.bias;
  p.act = e.act;
  p.floats = e.floats;
  const Choice choice = choose(p, a, device);
  p.splits = choice.splits;
  if (choice.tiling < 0) {
    const auto kernel = number_bytes(a) == 2 ? vector_kernel<2>(vector_lanes(p, a), p.pixels)
                                             : vector_kernel<4>(vector_lanes(p, a), p.pixels);
    const auto blocks = static_cast<unsigned>(vector_blocks(p, a));
    const size_t shared = kVectorThreads / kWarp * kRows * kVectors * sizeof(float);
    return launch(device, kernel, dim3(blocks), kVectorThreads, shared, stream, p);
  }
  p.counters = static_cast<unsigned*>(workspace);
  p.partial = reinterpret_cast<float*>(static_cast<char*>(workspace) + kCounterBytes);
  const Tiling& tile = kTilings[choice.tiling];
  p.channel_tiles = ceil_div(p.channels, tile.channels);
  const dim3 grid(static_cast<unsigned>(choice.tiles), static_cast<unsigned>(choice.splits),
                  static_cast<unsigned>(phases(p)));
  const size_t stages = static_cast<size_t>(std::min(tile.stages, ceil_div(p.depth, choice.splits)));
  const size_t exchange = static_cast<size_t>(tile.threads) * tile.sums * sizeof(float);
  const size_t shared = std::max(stages * tile.stage_bytes(), exchange);
  launch(device, tile_kernel(a, choice.tiling, copy_bytes(p, a)), grid, tile.threads, shared, stream, p);
}

size_t workspace_bytes(Problem p, Arithmetic a, const Device& device) {
  a = arithmetic_on(device, a);
  set_depth(p, a);
  const size_t bytes = partial_bytes(p, choose(p, a, device));
  return bytes == 0 ? 0 : kCounterBytes + bytes;
}

Plan plan(Problem p, Arithmetic a, const Device& device) {
  a = arithmetic_on(device, a);
  set_depth(p, a);
  const Choice c = choose(p, a, device);
  if (c.tiling < 0) return {"matrix times vector", p.pixels, kRows, 1, vector_blocks(p, a)};
  const char* method = a == Arithmetic::kFloat32 ? "fp32" : "tensor cores";
  return {method, kTilings[c.tiling].pixels, kTilings[c.tiling].channels, c.splits,
          static_cast<long>(c.tiles * phases(p) * c.splits)};
}

}  // namespace

Bytes pack_conv(const ConvShape& s, const float* weights, Arithmetic a) {
  const int taps = s.kh * s.kw;
  return pack(problem(s), a, s.oc, [&](int, int o, int tap, int i) {
    return weights[(static_cast<size_t>(o) * s.ic + i) * taps + tap];
  });
}

size_t conv_workspace(const ConvShape& s, Arithmetic a, const Device& device) {
  return workspace_bytes(problem(s), a, device);
}

Plan conv_plan(const ConvShape& s, Arithmetic a, const Device& device) { return plan(problem(s), a, device); }

void conv(const ConvShape& s, Arithmetic a, const Device& device, const void* x, const void* packed,
          const Epilogue& e, void* y, void* workspace, Stream stream) {
  run(problem(s), a, device, x, packed, e, y, workspace, stream);
}

Bytes pack_conv_transpose(const ConvTransposeShape& s, const float* weights, Arithmetic a) {
  const Problem p = problem(s);
  return pack(p, a, s.oc, [&](int phase, int o, int tap, int i) {
    const auto from = [&](int axis_phase, int taps, int at) {
      return (axis_phase + s.pad) % s.stride + (taps - 1 - at) * s.stride;
    };
    const int ky = from(phase / s.stride, p.kh, tap / p.kw), kx = from(phase % s.stride, p.kw, tap % p.kw);
    if (ky >= s.kh || kx >= s.kw) return 0.0f;
    return weights[((static_cast<size_t>(i) * s.oc + o) * s.kh + ky) * s.kw + kx];
  });
}

size_t conv_transpose_workspace(const ConvTransposeShape& s, Arithmetic a, const Device& device) {
  return workspace_bytes(problem(s), a, device);
}

Plan conv_transpose_plan(const ConvTransposeShape& s, Arithmetic a, const Device& device) {
  return plan(problem(s), a, device);
}

void conv_transpose(const ConvTransposeShape& s, Arithmetic a, const Device& device, const void* x,
                    const void* packed, const Epilogue& e, void* y, void* workspace, Stream stream) {
  run(problem(s), a, device, x, packed, e, y, workspace, stream);
}

}  // namespace edgevae::cuda
