// Holes in depth, filled from around them along the colours: what looks alike is one surface.
//
// f minimises the sum, over all pairs of neighbours p and q (of a row or a column), of w(p, q) (f_p - f_q)^2
// with the readings held fixed (Levin, Lischinski, Weiss, "Colorization using optimization", SIGGRAPH 2004),
// where w = 1 / (1 + (kColorGain (g_p - g_q))^2) and g is the mean of the colours in [-1, 1]. It is found
// coarse to fine, as nearly as kSweeps on each level find it:
//
// Push: each level halves the one before, rounded up, until a single cell is left. A cell is the mean of
// those of its pixels that are known, up to four, and unknown without any; the weight between two cells is
// the mean of those between their pixels, up to two.
//
// Pull: from the coarsest level back, every unknown pixel takes from the level above, all of whose cells are
// known by then, 9/16 of its own cell, 3/16 of the next one on its side of the row and of the column each,
// and 1/16 of the one across; at the border a cell is its own neighbour. (Both as in push-pull: Gortler,
// Grzeszczuk, Szeliski, Cohen, "The lumigraph", SIGGRAPH 1996, section 3.4.) Then kSweeps times, first the
// unknown pixels with y + x even, then the others: a pixel moves by kRelaxation times its way to the weighted
// mean of its neighbours (successive over-relaxation).
//
// Readings are in [-1, 1], and so is what minimises the sum: f is clamped to it where the sweeps end outside.
// What no pixel tells is 0.
#pragma once

#include <stddef.h>

namespace edgevae {

inline constexpr float kColorGain = 40.0f;
inline constexpr float kRelaxation = 1.8f;
inline constexpr int kSweeps = 4;

// A picture of four channels: colours, and depth that is NaN where it is unknown.
struct DepthFill {
  float* frame;
  int height, width;
  ptrdiff_t channel, row, pixel;  // strides in floats: NCHW and NHWC alike
  float mirror;
};

// In place: where depth is NaN it becomes mirror - f. One thread.
struct DepthFillKernel {
  size_t (*scratch_floats)(int height, int width);
  void (*run)(const DepthFill&, float* scratch);
};

}  // namespace edgevae
