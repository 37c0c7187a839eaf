// Holes in depth, filled from around them, coarse to fine: push-pull (Gortler, Grzeszczuk, Szeliski, Cohen,
// "The lumigraph", SIGGRAPH 1996, section 3.4).
//
// Each level halves the one before, rounded up: a cell is the mean of those of its pixels that are known, up
// to four, and unknown without any. Then, from the coarsest level back, every unknown pixel takes from the
// level above, all of whose cells are known by then, 9/16 of its own cell, 3/16 of the next one on its side
// of the row and of the column each, and 1/16 of the one across; at the border a cell is its own neighbour.
// What no pixel tells is 0.
//
// On the CPU and in CUDA; in an unnamed namespace, so that every translation unit keeps its own copy (see
// vec.h).
#pragma once

#include <cmath>
#include <cstddef>

#include "frame_span.h"

namespace edgevae {
namespace {

struct FillLevel {
  float* v;  // (h, w), NaN where unknown
  int h, w;

  EDGEVAE_DEVICE FillLevel half() const { return {v + static_cast<size_t>(h) * w, (h + 1) / 2, (w + 1) / 2}; }
  EDGEVAE_DEVICE bool single() const { return h == 1 && w == 1; }
  EDGEVAE_DEVICE float& at(int y, int x) const { return v[static_cast<size_t>(y) * w + x]; }
};

inline constexpr int kFillLevels = 18;  // of 131072 a side

// Floats that a picture of (h, w) and all its levels behind it take.
inline size_t fill_floats(int h, int w) {
  size_t floats = static_cast<size_t>(h) * w;
  while (h > 1 || w > 1) {
    h = (h + 1) / 2, w = (w + 1) / 2;
    floats += static_cast<size_t>(h) * w;
  }
  return floats;
}

// A cell of the level above `from`.
EDGEVAE_DEVICE inline float push_cell(const FillLevel& from, int y, int x) {
  const int upper = 2 * y, left = 2 * x;
  const bool lower = upper + 1 < from.h, right = left + 1 < from.w;
  const float four[4] = {from.at(upper, left), from.at(upper, left + right), from.at(upper + lower, left),
                         from.at(upper + lower, left + right)};
  const bool counts[4] = {true, right, lower, right && lower};
  float sum = 0, count = 0;
  for (int i = 0; i < 4; ++i) {
    const bool known = counts[i] && four[i] == four[i];
    sum += known ? four[i] : 0.0f;
    count += known ? 1.0f : 0.0f;
  }
  return count == 0 ? NAN : sum / count;
}

// The neighbour of cell at / 2 that pixel `at` is nearer to.
EDGEVAE_DEVICE inline int fill_neighbour(int at, int cells) {
  const int next = at / 2 + (at % 2 ? 1 : -1);
  return next < 0 ? 0 : next < cells ? next : cells - 1;
}

// An unknown pixel, from the level above it.
EDGEVAE_DEVICE inline float pull_pixel(const FillLevel& from, int y, int x) {
  const int next = fill_neighbour(y, from.h), side = fill_neighbour(x, from.w);
  return (9 * from.at(y / 2, x / 2) + 3 * from.at(y / 2, side) + 3 * from.at(next, x / 2) +
          from.at(next, side)) *
         (1 / 16.0f);
}

#if !defined(__CUDACC__)
// A row of the level above `from`, and whether all of it is known. Where cells are whole the loop has no
// branch, so that compilers take vectors for it; 0 / 0 is the NaN that a cell without pixels is.
inline bool push_row(const FillLevel& from, int y, float* to, int width) {
  int x = 0, known = 0;
  if (2 * y + 1 < from.h) {
    const float *const upper = &from.at(2 * y, 0), *const lower = &from.at(2 * y + 1, 0);
    for (; 2 * x + 1 < from.w; ++x) {
      const float a = upper[2 * x], b = upper[2 * x + 1], c = lower[2 * x], d = lower[2 * x + 1];
      const float sum = (a == a ? a : 0) + (b == b ? b : 0) + (c == c ? c : 0) + (d == d ? d : 0);
      const float count =
          (a == a ? 1.0f : 0) + (b == b ? 1.0f : 0) + (c == c ? 1.0f : 0) + (d == d ? 1.0f : 0);
      to[x] = sum / count;
      known += count > 0;
    }
  }
  for (; x < width; ++x) {
    to[x] = push_cell(from, y, x);
    known += to[x] == to[x];
  }
  return known == width;
}

// The unknown pixels of a row, from the level above it, as offset + sign * value.
inline void pull_row(const FillLevel& from, int y, float* row, int width, float offset, float sign) {
  int unknown = 0;
  for (int x = 0; x < width; ++x) unknown += row[x] != row[x];
  if (unknown == 0) return;
  const float *const own = &from.at(y / 2, 0), *const next = &from.at(fill_neighbour(y, from.h), 0);
  const auto put = [=](float v, float f) { return v == v ? v : offset + sign * f; };
  const auto slowly = [&](int x) { row[x] = put(row[x], pull_pixel(from, y, x)); };
  int x = 0;
  for (; x < width && x < 2; ++x) slowly(x);
  for (int i = 1; i + 1 < from.w && 2 * i + 1 < width; ++i, x += 2) {
    const float here = 9 * own[i] + 3 * next[i];
    row[2 * i] = put(row[2 * i], (here + 3 * own[i - 1] + next[i - 1]) * (1 / 16.0f));
    row[2 * i + 1] = put(row[2 * i + 1], (here + 3 * own[i + 1] + next[i + 1]) * (1 / 16.0f));
  }
  for (; x < width; ++x) slowly(x);
}

// Fills the NaNs of (h, w); each value f that they get is stored mirrored, as mirror - f. `levels` is
// fill_floats(h, w) long and begins with (h, w).
inline void fill_holes(float* levels, int h, int w, float mirror) {
  FillLevel level[kFillLevels];
  level[0] = {levels, h, w};
  bool unknown = false;
  for (size_t i = 0; i < static_cast<size_t>(h) * w; ++i) unknown |= levels[i] != levels[i];
  if (!unknown) return;
  int top = 0;
  while (unknown && !level[top].single()) {
    const FillLevel from = level[top], to = level[++top] = from.half();
    unknown = false;
    for (int y = 0; y < to.h; ++y) unknown |= !push_row(from, y, &to.at(y, 0), to.w);
  }
  if (unknown) *level[top].v = top == 0 ? mirror : 0.0f;
  for (; top > 0; --top) {
    const FillLevel from = level[top], to = level[top - 1];
    for (int y = 0; y < to.h; ++y)
      pull_row(from, y, &to.at(y, 0), to.w, top == 1 ? mirror : 0.0f, top == 1 ? -1.0f : 1.0f);
  }
}
#endif

}  // namespace
}  // namespace edgevae
