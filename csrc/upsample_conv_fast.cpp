// upsample_conv, fast, in one of two ways.
//
// Nine products (nine_products.h): the differences are taken while the pixels are gathered, once per block
// and not once per output channel; the signs and sums of the output transform are applied when the nine
// results leave. Products: 9 per input pixel and channel pair, where the definition has 36.
//
// Columns, where a layer has at most kFew output channels (the last block of a decoder, 64 -> 4): nine
// products would leave most lanes of their panels idle. Turned round, each input pixel is multiplied once
// with everything that any output near it wants of it: four phases, four taps each (those that fall on the
// same pixel merged), 16 columns per output channel, all lanes in use. The outputs are then sums of four
// columns of neighbouring pixels. 64 -> 4 takes 4 vector products per k with 16 lanes, where nine products
// take 9.
#include "nine_products.h"
#include "upsample_conv.h"

namespace edgevae::EDGEVAE_ISA {
namespace {

constexpr int kFew = 4;

bool by_columns(const UpsampleConvShape& s) { return s.oc <= kFew; }

Products products(const UpsampleConvShape& s) {
  return by_columns(s) ? Products(s.n, s.ih * s.iw, 1, s.ic, 16 * s.oc, s.weights)
                       : Products(s.n, s.ih * s.iw, kNine, s.ic, s.oc, s.weights);
}

size_t packed_bytes(const UpsampleConvShape& s) { return products(s).packed_bytes(); }

// The taps of phase (py, px) that fall on the same input pixel, summed: out[phase][ty][tx], over the pixels
// (i - 1 + py + ty, j - 1 + px + tx).
void merge_taps(const float* g, float* out) {
  for (int phase = 0; phase < 4; ++phase) {
    double sums[4] = {};
    for (int ky = 0; ky < 3; ++ky) {
      for (int kx = 0; kx < 3; ++kx) {
        // Tap k of phase p reads upsampled position 2i + p + k - 1, that is pixel i - 1 + (p + k + 1) / 2.
        const int ty = (phase / 2 + ky + 1) / 2 - phase / 2, tx = (phase % 2 + kx + 1) / 2 - phase % 2;
        sums[2 * ty + tx] += g[3 * ky + kx];
      }
    }
    for (int tap = 0; tap < 4; ++tap) out[4 * phase + tap] = static_cast<float>(sums[tap]);
  }
}

void pack(const UpsampleConvShape& s, const float* weights, void* packed) {
  const Products p = products(s);
  __builtin_memset(packed, 0, p.packed_bytes());
  for (int o = 0; o < s.oc; ++o) {
    for (int i = 0; i < s.ic; ++i, weights += 9) {
      float transformed[16];
      if (by_columns(s)) {
        merge_taps(weights, transformed);
        for (int j = 0; j < 16; ++j)
          set_weight(packed, p.weight_index(j * s.oc + o, 0, i), transformed[j], s.weights);
      } else {
        transform_weights(weights, transformed);
        for (int j = 0; j < kNine; ++j)
          set_weight(packed, p.weight_index(o, j, i), transformed[j], s.weights);
      }
    }
  }
}

// Columns are made strip by strip: some rows of an image and one more on either side, which the neighbouring
// strip makes again.
struct Strips {
  static constexpr int kFloats = 96 * 1024;  // of columns, 384 KiB
  static constexpr int kRows = 4;            // at least, or the rows made twice would cost too much

  int columns, strips, rows;  // floats of columns per pixel, strips per image, rows in the largest

  Strips(const UpsampleConvShape& s, int threads) {
    const Products p = products(s);
    columns = p.panels() * p.width();
    const int fit = max_of(kRows, kFloats / (s.iw * columns) - 2);
    strips = max_of(ceil_div(s.ih, fit), min_of(ceil_div(2 * threads, s.n), s.ih / kRows));
    rows = ceil_div(s.ih, strips);
  }
  size_t floats(const UpsampleConvShape& s) const { return static_cast<size_t>(rows + 2) * s.iw * columns; }
};

size_t scratch(const UpsampleConvShape& s) {
  const Products p = products(s);
  if (!by_columns(s)) return scratch_floats(p);
  return Strips(s, 1).floats(s) + p.tile_pixels() * p.depth + tile_sums(p);
}

// Columns of pixels [first, last) of x, pixel by pixel.
void make_columns(const Products& p, const UpsampleConvShape& s, const float* x, const void* packed,
                  int pixels, float* gathered, float* sums, float* out) {
  const Tiling tiling(pixels, p.tile_pixels());
  const int columns = p.panels() * p.width();
  for (int t = 0; t < tiling.tiles; ++t) {
    const int size = tiling.size(t);
    for (int i = 0; i < size; ++i) {
      float* at = gathered + i * kDepth;
      put(at, size, 0, x + static_cast<size_t>(tiling.begin(t) + i) * s.ic, s.ic);
      put(at, size, s.ic, nullptr, p.depth - s.ic);
    }
    const auto multiply = tile_for(size, p.vectors, p.type);
    for (int panel = 0; panel < p.panels(); ++panel) {
      const char* weights =
          static_cast<const char*>(packed) + panel * p.panel_weights() * weight_bytes(p.type);
      multiply({p.depth / kDepth, true, weights, 0}, gathered, weights, sums);
      for (int i = 0; i < size; ++i) {
        __builtin_memcpy(out + static_cast<size_t>(tiling.begin(t) + i) * columns + panel * p.width(),
                         sums + i * p.width(), p.width() * sizeof(float));
      }
    }
  }
}

// The four outputs over the pixels of one row. rows[0..2] are the columns of the rows above, of it and below;
// null reads zero.
template <int OC>
void finish_row(const UpsampleConvShape& s, const float* const* rows, int columns, const float* bias,
                Activation act, float* y) {
  float* below = y + static_cast<size_t>(2) * s.iw * OC;
  for (int j = 0; j < s.iw; ++j) {
    float patch[round_to_lanes(4 * OC)] = {};
    for (int phase = 0; phase < 4; ++phase) {
      float* to = patch + phase * OC;
      for (int o = 0; o < OC; ++o) to[o] = bias[o];
      for (int tap = 0; tap < 4; ++tap) {
        const float* row = rows[phase / 2 + tap / 2];
        int column = j - 1 + phase % 2 + tap % 2;
        if (column < 0 || column >= s.iw) {
          if (s.padding == Padding::kZeros) continue;
          column = j;
        }
        if (row == nullptr) continue;
        const float* from = row + static_cast<size_t>(column) * columns + (4 * phase + tap) * OC;
        for (int o = 0; o < OC; ++o) to[o] += from[o];
      }
    }
    for (int i = 0; i < 4 * OC; i += kLanes) store(patch + i, activate(load(patch + i), act));
    __builtin_memcpy(y + static_cast<size_t>(2) * j * OC, patch, 2 * OC * sizeof(float));
    __builtin_memcpy(below + static_cast<size_t>(2) * j * OC, patch + 2 * OC, 2 * OC * sizeof(float));
  }
}

void run_columns(const UpsampleConvShape& s, const float* x, const void* packed, const float* bias,
                 Activation act, float* y, Scratch scratch, Pool& pool) {
  const Products p = products(s);
  const Strips strips(s, pool_threads(pool));
  constexpr decltype(&finish_row<1>) finishes[kFew] = {finish_row<1>, finish_row<2>, finish_row<3>,
                                                       finish_row<4>};
  parallel_for(pool, s.n * strips.strips, [&](int task, int thread) {
    float* gathered = scratch.base + static_cast<size_t>(thread) * scratch.per_thread;
    float* sums = gathered + p.tile_pixels() * p.depth;
    float* columns = sums + tile_sums(p);
    const int image = task / strips.strips, strip = task % strips.strips;
    const int begin = strip * s.ih / strips.strips, end = (strip + 1) * s.ih / strips.strips;
    const int first = max_of(0, begin - 1), last = min_of(s.ih, end + 1);
    const float* from = x + (static_cast<size_t>(image) * s.ih + first) * s.iw * s.ic;
    make_columns(p, s, from, packed, (last - first) * s.iw, gathered, sums, columns);
    for (int row = begin; row < end; ++row) {
      const float* rows[3];
      for (int d = 0; d < 3; ++d) {
        int near = row + d - 1;
        const bool inside = near >= 0 && near < s.ih;
        if (!inside) near = row;
        rows[d] = inside || s.padding == Padding::kReplicate
                      ? columns + static_cast<size_t>(near - first) * s.iw * strips.columns
                      : nullptr;
      }
      finishes[s.oc - 1](s, rows, strips.columns, bias, act,
                         y + (static_cast<size_t>(image) * s.ih + row) * 4 * s.iw * s.oc);
    }
  });
}

void run(const UpsampleConvShape& s, const float* x, const void* packed, const float* bias, Activation act,
         float* y, Scratch scratch, Pool& pool) {
  if (by_columns(s)) return run_columns(s, x, packed, bias, act, y, scratch, pool);
  const Products p = products(s);
  const auto gather = [&](int first, int size, float* at) {
    const size_t row = static_cast<size_t>(size) * kDepth, apart = static_cast<size_t>(size) * p.depth;
    Position pixel(first, s.ih, s.iw);
    for (int i = 0; i < size; ++i, pixel.next(s.ih, s.iw), at += kDepth) {
      const float* image = x + static_cast<size_t>(pixel.image) * s.ih * s.iw * s.ic;
      gather_nine(Neighbours(image, s.ih, s.iw, s.ic, s.padding, pixel.y - 1, pixel.x - 1, 1), s.ic, apart,
                  row, at);
    }
  };
  const auto finish = [&](int first, int size, int o, const float* sums) {
    Position pixel(first, s.ih, s.iw);
    for (int i = 0; i < size; ++i, pixel.next(s.ih, s.iw), sums += p.width()) {
      const size_t row = 2 * (static_cast<size_t>(pixel.image) * s.ih + pixel.y);
      finish_nine(sums, size * p.width(), bias + o, s.oc - o, p.vectors, act, 2 * s.iw, s.oc,
                  y + (row * 2 * s.iw + 2 * pixel.x) * s.oc + o);
    }
  };
  run_products(p, s.oc, packed, scratch, pool, gather, finish);
}

}  // namespace

extern const UpsampleConvKernel upsample_conv;
const UpsampleConvKernel upsample_conv = {packed_bytes, pack, scratch, run};

}  // namespace edgevae::EDGEVAE_ISA
