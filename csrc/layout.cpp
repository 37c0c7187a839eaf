#include "layout.h"

#include <algorithm>
#include <cstring>

namespace edgevae {
namespace {

// Four floats: every machine has such vectors, and no wider ones are worth it where memory is the limit.
typedef float Four __attribute__((vector_size(16)));

Four load(const float* p) {
  Four v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// y (columns, rows) from x (rows, columns), by 4x4 blocks, sixteen columns at a time: both then stay in a few
// cache lines.
void transpose(const float* x, std::int64_t rows, std::int64_t columns, float* y) {
  constexpr int kColumns = 16;
  for (std::int64_t j0 = 0; j0 < columns; j0 += kColumns) {
    const std::int64_t end = std::min(columns, j0 + kColumns);
    std::int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
      const float* from = x + i * columns;
      std::int64_t j = j0;
      for (; j + 4 <= end; j += 4) {
        const Four a = load(from + j), b = load(from + columns + j), c = load(from + 2 * columns + j),
                   d = load(from + 3 * columns + j);
        const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                   cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
        const Four ef = __builtin_shufflevector(a, b, 2, 6, 3, 7),
                   gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        const Four out[4] = {
            __builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
            __builtin_shufflevector(ef, gh, 0, 1, 4, 5), __builtin_shufflevector(ef, gh, 2, 3, 6, 7)};
        for (int n = 0; n < 4; ++n) std::memcpy(y + (j + n) * rows + i, &out[n], sizeof out[n]);
      }
      for (; j < end; ++j) {
        for (int n = 0; n < 4; ++n) y[j * rows + i + n] = from[n * columns + j];
      }
    }
    for (; i < rows; ++i) {
      for (std::int64_t j = j0; j < end; ++j) y[j * rows + i] = x[i * columns + j];
    }
  }
}

}  // namespace

void to_nhwc(const float* x, int c, std::int64_t pixels, float* y) { transpose(x, c, pixels, y); }

void to_nchw(const float* x, int c, std::int64_t pixels, float* y) { transpose(x, pixels, c, y); }

}  // namespace edgevae
