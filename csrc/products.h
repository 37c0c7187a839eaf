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

// k of a chunk of two vectors at most: with AVX-512, 24 KiB.
inline constexpr int kChunk = 192;

// `count` matrix products over the same pixels and output channels, k in units of 32 bits (a float, or a
// quad). A run of k is some parts (taps, parities) of as many units each, every part in rows of kDepth of its
// own. Weights lie as [panel][product][run][run_depth][width of the panel], gathered tiles as rows of kDepth
// units, each row for all pixels of the tile. Product j meets in its run r the gathered units from
// offsets[j][r] on.
struct Products {
  static constexpr int kMost = 9;

  int pixels, count, channels;
  int runs, run_depth;  // run_depth is a multiple of kDepth
  int gathered;         // units per pixel
  int offsets[kMost][2];
  int vectors;  // per panel; the last may have fewer
  Rows rows;    // a run is made of
  WeightType type;

  // One product of `parts` times `part` units, or as many as nine that each have as many units of their own.
  // Of the pixels, those of one image shape the packing, the number of images does not.
  Products(int images, int image_pixels, int count_, int part, int parts, int channels_, WeightType type_)
      : pixels(images * image_pixels),
        count(count_),
        channels(channels_),
        runs(1),
        run_depth(parts * round_up(part, kDepth)),
        gathered(count_ * run_depth),
        vectors(most_vectors(image_pixels, channels_)),
        rows(rows_of(part)),
        type(type_) {
    for (int j = 0; j < count; ++j) offsets[j][0] = j * run_depth;
  }

  // Two vectors feed each pixel's broadcast to two products. One where there are no more channels, and where
  // an image is one tall tile: then each weight is read once, in one stream that the memory keeps up with,
  // instead of a first tile that waits for it and a second that finds it there.
  static int most_vectors(int image_pixels, int channels) {
    const bool one_tile = image_pixels > kTilePixels && image_pixels <= most_pixels(1);
    return channels <= kLanes || one_tile ? 1 : 2;
  }

  // A part that is longer than a chunk would gain little, and chunks end where parts do.
  static Rows rows_of(int part) {
    const int units = round_up(part, kStep);
    return units % kDepth == 0 || round_up(part, kDepth) > kChunk ? Rows{1, 0}
                                                                  : Rows{units / kDepth, units % kDepth};
  }

  int tile_pixels() const { return most_pixels(vectors); }
  int width() const { return vectors * kLanes; }
  int panels() const { return ceil_div(channels, width()); }
  int panel_vectors(int panel) const { return min_of(vectors, ceil_div(channels - panel * width(), kLanes)); }
  int panel_width(int panel) const { return panel_vectors(panel) * kLanes; }
  int depth() const { return runs * run_depth; }
  size_t tile_sums() const { return static_cast<size_t>(count) * tile_pixels() * width(); }
  size_t panel_weights() const { return static_cast<size_t>(count) * depth() * width(); }
  size_t all_weights() const {
    return (panels() - 1) * panel_weights() +
           static_cast<size_t>(count) * depth() * panel_width(panels() - 1);
  }

  const char* panel(const void* packed, int panel) const {
    return static_cast<const char*>(packed) + panel * panel_weights() * weight_bytes(type);
  }
  // Of quads: what the zero of the input adds to each sum of a panel, [product][width of the panel], behind
  // all weights.
  const int32_t* zero_sums(const void* packed, int panel) const {
    const char* behind = static_cast<const char*>(packed) + all_weights() * weight_bytes(type);
    return reinterpret_cast<const int32_t*>(behind) + panel * count * width();
  }
  size_t packed_bytes() const {
    // A vector of zero sums may begin anywhere.
    const size_t sums = static_cast<size_t>(panels()) * count * width() + kLanes;
    return all_weights() * weight_bytes(type) + (type == WeightType::kQuads ? sums * sizeof(int32_t) : 0);
  }

  // Where the weights of one output channel go.
  struct Channel {
    void* packed;
    size_t first;  // weight
    int lanes, depth;
    int32_t* sums;  // of quads
    WeightType type;

    // The weight of product j, unit k, and byte `part` of it where units are quads.
    void set(int j, int k, int part, float value, int input_zero) const {
      const size_t index = first + (static_cast<size_t>(j) * depth + k) * lanes;
      if (type != WeightType::kQuads) return set_weight(packed, index, value, type);
      set_weight(packed, 4 * index + part, value, type);
      sums[j * lanes] += (input_zero - kQuadShift) * static_cast<int32_t>(value);
    }
  };
  Channel channel(void* packed, int o) const {
    const int panel = o / width(), lane = o % width();
    int32_t* sums = nullptr;
    if (type == WeightType::kQuads) sums = const_cast<int32_t*>(zero_sums(packed, panel)) + lane;
    return {packed, panel * panel_weights() + lane, panel_width(panel), depth(), sums, type};
  }
};

// Where a pixel lies in a batch of (h, w) images.
struct Position {
  int image, y, x;
};

// Calls body(position, i, count) for each row that the pixels [first, first + size) of (h, w) images touch:
// `count` neighbours from `position` on, the i-th and so on of them all.
template <class Body>
void each_row(int first, int size, int h, int w, Body body) {
  Position at{first / (h * w), first / w % h, first % w};
  for (int i = 0; i < size;) {
    const int count = min_of(size - i, w - at.x);
    body(at, i, count);
    i += count;
    at.x = 0;
    if (++at.y == h) {
      at.y = 0;
      ++at.image;
    }
  }
}

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
  static constexpr int kFirstLevelFloats = 4 * 1024;  // 16 KiB
  static constexpr int kFewWeights = 16 * 1024;       // 64 KiB
  static constexpr int kBlockTiles = 8;

  Tiling tiling;
  int panels, blocks, groups;

  // `channels` of the output are wanted.
  Split(const Products& p, int channels, int threads)
      : tiling(p.pixels, p.tile_pixels()), panels(ceil_div(channels, p.width())) {
    blocks = ceil_div(tiling.tiles, most_tiles(p));
    const int tasks_wanted = threads == 1 ? 1 : 4 * threads;
    blocks = max_of(blocks, min_of(tasks_wanted, tiling.tiles / kBlockTiles));
    groups = min_of(panels, ceil_div(tasks_wanted, blocks));
  }
  int tasks() const { return blocks * groups; }
  int tile_begin(int block) const { return part(tiling.tiles, block, blocks); }
  int panel_begin(int group) const { return part(panels, group, groups); }

  // Of a block, as far as the caches are concerned; blocks are as even as can be and may be smaller. Where
  // reading all weights once per tile costs less than what is gathered and leaves the first-level cache, the
  // block stays there.
  static int most_tiles(const Products& p) {
    const bool few = p.all_weights() <= kFewWeights;
    return max_of(1, (few ? kFirstLevelFloats : kGatheredFloats) / (p.gathered * p.tile_pixels()));
  }

 private:
  static int part(int whole, int i, int parts) {
    return static_cast<int>(static_cast<long>(i) * whole / parts);
  }
};

// Floats of the sums that are in the making: with AVX-512, 64 KiB.
inline constexpr int kSums = 16 * 1024;

// Scratch of a thread: which block is gathered (a cache line, so that the rest stays aligned), sums, pixels.
inline constexpr int kBlockHeader = 16;

// k of a chunk: whole parts, as even as can be.
static inline int chunk_depth(const Products& p) {
  const int part = p.rows.all() * kDepth, parts = p.run_depth / part;
  return ceil_div(parts, ceil_div(parts, kChunk / part)) * part;
}

// What is added up of `depth` k, which are whole parts.
static inline Run run_of(const Products& p, int depth, bool first, const char* ahead, int stride) {
  const int rows = depth / kDepth;
  if (p.rows.last == 0) return {1, {rows, 0}, first, ahead, stride};
  return {rows / p.rows.all(), p.rows, first, ahead, stride};
}

// Tiles that are multiplied with a chunk in turn.
static inline int swept_tiles(const Products& p) {
  if (p.count * p.depth() <= kChunk) return 1;  // nothing is gained: the chunk stays anyway
  return max_of(1, kSums / static_cast<int>(p.tile_sums()));
}

static inline size_t scratch_floats(const Products& p) {
  const int tiles = min_of(Tiling(p.pixels, p.tile_pixels()).tiles, Split::most_tiles(p));
  return kBlockHeader + swept_tiles(p) * p.tile_sums() +
         static_cast<size_t>(tiles) * p.tile_pixels() * p.gathered;
}

// Multiplies a panel with tiles [begin, end), whose sums follow each other tile_sums() apart.
static inline void sweep(const Products& p, const Tiling& tiling, const float* gathered, int first_pixel,
                         const void* packed, int panel, int begin, int end, bool prefetch, float* sums) {
  const char* weights = p.panel(packed, panel);
  const int vectors = p.panel_vectors(panel), width = vectors * kLanes;
  const size_t per_k = width * weight_bytes(p.type);
  const int stride = prefetch ? ceil_div(static_cast<int>(per_k), end - begin) : 0;
  const int chunk = chunk_depth(p);
  for (int product = 0; product < p.count; ++product) {
    for (int run = 0; run < p.runs; ++run) {
      for (int k = 0; k < p.run_depth; k += chunk) {
        const int depth = min_of(chunk, p.run_depth - k);
        const size_t bytes = depth * per_k;
        const char* ahead = prefetch ? weights + bytes : weights;
        for (int t = begin; t < end; ++t, ahead += static_cast<size_t>(stride) * depth) {
          const int size = tiling.size(t);
          const float* pixels = gathered + static_cast<size_t>(tiling.begin(t) - first_pixel) * p.gathered +
                                static_cast<size_t>(p.offsets[product][run] + k) * size;
          tile_for(size, vectors, p.type, p.rows)(
              run_of(p, depth, run == 0 && k == 0, ahead, stride), pixels, weights,
              sums + (t - begin) * p.tile_sums() + static_cast<size_t>(product) * size * width);
        }
        weights += bytes;
      }
    }
  }
}

// Turns gathered uint8 into the signed bytes that a dot product wants.
static inline void shift_quads(float* gathered, size_t count) {
  if (kQuadShift == 0) return;
  for (size_t i = 0; i < count; ++i) {
    uint32_t quad;
    __builtin_memcpy(&quad, gathered + i, sizeof quad);
    quad ^= 0x80808080u;
    __builtin_memcpy(gathered + i, &quad, sizeof quad);
  }
}

// Sums of kLanes channels: floats as they are, integers less what the input's zero added to them.
static inline vf finished(const float* sums, const int32_t* zero_sums, WeightType type) {
  if (type != WeightType::kQuads) return load(sums);
  return __builtin_convertvector(load_integers(sums) - load_integers(zero_sums), vf);
}

// Runs a layer, as far as `channels` of its output are wanted.
//   gather(first, size, at)              packs the pixels [first, first + size) as one tile to `at`;
//   finish(first, size, panel, sums)     takes what came out of them: [product][size][width of the panel].
template <class Gather, class Finish>
void run_products(const Products& p, int channels, const void* packed, Scratch scratch, Pool& pool,
                  Gather gather, Finish finish) {
  const Split split(p, channels, pool_threads(pool));
  const Tiling& tiling = split.tiling;
  const int swept = swept_tiles(p);
  for (int t = 0; t < pool_threads(pool); ++t) scratch.base[t * scratch.per_thread] = -1.0f;
  parallel_for(pool, split.tasks(), [&](int task, int thread) {
    float* header = scratch.base + static_cast<size_t>(thread) * scratch.per_thread;
    float* sums = header + kBlockHeader;
    float* gathered = sums + swept * p.tile_sums();
    const int block = task / split.groups, group = task % split.groups;
    const int first = split.tile_begin(block), last = split.tile_begin(block + 1);
    const int first_pixel = tiling.begin(first);
    if (*header != static_cast<float>(block)) {
      for (int t = first; t < last; ++t) {
        float* at = gathered + static_cast<size_t>(tiling.begin(t) - first_pixel) * p.gathered;
        gather(tiling.begin(t), tiling.size(t), at);
        if (p.type == WeightType::kQuads) shift_quads(at, static_cast<size_t>(tiling.size(t)) * p.gathered);
      }
      *header = static_cast<float>(block);
    }
    for (int panel = split.panel_begin(group); panel < split.panel_begin(group + 1); ++panel) {
      for (int begin = first; begin < last; begin += swept) {
        const int end = min_of(last, begin + swept);
        sweep(p, tiling, gathered, first_pixel, packed, panel, begin, end, begin == first, sums);
        for (int t = begin; t < end; ++t) {
          finish(tiling.begin(t), tiling.size(t), panel, sums + (t - begin) * p.tile_sums());
        }
      }
    }
  });
}

}  // namespace edgevae::EDGEVAE_ISA
