// upsample_conv, fast: the nine products of upsample_conv.h as nine matrix products over the same tile of
// input pixels. The differences are taken while the pixels are gathered, once per block and not once per
// output channel; the signs and sums of the output transform are applied when the nine results leave.
//
// Products: 9 per input pixel and channel pair (36 by definition, 16 with the taps that fall on the same
// pixel merged). Bytes: the nine transformed weights are as many as the nine given ones.
//
// Where a layer has so few output channels that four phases of it fit one vector (the last block of a
// decoder, 64 -> 4, with 16 lanes), the nine products would leave lanes idle. There the merged-tap form is
// used instead: a 3x3 convolution to 4 x oc phase channels, whose 2x2 patches are then written out. It
// costs nine vector products too, each with 16 lanes in use.
#include "conv.h"
#include "tile.h"
#include "upsample_conv.h"

namespace edgevae::EDGEVAE_ISA {

extern const ConvKernel conv;

namespace {

constexpr int kProducts = 9;

bool use_phases(const UpsampleConvShape& s) { return 4 * s.oc <= kLanes; }

ConvShape phase_conv(const UpsampleConvShape& s) {
  ConvShape c = conv_shape(s.ih, s.iw, s.ic, s.ih, s.iw, 4 * s.oc, 3, 3);
  c.n = s.n;
  c.pad_top = c.pad_left = 1;
  c.padding = s.padding;
  c.weights = s.weights;
  c.out_h = 2 * s.ih;
  c.out_w = 2 * s.iw;
  c.out_step = c.shuffle = 2;
  return c;
}

struct Layout {
  int depth, vectors, width, panels;

  explicit Layout(const UpsampleConvShape& s)
      : depth(round_up(s.ic, kDepth)),
        vectors(panel_vectors(s.oc)),
        width(vectors * kLanes),
        panels(ceil_div(s.oc, width)) {}
  size_t panel_weights() const { return static_cast<size_t>(kProducts) * depth * width; }
};

size_t packed_bytes(const UpsampleConvShape& s) {
  if (use_phases(s)) return conv.packed_bytes(phase_conv(s));
  const Layout l(s);
  return l.panels * l.panel_weights() * weight_bytes(s.weights);
}

// Transforms one 3x3 kernel: ss, sa, sc, as, cs, aa, ac, ca, cc.
void transform(const float* g, float* out) {
  double column[3][3];  // rows s, a, c of the row transform, still over kx
  for (int x = 0; x < 3; ++x) {
    column[0][x] = static_cast<double>(g[x]) + g[3 + x] + g[6 + x];
    column[1][x] = g[x];
    column[2][x] = g[6 + x];
  }
  const auto s = [&](int row) {
    return static_cast<float>(column[row][0] + column[row][1] + column[row][2]);
  };
  const auto at = [&](int row, int x) { return static_cast<float>(column[row][x]); };
  out[0] = s(0);
  out[1] = at(0, 0);
  out[2] = at(0, 2);
  out[3] = s(1);
  out[4] = s(2);
  out[5] = at(1, 0);
  out[6] = at(1, 2);
  out[7] = at(2, 0);
  out[8] = at(2, 2);
}

// (oc, ic, 3, 3) to (4 oc, ic, 3, 3): of phase (py, px) the taps that fall on the same input pixel, summed.
void pack_phases(const UpsampleConvShape& s, const float* weights, void* packed) {
  const ConvShape shape = phase_conv(s);
  const size_t count = static_cast<size_t>(shape.oc) * s.ic * 9;
  float* merged = static_cast<float*>(__builtin_calloc(count, sizeof(float)));
  for (int phase = 0; phase < 4; ++phase) {
    for (int o = 0; o < s.oc; ++o) {
      for (int i = 0; i < s.ic; ++i) {
        const float* g = weights + (static_cast<size_t>(o) * s.ic + i) * 9;
        double sum[9] = {};
        for (int ky = 0; ky < 3; ++ky) {
          for (int kx = 0; kx < 3; ++kx) {
            // Tap k of phase p reads upsampled position 2i + p + k - 1, that is pixel i + floor((p + k - 1) /
            // 2).
            const int dy = (phase / 2 + ky + 1) / 2, dx = (phase % 2 + kx + 1) / 2;
            sum[dy * 3 + dx] += g[ky * 3 + kx];
          }
        }
        float* to = merged + ((static_cast<size_t>(phase) * s.oc + o) * s.ic + i) * 9;
        for (int tap = 0; tap < 9; ++tap) to[tap] = static_cast<float>(sum[tap]);
      }
    }
  }
  conv.pack(shape, merged, packed);
  __builtin_free(merged);
}

// (oc, ic, 3, 3) to [panel][product][ic][lane].
void pack(const UpsampleConvShape& s, const float* weights, void* packed) {
  if (use_phases(s)) return pack_phases(s, weights, packed);
  const Layout l(s);
  __builtin_memset(packed, 0, packed_bytes(s));
  for (int o = 0; o < s.oc; ++o) {
    const size_t panel = o / l.width * l.panel_weights() + o % l.width;
    for (int i = 0; i < s.ic; ++i) {
      float products[kProducts];
      transform(weights + (static_cast<size_t>(o) * s.ic + i) * 9, products);
      for (int p = 0; p < kProducts; ++p) {
        set_weight(packed, panel + (static_cast<size_t>(p) * l.depth + i) * l.width, products[p], s.weights);
      }
    }
  }
}

size_t scratch_floats(const UpsampleConvShape& s) {
  if (use_phases(s)) return conv.scratch_floats(phase_conv(s));
  const Layout l(s);
  const Split split(s.n * s.ih * s.iw, kProducts * l.depth, l.panels, 1);
  return tile_scratch_floats(split, kProducts * l.depth, kProducts * kSums);
}

// The 3x3 neighbourhood of one input pixel; null reads zero.
struct Neighbours {
  const float* at[3][3];

  Neighbours(const UpsampleConvShape& s, const float* x, int index) {
    const int px = index % s.iw, py = index / s.iw % s.ih, b = index / (s.iw * s.ih);
    for (int dy = 0; dy < 3; ++dy) {
      for (int dx = 0; dx < 3; ++dx) {
        int row = py + dy - 1, column = px + dx - 1;
        const bool inside = row >= 0 && row < s.ih && column >= 0 && column < s.iw;
        row = max_of(0, min_of(row, s.ih - 1));
        column = max_of(0, min_of(column, s.iw - 1));
        at[dy][dx] = inside || s.padding == Padding::kReplicate
                         ? x + ((static_cast<size_t>(b) * s.ih + row) * s.iw + column) * s.ic
                         : nullptr;
      }
    }
  }
};

// Writes the nine transformed inputs of one pixel: X, L, R, U, D, UL, UR, DL, DR, `apart` floats from each
// other, each as rows of kDepth channels, `row` floats apart.
void gather(const UpsampleConvShape& s, const Neighbours& near, size_t apart, size_t row, float* out) {
  for (int i0 = 0; i0 < s.ic; i0 += kDepth, out += row) {
    for (int lane = 0; lane < kDepth; lane += kLanes) {
      const int left = s.ic - i0 - lane;
      const auto read = [&](int dy, int dx) {
        const float* p = near.at[dy][dx];
        return p == nullptr ? vf{} : load_first(p + i0 + lane, left);
      };
      const vf x = read(1, 1), n = read(0, 1), so = read(2, 1), w = read(1, 0), e = read(1, 2);
      const vf l = w - x, r = x - e;
      float* to = out + lane;
      store(to, x);
      store(to + apart, l);
      store(to + 2 * apart, r);
      store(to + 3 * apart, n - x);
      store(to + 4 * apart, x - so);
      store(to + 5 * apart, (read(0, 0) - n) - l);
      store(to + 6 * apart, (n - read(0, 2)) - r);
      store(to + 7 * apart, l - (read(2, 0) - so));
      store(to + 8 * apart, r - (so - read(2, 2)));
    }
  }
}

// The output transform of one pixel and vector: products `apart` floats from each other.
struct Patch {
  vf y00, y01, y10, y11;

  Patch(const float* sums, size_t apart, vf bias) {
    const auto product = [&](int p) { return load(sums + p * apart); };
    const vf x = product(0) + bias, l = product(1), r = product(2), u = product(3), d = product(4);
    y00 = (x + l) + (u + product(5));
    y01 = (x - r) + (u - product(6));
    y10 = (x + l) - (d + product(7));
    y11 = (x - r) - (d - product(8));
  }
};

void run(const UpsampleConvShape& s, const float* x, const void* packed, const float* bias, Activation act,
         float* y, Scratch scratch, Pool& pool) {
  if (use_phases(s)) {
    float biases[kLanes];
    for (int i = 0; i < 4 * s.oc; ++i) biases[i] = bias[i % s.oc];
    conv.run(phase_conv(s), x, packed, biases, act, y, scratch, pool);
    return;
  }
  const Layout l(s);
  const Split split(s.n * s.ih * s.iw, kProducts * l.depth, l.panels, pool_threads(pool));
  const auto gather_tile = [&](int first, int size, float* at) {
    for (int p = 0; p < size; ++p) {
      gather(s, Neighbours(s, x, first + p), static_cast<size_t>(size) * l.depth,
             static_cast<size_t>(size) * kDepth, at + p * kDepth);
    }
  };
  const auto multiply = [&](int panel, int first, int size, const float* at, float* sums) {
    const TileFn tile_product = tile_for(size, l.vectors, s.weights);
    for (int product = 0; product < kProducts; ++product) {
      tile_product(
          l.depth / kDepth, at + static_cast<size_t>(product) * size * l.depth,
          weights_at(packed, panel * l.panel_weights() + static_cast<size_t>(product) * l.depth * l.width,
                     s.weights),
          sums + product * kSums);
    }
    for (int p = 0; p < size; ++p) {
      const int column = (first + p) % s.iw, row = (first + p) / s.iw;  // rows of the batch follow each other
      for (int v = 0; v < l.vectors; ++v) {
        const int o = panel * l.width + v * kLanes, left = s.oc - o;
        if (left <= 0) break;
        const Patch patch(sums + (p * l.vectors + v) * kLanes, kSums, load_first(bias + o, left));
        const auto put_at = [&](float* to, vf value) { store_first(to, activate(value, act), left); };
        float* corner = y + (static_cast<size_t>(2 * row) * 2 * s.iw + 2 * column) * s.oc + o;
        float* below = corner + static_cast<size_t>(2) * s.iw * s.oc;
        put_at(corner, patch.y00);
        put_at(corner + s.oc, patch.y01);
        put_at(below, patch.y10);
        put_at(below + s.oc, patch.y11);
      }
    }
  };
  for_each_tile(split, kProducts * l.depth, kProducts * kSums, scratch, pool, gather_tile, multiply);
}

}  // namespace

extern const UpsampleConvKernel upsample_conv;
const UpsampleConvKernel upsample_conv = {packed_bytes, pack, scratch_floats, run};

}  // namespace edgevae::EDGEVAE_ISA
