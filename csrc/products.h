// A layer as matrix products: which pixels and panels a thread takes, and in which order it multiplies them.
//
// A block of pixels is gathered once, into the second-level cache, and meets every panel of weights there.
// Of a panel, one chunk at a time (of one product: a run of k that fits the first-level cache) is multiplied
// with all tiles of the block, while the next chunk is on its way from memory. So a weight travels from
// memory once per block, and pixels once per chunk of weights from the second-level cache.
#pragma once

#include "threads.h"
#include "tile.h"

namespace edgevae::EDGEVAE_ISA {

// `products` matrix products over the same pixels and channels (1, or the 9 of nine_products.h).
// Weights lie as [panel][product][depth][vectors * kLanes], gathered tiles as [product][depth / 16][P][16].
struct Products {
  int pixels, products;
  int depth;     // k of one product, a multiple of kDepth
  int channels;  // of the output
  int vectors;   // per panel
  WeightType type;

  // `images` of `image_pixels` each; only the latter shapes the packing.
  Products(int images, int image_pixels, int products_, int k, int channels_, WeightType type_)
      : pixels(images * image_pixels),
        products(products_),
        depth(round_up(k, kDepth)),
        channels(channels_),
        vectors(panel_vectors(image_pixels, channels_)),
        type(type_) {}

  // Two vectors feed each pixel's broadcast to two products. One where there are no more channels, and where
  // an image is one tall tile: then each weight is read once, in one stream that the memory keeps up with,
  // instead of a first tile that waits for it and a second that finds it there.
  static int panel_vectors(int image_pixels, int channels) {
    const bool one_tile = image_pixels > kTilePixels && image_pixels <= most_pixels(1);
    return channels <= kLanes || one_tile ? 1 : 2;
  }
  int tile_pixels() const { return most_pixels(vectors); }
  int width() const { return vectors * kLanes; }
  int panels() const { return ceil_div(channels, width()); }
  size_t gathered_floats() const { return static_cast<size_t>(products) * depth; }  // of a pixel
  size_t panel_weights() const { return gathered_floats() * width(); }
  size_t packed_bytes() const { return panels() * panel_weights() * weight_bytes(type); }
  // Where the weight of channel o at (product, k) lies.
  size_t weight_index(int o, int product, int k) const {
    return o / width() * panel_weights() + (static_cast<size_t>(product) * depth + k) * width() + o % width();
  }
};

// Where a pixel lies in a batch of (h, w) images. Divisions cost as much as the gathering itself, so a tile
// divides once and walks.
struct Position {
  int image, y, x;

  Position(int pixel, int h, int w) : image(pixel / (h * w)), y(pixel / w % h), x(pixel % w) {}
  void next(int h, int w) {
    if (++x < w) return;
    x = 0;
    if (++y < h) return;
    y = 0;
    ++image;
  }
};

// `pixels` cut into the fewest tiles of at most `most`, as even as can be.
struct Tiling {
  int tiles, base, longer;  // the first `longer` tiles have base + 1 pixels

  Tiling(int pixels, int most)
      : tiles(ceil_div(pixels, most)), base(pixels / tiles), longer(pixels % tiles) {}
  int size(int t) const { return base + (t < longer); }
  int begin(int t) const { return t * base + min_of(t, longer); }
};

// How a layer is shared out: blocks of tiles times groups of panels. More blocks than the cache asks for, and
// groups, are taken only to give every thread a few tasks; a block then keeps at least kBlockTiles tiles,
// since each block reads the weights anew.
struct Split {
  static constexpr int kGatheredFloats = 192 * 1024;  // 768 KiB
  static constexpr int kBlockTiles = 8;

  Tiling tiling;
  int panels, blocks, groups;

  Split(const Products& p, int threads) : tiling(p.pixels, p.tile_pixels()), panels(p.panels()) {
    const size_t tile_floats = p.gathered_floats() * p.tile_pixels();
    blocks = ceil_div(tiling.tiles, max_of(1, static_cast<int>(kGatheredFloats / tile_floats)));
    const int tasks_wanted = threads == 1 ? 1 : 4 * threads;
    blocks = max_of(blocks, min_of(tasks_wanted, tiling.tiles / kBlockTiles));
    groups = min_of(panels, ceil_div(tasks_wanted, blocks));
  }
  int tasks() const { return blocks * groups; }
  int tile_begin(int block) const { return part(tiling.tiles, block, blocks); }
  int panel_begin(int group) const { return part(panels, group, groups); }
  int largest_block() const { return ceil_div(tiling.tiles, blocks); }

 private:
  static int part(int whole, int i, int parts) {
    return static_cast<int>(static_cast<long>(i) * whole / parts);
  }
};

// k of a chunk and floats of the sums that are in the making: with AVX-512, 24 KiB and 64 KiB.
inline constexpr int kChunk = 192;
inline constexpr int kSums = 16 * 1024;

// Scratch of a thread: which block is gathered (a cache line, so that the rest stays aligned), sums, pixels.
inline constexpr int kBlockHeader = 16;

// Floats of the sums of one tile.
static inline size_t tile_sums(const Products& p) {
  return static_cast<size_t>(p.products) * p.tile_pixels() * p.width();
}

// Tiles that are multiplied with a chunk in turn.
static inline int swept_tiles(const Products& p) {
  if (p.products * p.depth <= kChunk) return 1;  // nothing is gained: the chunk stays anyway
  return max_of(1, kSums / static_cast<int>(tile_sums(p)));
}

static inline size_t scratch_floats(const Products& p) {
  const Split split(p, 1);
  return kBlockHeader + swept_tiles(p) * tile_sums(p) +
         split.largest_block() * p.tile_pixels() * p.gathered_floats();
}

// Multiplies a panel with tiles [begin, end), whose sums follow each other tile_sums(p) apart.
static inline void sweep(const Products& p, const Tiling& tiling, const float* gathered, int first_pixel,
                         const char* weights, int begin, int end, bool prefetch, float* sums) {
  for (int product = 0; product < p.products; ++product) {
    for (int k = 0; k < p.depth; k += kChunk) {
      const int blocks = min_of(kChunk, p.depth - k) / kDepth;
      const size_t bytes = static_cast<size_t>(blocks) * kDepth * p.width() * weight_bytes(p.type);
      const int per_k = static_cast<int>(p.width() * weight_bytes(p.type));
      const int stride = prefetch ? ceil_div(per_k, end - begin) : 0;
      const char* ahead = prefetch ? weights + bytes : weights;
      for (int t = begin; t < end; ++t, ahead += static_cast<size_t>(stride) * blocks * kDepth) {
        const int size = tiling.size(t);
        const float* pixels = gathered + (tiling.begin(t) - first_pixel) * p.gathered_floats() +
                              (static_cast<size_t>(product) * p.depth + k) * size;
        tile_for(size, p.vectors, p.type)(
            {blocks, k == 0, ahead, stride}, pixels, weights,
            sums + (t - begin) * tile_sums(p) + static_cast<size_t>(product) * size * p.width());
      }
      weights += bytes;
    }
  }
}

// Runs a layer.
//   gather(first, size, at)                  packs the pixels [first, first + size) as one tile to `at`;
//   finish(first, size, channel, sums)       takes what came out of them and the panel from `channel` on:
//                                            sums are [product][size][width].
template <class Gather, class Finish>
void run_products(const Products& p, int channels_wanted, const void* packed, Scratch scratch, Pool& pool,
                  Gather gather, Finish finish) {
  Products wanted = p;
  wanted.channels = channels_wanted;
  wanted.vectors = p.vectors;
  const Split split(wanted, pool_threads(pool));
  const Tiling& tiling = split.tiling;
  for (int t = 0; t < pool_threads(pool); ++t) scratch.base[t * scratch.per_thread] = -1.0f;
  parallel_for(pool, split.tasks(), [&](int task, int thread) {
    float* header = scratch.base + static_cast<size_t>(thread) * scratch.per_thread;
    float* sums = header + kBlockHeader;
    float* gathered = sums + swept_tiles(p) * tile_sums(p);
    const int block = task / split.groups, group = task % split.groups;
    const int first = split.tile_begin(block), last = split.tile_begin(block + 1);
    const int first_pixel = tiling.begin(first);
    if (*header != static_cast<float>(block)) {
      for (int t = first; t < last; ++t) {
        gather(tiling.begin(t), tiling.size(t),
               gathered + (tiling.begin(t) - first_pixel) * p.gathered_floats());
      }
      *header = static_cast<float>(block);
    }
    for (int panel = split.panel_begin(group); panel < split.panel_begin(group + 1); ++panel) {
      const char* weights =
          static_cast<const char*>(packed) + panel * p.panel_weights() * weight_bytes(p.type);
      for (int begin = first; begin < last; begin += swept_tiles(p)) {
        const int end = min_of(last, begin + swept_tiles(p));
        sweep(p, tiling, gathered, first_pixel, weights, begin, end, begin == first, sums);
        for (int t = begin; t < end; ++t) {
          finish(tiling.begin(t), tiling.size(t), panel * p.width(), sums + (t - begin) * tile_sums(p));
        }
      }
    }
  });
}

}  // namespace edgevae::EDGEVAE_ISA
