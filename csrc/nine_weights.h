// The nine weights of a 3x3 kernel, or of two-tap ones with a zero between: nine_products.h says what for.
//
// Static, so that every translation unit keeps its own copy (see vec.h).
#pragma once

namespace edgevae {

inline constexpr int kNine = 9;

// Of rows a, b, c: ss, sa, sc, as, cs, aa, ac, ca, cc.
static inline void transform_weights(const float* g, float* out) {
  double rows[3][3];  // s, a, c of the row transform, still over columns
  for (int x = 0; x < 3; ++x) {
    rows[0][x] = static_cast<double>(g[x]) + g[3 + x] + g[6 + x];
    rows[1][x] = g[x];
    rows[2][x] = g[6 + x];
  }
  const auto s = [&](int row) { return static_cast<float>(rows[row][0] + rows[row][1] + rows[row][2]); };
  const auto at = [&](int row, int x) { return static_cast<float>(rows[row][x]); };
  const float nine[kNine] = {s(0), at(0, 0), at(0, 2), s(1), s(2), at(1, 0), at(1, 2), at(2, 0), at(2, 2)};
  __builtin_memcpy(out, nine, sizeof nine);
}

}  // namespace edgevae
