#include "pointwise.h"

#include "threads.h"
#include "tile.h"

namespace edgevae::EDGEVAE_ISA {

void activation(const float* x, size_t count, Activation act, float* y) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, activate(load(x + i), act));
  const int left = static_cast<int>(count - i);
  if (left > 0) store_first(y + i, activate(load_first(x + i, left), act), left);
}

void quantize(const float* x, size_t pixels, int channels, const float* inverse_scale, int zero, uint8_t* q) {
  for (size_t p = 0; p < pixels; ++p, x += channels, q += round_up(channels, 4)) {
    for (int c = 0; c < channels; c += kLanes) {
      const int left = channels - c;
      store_bytes(q + c, quantize(load_first(x + c, left) * load_first(inverse_scale + c, left), zero), left);
    }
  }
}

void max_pool(const MaxPoolShape& s, const float* x, float* y, Pool& pool) {
  // Keeps a if it is NaN or the larger, takes b if that is NaN: a NaN in the window is never lost.
  const auto larger = [](vf a, vf b) { return b > a || b != b ? b : a; };
  parallel_for(pool, s.n * s.oh, [&](int task, int) {
    const int b = task / s.oh, oy = task % s.oh;
    for (int ox = 0; ox < s.ow; ++ox) {
      const float* window =
          x + ((static_cast<size_t>(b) * s.ih + oy * s.stride) * s.iw + ox * s.stride) * s.c;
      float* out = y + ((static_cast<size_t>(b) * s.oh + oy) * s.ow + ox) * s.c;
      for (int c = 0; c < s.c; c += kLanes) {
        const int left = min_of(kLanes, s.c - c);
        vf best = load_first(window + c, left);
        for (int ky = 0; ky < s.kernel; ++ky) {
          for (int kx = 0; kx < s.kernel; ++kx) {
            const float* at = window + (static_cast<size_t>(ky) * s.iw + kx) * s.c + c;
            const vf v = load_first(at, left);
            // A NaN that is already held compares false with everything and stays.
            best = best != best ? best : larger(best, v);
          }
        }
        store_first(out + c, best, left);
      }
    }
  });
}

}  // namespace edgevae::EDGEVAE_ISA
