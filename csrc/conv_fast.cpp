// conv, fast: an implicit matrix product. The taps under a few output pixels are gathered into the second
// level cache once and multiplied with every panel of weights; nothing is stored between gathering and
// the activated output.
//
// Products: exactly those of the definition. Bytes: each weight is read once per block of pixels, so a
// layer with few pixels (4x4 maps, linear) runs at the speed of memory, the others at that of the
// multipliers.
#include "conv.h"

#include "tile.h"

namespace edgevae::EDGEVAE_ISA {
namespace {

struct Layout {
  int depth;    // taps x channels, rounded up to whole packed rows
  int vectors;  // per panel
  int width;    // channels per panel
  int panels;

  explicit Layout(const ConvShape& s)
      : depth(round_up(s.kh * s.kw * s.ic, kDepth)),
        vectors(panel_vectors(s.oc)),
        width(vectors * kLanes),
        panels(ceil_div(s.oc, width)) {}
};

size_t packed_bytes(const ConvShape& s) {
  const Layout l(s);
  return static_cast<size_t>(l.panels) * l.depth * l.width * weight_bytes(s.weights);
}

// (oc, ic, kh, kw) to [panel][ky][kx][ic][lane], zeros where a panel or the depth is not full.
void pack(const ConvShape& s, const float* weights, void* packed) {
  const Layout l(s);
  size_t index = 0;
  for (int panel = 0; panel < l.panels; ++panel) {
    for (int k = 0; k < l.depth; ++k) {
      const int i = k % s.ic, tap = k / s.ic;
      for (int lane = 0; lane < l.width; ++lane) {
        const int o = panel * l.width + lane;
        const bool exists = o < s.oc && tap < s.kh * s.kw;
        const float w = exists ? weights[(static_cast<size_t>(o) * s.ic + i) * s.kh * s.kw + tap] : 0.0f;
        set_weight(packed, index++, w, s.weights);
      }
    }
  }
}

size_t scratch_floats(const ConvShape& s) {
  const Layout l(s);
  return tile_scratch_floats(Split(s.n * s.oh * s.ow, l.depth, l.panels, 1), l.depth, kSums);
}

struct Pixel {
  int b, y, x;

  Pixel(const ConvShape& s, int index) : b(index / (s.oh * s.ow)), y(index / s.ow % s.oh), x(index % s.ow) {}
};

// Gathers the taps of one output pixel.
void gather(const ConvShape& s, const float* image, int index, int depth, int tile_pixels, float* at) {
  const Pixel pixel(s, index);
  image += static_cast<size_t>(pixel.b) * s.ih * s.iw * s.ic;
  const int y0 = pixel.y * s.stride - s.pad_top, x0 = pixel.x * s.stride - s.pad_left;
  const bool columns_inside = x0 >= 0 && x0 + s.kw <= s.iw;
  int k = 0;
  for (int ky = 0; ky < s.kh; ++ky) {
    int y = y0 + ky;
    const bool row_inside = y >= 0 && y < s.ih;
    if (!row_inside && s.padding == Padding::kReplicate) y = y < 0 ? 0 : s.ih - 1;
    const bool row_zero = !row_inside && s.padding == Padding::kZeros;
    const float* row = row_zero ? nullptr : image + static_cast<size_t>(y) * s.iw * s.ic;
    if (row_zero || columns_inside) {  // the taps of a kernel row are neighbours in memory
      put(at, tile_pixels, k, row_zero ? nullptr : row + static_cast<ptrdiff_t>(x0) * s.ic, s.kw * s.ic);
      k += s.kw * s.ic;
      continue;
    }
    for (int kx = 0; kx < s.kw; ++kx, k += s.ic) {
      int x = x0 + kx;
      const bool inside = x >= 0 && x < s.iw;
      if (!inside && s.padding == Padding::kReplicate) x = x < 0 ? 0 : s.iw - 1;
      const bool zero = !inside && s.padding == Padding::kZeros;
      put(at, tile_pixels, k, zero ? nullptr : row + static_cast<ptrdiff_t>(x) * s.ic, s.ic);
    }
  }
  put(at, tile_pixels, k, nullptr, depth - k);
}

// Spreads `count` channels from channel o on over the 2x2 patch at `pixel`.
void shuffle(const ConvShape& s, const float* values, int o, int count, size_t pixel, float* y) {
  const int channels = s.oc / 4;
  for (int i = 0; i < count; ++i) {
    const int group = (o + i) / channels;
    const size_t at = pixel + static_cast<size_t>(group / 2) * s.out_w + group % 2;
    y[at * channels + (o + i) % channels] = values[i];
  }
}

void run(const ConvShape& s, const float* x, const void* packed, const float* bias, Activation act, float* y,
         Scratch scratch, Pool& pool) {
  const Layout l(s);
  const Split split(s.n * s.oh * s.ow, l.depth, ceil_div(s.outputs, l.width), pool_threads(pool));
  const auto gather_tile = [&](int first, int size, float* at) {
    for (int p = 0; p < size; ++p) gather(s, x, first + p, l.depth, size, at + p * kDepth);
  };
  const auto multiply = [&](int panel, int first, int size, const float* at, float* sums) {
    const int o = panel * l.width;
    const size_t first_weight = static_cast<size_t>(panel) * l.depth * l.width;
    tile_for(size, l.vectors, s.weights)(l.depth / kDepth, at, weights_at(packed, first_weight, s.weights),
                                         sums);
    for (int p = 0; p < size; ++p) {
      const Pixel to(s, first + p);
      const size_t row = static_cast<size_t>(to.b) * s.out_h + s.out_y + to.y * s.out_step;
      const size_t pixel = row * s.out_w + s.out_x + to.x * s.out_step;
      if (s.shuffle == 1) {
        finish(sums + p * l.width, bias + o, s.outputs - o, l.vectors, act, y + pixel * s.oc + o);
      } else {
        float values[2 * kLanes];
        finish(sums + p * l.width, bias + o, s.outputs - o, l.vectors, act, values);
        shuffle(s, values, o, min_of(l.width, s.outputs - o), pixel, y);
      }
    }
  };
  for_each_tile(split, l.depth, kSums, scratch, pool, gather_tile, multiply);
}

}  // namespace

extern const ConvKernel conv;
const ConvKernel conv = {packed_bytes, pack, scratch_floats, run};

}  // namespace edgevae::EDGEVAE_ISA
