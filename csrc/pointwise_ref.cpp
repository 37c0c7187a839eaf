#include "pointwise.h"

#include <cmath>

#include "pointwise_ref.h"

namespace edgevae::reference {

void activation(const float* x, size_t count, Activation act, float* y) {
  for (size_t i = 0; i < count; ++i) y[i] = static_cast<float>(activate(x[i], act));
}

void max_pool(const MaxPoolShape& s, const float* x, float* y, Pool&) {
  for (int b = 0; b < s.n; ++b)
    for (int oy = 0; oy < s.oh; ++oy)
      for (int ox = 0; ox < s.ow; ++ox)
        for (int c = 0; c < s.c; ++c) {
          float best = -INFINITY;
          for (int ky = 0; ky < s.kernel; ++ky)
            for (int kx = 0; kx < s.kernel; ++kx) {
              const int iy = oy * s.stride + ky, ix = ox * s.stride + kx;
              const float v = x[((static_cast<size_t>(b) * s.ih + iy) * s.iw + ix) * s.c + c];
              if (v > best || std::isnan(v)) best = v;
            }
          y[((static_cast<size_t>(b) * s.oh + oy) * s.ow + ox) * s.c + c] = best;
        }
}

}  // namespace edgevae::reference
