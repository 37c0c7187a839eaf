// depth_fill, fast: a picture of 128x128 and its levels are 350 kB and some 16 passes over them, so what
// counts is that no pass has a branch, that vectors are whole, and that the passes of a level follow each
// other while their rows are in the first-level cache.
#include "depth_fill.h"

#include <utility>

#include "tile.h"

namespace edgevae::EDGEVAE_ISA {
namespace {

// Lanes kFirst + kStep * i of two vectors, those of b behind those of a.
template <int kFirst, int kStep, int... i>
vf lanes(vf a, vf b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (kFirst + kStep * i)...);
}
using EveryLane = std::make_integer_sequence<int, kLanes>;

vf evens(vf a, vf b) { return lanes<0, 2>(a, b, EveryLane{}); }
vf odds(vf a, vf b) { return lanes<1, 2>(a, b, EveryLane{}); }
vf one_before(vf before, vf v) { return lanes<kLanes - 1, 1>(before, v, EveryLane{}); }
vf one_after(vf v, vf after) { return lanes<1, 1>(v, after, EveryLane{}); }

// a0 b0 a1 b1 ..., the first half of it or the second.
template <int kFirst, int... i>
vf interleave(vf a, vf b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (kFirst + i / 2 + i % 2 * kLanes)...);
}

vf nan() { return broadcast(__builtin_nanf("")); }

int whole_vectors(int n) { return round_up(n, kLanes); }

// Rows are whole vectors. Beyond its w pixels a row's weights are 0, so what stands there tells no pixel
// anything as long as it is a number; until it is pulled, it is unknown.
struct Level {
  int h, w, stride;
  float* depth;  // (h, stride), NaN where unknown
  float* left;   // (h, stride): weight of a pixel and the one before it, 0 for the first
  float* up;     // (h + 1, stride): and the one above it, 0 for the first row and after the last
  float* step;   // (h, stride): kRelaxation by the sum of a pixel's weights, 0 where it is known

  Level(int h_, int w_, float* floats) : h(h_), w(w_), stride(whole_vectors(w_)), depth(floats) {
    left = depth + row(h);
    up = left + row(h);
    step = up + row(h + 1);
  }
  static size_t floats(int h, int w) { return (4 * static_cast<size_t>(h) + 1) * whole_vectors(w); }
  size_t row(int y) const { return static_cast<size_t>(y) * stride; }
  Level half() const { return {(h + 1) / 2, (w + 1) / 2, depth + floats(h, w)}; }
};

void clear(float* row, int begin, int end) {
  for (int x = begin; x < end; ++x) row[x] = 0;
}

vf weight(vf a, vf b) {
  const vf d = kColorGain * (a - b);
  return vreciprocal(1.0f + d * d);
}

// kLanes pixels of a frame: the mean of their colours, and their depth.
void read_pixels(const DepthFill& f, const float* at, int count, vf* grey, vf* depth) {
  vf c[3];
  if (count >= kLanes && f.pixel == 1) {
    for (int i = 0; i < 3; ++i) c[i] = load(at + i * f.channel);
    *depth = load(at + 3 * f.channel);
  } else if (count >= kLanes && f.pixel == 4 && f.channel == 1) {
    const vf p = load(at), q = load(at + kLanes), r = load(at + 2 * kLanes), s = load(at + 3 * kLanes);
    const vf even = evens(p, q), odd = odds(p, q), even_2 = evens(r, s), odd_2 = odds(r, s);
    c[0] = evens(even, even_2), c[1] = evens(odd, odd_2), c[2] = odds(even, even_2);
    *depth = odds(odd, odd_2);
  } else {
    c[0] = c[1] = c[2] = vf{};
    *depth = nan();
    for (int i = 0; i < count && i < kLanes; ++i) {
      for (int j = 0; j < 3; ++j) c[j][i] = at[i * f.pixel + j * f.channel];
      (*depth)[i] = at[i * f.pixel + 3 * f.channel];
    }
  }
  *grey = (c[0] + c[1] + c[2]) * (1 / 3.0f);
}

int count_of(vf ones) {
  float count = 0;
  for (int i = 0; i < kLanes; ++i) count += ones[i];
  return static_cast<int>(count);
}

// Depth, and the colours where the steps come later. How many pixels are known.
size_t read(const DepthFill& f, const Level& l) {
  size_t count = 0;
  for (int y = 0; y < l.h; ++y) {
    const float* from = f.frame + y * f.row;
    vf known = {};
    for (int x = 0; x < l.stride; x += kLanes, from += kLanes * f.pixel) {
      vf grey, depth;
      read_pixels(f, from, l.w - x, &grey, &depth);
      store(l.step + l.row(y) + x, grey);
      store(l.depth + l.row(y) + x, depth);
      known += select(depth == depth, broadcast(1.0f), vf{});
    }
    count += count_of(known);
  }
  return count;
}

// Weights from the colours that read() left.
void weigh(const Level& l) {
  for (int y = 0; y < l.h; ++y) {
    const float* const grey = l.step + l.row(y);
    float *const left = l.left + l.row(y), *const up = l.up + l.row(y);
    vf before = {};
    for (int x = 0; x < l.stride; x += kLanes) {
      const vf here = load(grey + x);
      store(left + x, weight(here, one_before(before, here)));
      if (y > 0) store(up + x, weight(here, load(grey + x - l.stride)));
      before = here;
    }
    left[0] = 0;
    clear(left, l.w, l.stride);
    clear(up, y > 0 ? l.w : 0, l.stride);
  }
  clear(l.up + l.row(l.h), 0, l.stride);
}

// Two vectors of a row, beyond which there is `beyond`.
struct Two {
  vf a, b;
  Two(const float* row, int x, int stride, vf beyond)
      : a(x < stride ? load(row + x) : beyond), b(x + kLanes < stride ? load(row + x + kLanes) : beyond) {}
};

void push(const Level& from, const Level& to) {
  for (int y = 0; y < to.h; ++y) {
    const size_t upper = from.row(2 * y), lower = 2 * y + 1 < from.h ? from.row(2 * y + 1) : upper;
    float *const depth = to.depth + to.row(y), *const left = to.left + to.row(y),
                 *const up = to.up + to.row(y);
    const vf one = broadcast(1.0f), both = lower == upper ? vf{} : one;
    for (int x = 0; x < to.stride; x += kLanes) {
      const Two p(from.depth + upper, 2 * x, from.stride, nan()),
          q(from.depth + lower, 2 * x, from.stride, nan());
      vf sum = {}, count = {};
      const auto add = [&](vf d, vf counts) {
        sum += select(d == d, d * counts, vf{});
        count += select(d == d, counts, vf{});
      };
      add(evens(p.a, p.b), one), add(odds(p.a, p.b), one), add(evens(q.a, q.b), both),
          add(odds(q.a, q.b), both);
      store(depth + x, sum / count);  // 0 / 0, NaN, without any
      const Two l(from.left + upper, 2 * x, from.stride, vf{}),
          m(from.left + lower, 2 * x, from.stride, vf{});
      store(left + x, 0.5f * (evens(l.a, l.b) + evens(m.a, m.b)));
      const Two u(from.up + upper, 2 * x, from.stride, vf{});
      store(up + x, 0.5f * (evens(u.a, u.b) + odds(u.a, u.b)));
    }
    if (from.w % 2 == 1) up[to.w - 1] = from.up[upper + from.w - 1];
  }
  clear(to.up + to.row(to.h), 0, to.stride);
}

// Whether a row has unknown pixels. They get their first values and their steps; `cells` takes a row of the
// level above, and a vector on either side of it.
bool pull_row(const Level& from, const Level& to, int y, float* cells) {
  float *const depth = to.depth + to.row(y), *const step = to.step + to.row(y);
  vf unknown = {};
  for (int x = 0; x < to.stride; x += kLanes) {
    const vf d = load(depth + x);
    unknown += select(d == d, vf{}, broadcast(1.0f));
  }
  if (count_of(unknown) == to.stride - to.w) {
    clear(depth, to.w, to.stride);
    return false;
  }
  const int next = y / 2 + (y % 2 == 1 ? 1 : -1);
  const float* const own = from.depth + from.row(y / 2);
  const float* const other = next < 0 || next >= from.h ? own : from.depth + from.row(next);
  float* const mixed = cells + kLanes;
  for (int x = 0; x < from.stride; x += kLanes) store(mixed + x, 3.0f * load(own + x) + load(other + x));
  mixed[-1] = mixed[0];
  mixed[from.w] = mixed[from.w - 1];
  for (int x = 0; x < to.stride; x += 2 * kLanes) {
    const float* const at = mixed + x / 2;
    const vf here = 3.0f * load(at), even = (here + load(at - 1)) * (1 / 16.0f),
             odd = (here + load(at + 1)) * (1 / 16.0f);
    const auto put = [&](int begin, vf value) {
      const vf d = load(depth + begin);
      store(depth + begin, select(d == d, d, value));
      const size_t i = to.row(y) + begin;
      const vf left = load(to.left + i),
               right = one_after(left, begin + kLanes < to.stride ? load(to.left + i + kLanes) : vf{}),
               sum = left + right + load(to.up + i) + load(to.up + i + to.stride);
      // Beyond the row nothing weighs anything.
      store(step + begin, select(d == d, vf{}, kRelaxation / vmax(sum, broadcast(1e-6f))));
    };
    put(x, interleave<0>(even, odd, EveryLane{}));
    if (x + kLanes < to.stride) put(x + kLanes, interleave<kLanes / 2>(even, odd, EveryLane{}));
  }
  return true;
}

// Half a sweep of a row: its pixels with `board` 1, the others keep their values. Vectors beside each other
// are taken from registers, since a load of parts of two that were just stored waits for both.
void relax_row(const Level& l, int y, vf board) {
  const size_t row = l.row(y);
  float* const depth = l.depth + row;
  const float *const left = l.left + row, *const up = l.up + row, *const down = up + l.stride,
                     *const step = l.step + row;
  const float *const north = y > 0 ? depth - l.stride : depth,
                     *const south = y + 1 < l.h ? depth + l.stride : depth;  // at the border with weight 0
  vf before = {}, here = load(depth), west = load(left);
  for (int x = 0; x < l.stride; x += kLanes) {
    const bool more = x + kLanes < l.stride;
    const vf after = more ? load(depth + x + kLanes) : vf{}, next = more ? load(left + x + kLanes) : vf{};
    const vf way = west * (one_before(before, here) - here) +
                   one_after(west, next) * (one_after(here, after) - here) +
                   load(up + x) * (load(north + x) - here) + load(down + x) * (load(south + x) - here);
    store(depth + x, here + board * load(step + x) * way);
    before = here, here = after, west = next;
  }
}

// All sweeps, each half of one a row behind the half before it: what it reads is in the first-level cache.
void relax(const Level& l, const float* unknown) {
  vf board[2];
  for (int i = 0; i < kLanes; ++i) board[0][i] = i % 2 == 0 ? 1.0f : 0.0f, board[1][i] = 1 - board[0][i];
  constexpr int kHalves = 2 * kSweeps;
  for (int front = 0; front < l.h + kHalves - 1; ++front) {
    for (int half = 0; half < kHalves; ++half) {
      const int y = front - half;
      if (y >= 0 && y < l.h && unknown[y] != 0) relax_row(l, y, board[(y + half) % 2]);
    }
  }
}

// `unknown` has room for a number per row, `cells` for a row and two vectors.
void fill(const Level& level, float* unknown, float* cells) {
  if (level.h == 1 && level.w == 1) {
    clear(level.depth, 1, level.stride);
    return;
  }
  const Level half = level.half();
  push(level, half);
  fill(half, unknown, cells);
  for (int y = 0; y < level.h; ++y) unknown[y] = pull_row(half, level, y, cells) ? 1.0f : 0.0f;
  relax(level, unknown);
}

size_t scratch_floats(int height, int width) {
  size_t floats = whole_vectors(height) + whole_vectors(width) + 2 * kLanes;
  for (int h = height, w = width;; h = (h + 1) / 2, w = (w + 1) / 2) {
    floats += Level::floats(h, w);
    if (h == 1 && w == 1) return floats;
  }
}

void run(const DepthFill& f, float* scratch) {
  float *const unknown = scratch, *const cells = unknown + whole_vectors(f.height);
  const Level level(f.height, f.width, cells + whole_vectors(f.width) + 2 * kLanes);
  const size_t known = read(f, level);
  if (known == static_cast<size_t>(f.height) * f.width) return;
  if (known > 0) {
    weigh(level);
    fill(level, unknown, cells);
  }
  for (int y = 0; y < f.height; ++y) {
    if (known > 0 && unknown[y] == 0) continue;
    float* to = f.frame + 3 * f.channel + y * f.row;
    for (int x = 0; x < f.width; x += kLanes) {
      const vf depth = load(level.depth + level.row(y) + x), step = load(level.step + level.row(y) + x);
      const vf filled = f.mirror - vmin(vmax(depth, broadcast(-1.0f)), broadcast(1.0f));
      const vf value = known == 0 ? broadcast(f.mirror) : select(step != 0.0f, filled, depth);
      for (int i = 0; i < kLanes && x + i < f.width; ++i, to += f.pixel) *to = value[i];
    }
  }
}

}  // namespace

extern const DepthFillKernel depth_fill;
const DepthFillKernel depth_fill = {scratch_floats, run};

}  // namespace edgevae::EDGEVAE_ISA
