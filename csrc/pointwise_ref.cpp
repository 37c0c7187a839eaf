#include "pointwise.h"

#include <cmath>

#include "aligned.h"

#include "pointwise_ref.h"

namespace edgevae::reference {

void activation(const float* x, size_t count, Activation act, float* y) {
  for (size_t i = 0; i < count; ++i) y[i] = static_cast<float>(activate(x[i], act));
}

void quantize(const float* x, size_t pixels, int channels, const float* inverse_scale, int zero,
              unsigned char* q) {
  const Floats none(channels, 0.0f);
  const Epilogue e{none.data(), nullptr, {}, inverse_scale, zero};
  for (size_t p = 0; p < pixels; ++p)
    for (int c = 0; c < channels; ++c) write_output(e, x[p * channels + c], p, channels, c, c, q);
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
