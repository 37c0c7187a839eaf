// Nine products for a 2x2 patch: the identity behind the fast convolutions.
//
// In one dimension, let two outputs look at three inputs through taps a, b, c like this:
//
//      y0 = a x[-1] + (b + c) x[0]
//      y1 = (a + b) x[0] + c x[1]
//
// With s = a + b + c and the differences d = x[-1] - x[0], e = x[0] - x[1] they become
//
//      y0 = s x[0] + a d
//      y1 = s x[0] - c e
//
// three products for two outputs. Two dimensions are the tensor product: the row transform (x, d above, e
// below) times the column transform (x, d left, e right) gives nine products for four outputs:
//
//      weights          s        a (left)  c (right)         inputs       X     L     R
//      s                ss       sa        sc                             U     UL    UR
//      a (above)        as       aa        ac                             D     DL    DR
//      c (below)        cs       ca        cc
//
//      y00 = ss X + sa L + as U + aa UL
//      y01 = ss X - sc R + as U - ac UR
//      y10 = ss X + sa L - cs D - ca DL
//      y11 = ss X - sc R - cs D + cc DR
//
// The transforms are sums of weights (done once) and differences of neighbouring pixels, so float32 stays
// well conditioned. Two convolutions have this form:
//
// Nearest upsampling by 2, then 3x3 (upsample_conv.h). Upsampling repeats every sample, so the outputs over
// x[i] are y[2i] = a x[i-1] + (b + c) x[i] and y[2i+1] = (a + b) x[i] + c x[i+1]. Nine products for the four
// outputs over one input pixel instead of 36, and nine weights per channel pair before and after.
//
// 4x4 with stride 2 (conv.h). Of taps g0 g1 g2 g3, the even ones only ever meet one half of the samples and
// the odd ones the other: the sum of two convolutions with two taps and stride 1, over every second sample.
// Two neighbouring outputs of one of them, y0 = g0 x[-1] + g2 x[0] and y1 = g0 x[0] + g2 x[1], are the form
// above with a = g0, b = 0, c = g2 (Winograd's minimal filtering F(2, 2)). In two dimensions there are four
// such parities, added up along k: 36 products for a 2x2 patch instead of 64. The weights grow from 16 to 36
// per channel pair, so it pays where pixels outnumber them (methods.h).
#pragma once

#include "nine_weights.h"
#include "products.h"

namespace edgevae::EDGEVAE_ISA {

// The 3x3 samples around one patch; null reads zero.
struct Neighbours {
  const float* at[3][3];

  // Samples (y + r * step, x + c * step) of one (ih, iw, ic) image, r and c from 0 to 2.
  Neighbours(const float* image, int ih, int iw, int ic, Padding padding, int y, int x, int step) {
    const bool inside = y >= 0 && y + 2 * step < ih && x >= 0 && x + 2 * step < iw;
    if (inside) {
      const float* corner = image + (static_cast<size_t>(y) * iw + x) * ic;
      for (int r = 0; r < 3; ++r) {
        for (int c = 0; c < 3; ++c) at[r][c] = corner + static_cast<size_t>(r * iw + c) * step * ic;
      }
      return;
    }
    for (int r = 0; r < 3; ++r) {
      for (int c = 0; c < 3; ++c) {
        const int row = max_of(0, min_of(y + r * step, ih - 1)),
                  column = max_of(0, min_of(x + c * step, iw - 1));
        const bool here = row == y + r * step && column == x + c * step;
        at[r][c] = here || padding == Padding::kReplicate
                       ? image + (static_cast<size_t>(row) * iw + column) * ic
                       : nullptr;
      }
    }
  }
};

// Writes the nine transformed inputs of a patch: X, L, R, U, D, UL, UR, DL, DR, `apart` floats from each
// other, each as rows of kDepth channels, `row` floats apart, zeros after the last channel.
static inline void gather_nine(const Neighbours& near, int channels, size_t apart, size_t row, float* out) {
  const auto transform = [&](auto read, float* to) {
    const vf x = read(1, 1), n = read(0, 1), so = read(2, 1), w = read(1, 0), e = read(1, 2);
    const vf l = w - x, r = x - e;
    store(to, x);
    store(to + apart, l);
    store(to + 2 * apart, r);
    store(to + 3 * apart, n - x);
    store(to + 4 * apart, x - so);
    store(to + 5 * apart, (read(0, 0) - n) - l);
    store(to + 6 * apart, (n - read(0, 2)) - r);
    store(to + 7 * apart, l - (read(2, 0) - so));
    store(to + 8 * apart, r - (so - read(2, 2)));
  };
  for (int i0 = 0; i0 < channels; i0 += kDepth, out += row) {
    for (int lane = 0; lane < kDepth; lane += kLanes) {
      const int i = i0 + lane, left = channels - i;
      if (left >= kLanes) {
        transform(
            [&](int dy, int dx) { return near.at[dy][dx] == nullptr ? vf{} : load(near.at[dy][dx] + i); },
            out + lane);
      } else {
        transform(
            [&](int dy, int dx) {
              return near.at[dy][dx] == nullptr || left <= 0 ? vf{} : load_first(near.at[dy][dx] + i, left);
            },
            out + lane);
      }
    }
  }
}

// Adds the products of `count` neighbouring patches up and stores their outputs: the `first` and so on of a
// tile of `size`. `corner` is the pixel of the first y00 in an image `width` pixels wide.
static inline void finish_nine(const Products& p, const float* sums, int size, int first, int panel,
                               size_t corner, int width, int count, const Output& out) {
  const int pixel = p.panel_width(panel);
  const size_t apart = static_cast<size_t>(size) * pixel;
  sums += first * pixel;
  for (int v = 0; v < pixel / kLanes; ++v, sums += kLanes) {
    const int o = panel * p.width() + v * kLanes, left = p.channels - o;
    if (left <= 0) break;
    const size_t below = corner + width;
    const Places<4> places{{corner, corner + 1, below, below + 1}, 2, count, o, left, {o, o, o, o}};
    out.put(places, [=](int i, vf* group) {
      const auto product = [&](int j) { return load(sums + i * pixel + j * apart); };
      const vf x = product(0), l = product(1), r = product(2), u = product(3), d = product(4);
      group[0] = (x + l) + (u + product(5));
      group[1] = (x - r) + (u - product(6));
      group[2] = (x + l) - (d + product(7));
      group[3] = (x - r) - (d - product(8));
    });
  }
}

}  // namespace edgevae::EDGEVAE_ISA
