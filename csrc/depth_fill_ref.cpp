// depth_fill, as the contract says it, in double.
#include "depth_fill.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace edgevae::reference {
namespace {

// Depth, and the weights of a pixel and the next one of its row, and of its column.
struct Level {
  int h, w;
  std::vector<double> depth, right, down;
  std::vector<bool> known;

  Level(int h_, int w_) : h(h_), w(w_) {
    const size_t pixels = static_cast<size_t>(h) * w;
    depth.resize(pixels), right.resize(pixels), down.resize(pixels), known.resize(pixels);
  }
  size_t at(int y, int x) const { return static_cast<size_t>(y) * w + x; }
};

Level push(const Level& from) {
  Level to((from.h + 1) / 2, (from.w + 1) / 2);
  for (int y = 0; y < to.h; ++y)
    for (int x = 0; x < to.w; ++x) {
      const int bottom = std::min(from.h, 2 * y + 2), end = std::min(from.w, 2 * x + 2);
      double sum = 0, count = 0;
      for (int i = 2 * y; i < bottom; ++i)
        for (int j = 2 * x; j < end; ++j)
          if (from.known[from.at(i, j)]) sum += from.depth[from.at(i, j)], ++count;
      const size_t cell = to.at(y, x);
      to.known[cell] = count > 0;
      to.depth[cell] = count > 0 ? sum / count : 0;
      for (int i = 2 * y; i < bottom; ++i)
        to.right[cell] += from.right[from.at(i, end - 1)] / (bottom - 2 * y);
      for (int j = 2 * x; j < end; ++j) to.down[cell] += from.down[from.at(bottom - 1, j)] / (end - 2 * x);
    }
  return to;
}

void pull(const Level& from, Level& to) {
  const auto nearer = [](int at, int size) { return std::clamp(at / 2 + (at % 2 ? 1 : -1), 0, size - 1); };
  for (int y = 0; y < to.h; ++y)
    for (int x = 0; x < to.w; ++x) {
      if (to.known[to.at(y, x)]) continue;
      const int next = nearer(y, from.h), side = nearer(x, from.w);
      to.depth[to.at(y, x)] = (9 * from.depth[from.at(y / 2, x / 2)] + 3 * from.depth[from.at(y / 2, side)] +
                               3 * from.depth[from.at(next, x / 2)] + from.depth[from.at(next, side)]) /
                              16;
    }
}

void relax(Level& level, int first) {
  for (int y = 0; y < level.h; ++y)
    for (int x = (y + first) % 2; x < level.w; x += 2) {
      if (level.known[level.at(y, x)]) continue;
      double sum = 0, weights = 0;
      const auto look = [&](double weight, int i, int j) {
        sum += weight * level.depth[level.at(i, j)], weights += weight;
      };
      if (y > 0) look(level.down[level.at(y - 1, x)], y - 1, x);
      if (y + 1 < level.h) look(level.down[level.at(y, x)], y + 1, x);
      if (x > 0) look(level.right[level.at(y, x - 1)], y, x - 1);
      if (x + 1 < level.w) look(level.right[level.at(y, x)], y, x + 1);
      double& depth = level.depth[level.at(y, x)];
      depth += kRelaxation * (sum / weights - depth);
    }
}

void fill(Level& level) {
  if (level.h == 1 && level.w == 1) return;  // what it does not know is 0
  Level half = push(level);
  fill(half);
  pull(half, level);
  for (int sweep = 0; sweep < kSweeps; ++sweep) relax(level, 0), relax(level, 1);
}

size_t scratch_floats(int, int) { return 0; }

void run(const DepthFill& f, float*) {
  Level level(f.height, f.width);
  const auto at = [&](int c, int y, int x) -> float& {
    return f.frame[c * f.channel + y * f.row + x * f.pixel];
  };
  const auto weight = [&](int y, int x, int i, int j) {
    double difference = 0;
    for (int c = 0; c < 3; ++c) difference += (double{at(c, y, x)} - at(c, i, j)) / 3;
    return 1 / (1 + std::pow(kColorGain * difference, 2));
  };
  for (int y = 0; y < level.h; ++y)
    for (int x = 0; x < level.w; ++x) {
      const size_t i = level.at(y, x);
      level.known[i] = !std::isnan(at(3, y, x));
      level.depth[i] = level.known[i] ? at(3, y, x) : 0;
      level.right[i] = x + 1 < level.w ? weight(y, x, y, x + 1) : 0;
      level.down[i] = y + 1 < level.h ? weight(y, x, y + 1, x) : 0;
    }
  fill(level);
  for (int y = 0; y < level.h; ++y)
    for (int x = 0; x < level.w; ++x)
      if (!level.known[level.at(y, x)])
        at(3, y, x) = static_cast<float>(f.mirror - std::clamp(level.depth[level.at(y, x)], -1.0, 1.0));
}

}  // namespace

extern const DepthFillKernel depth_fill;
const DepthFillKernel depth_fill = {scratch_floats, run};

}  // namespace edgevae::reference
