// upsample_conv, literally: each output pixel reads its nine taps of the upsampled image, in double. Merged
// taps of quads: each reads the four that its phase has.
#include "upsample_conv.h"

#include <algorithm>

#include "pointwise_ref.h"

namespace edgevae::reference {
namespace {

bool merged(const UpsampleConvShape& s) { return s.phases; }

size_t packed_bytes(const UpsampleConvShape& s) {
  return static_cast<size_t>(s.oc) * s.ic * (merged(s) ? 16 : 9) * sizeof(float);
}

void pack(const UpsampleConvShape& s, const float* weights, void* packed) {
  copy_weights(weights, packed_bytes(s) / sizeof(float), s.weights, static_cast<float*>(packed));
}

size_t scratch_floats(const UpsampleConvShape&) { return 0; }

void run(const UpsampleConvShape& s, const void* x, const void* packed, const Epilogue& epilogue, void* y,
         Scratch, Pool&) {
  const float* w = static_cast<const float*>(packed);
  const int oh = 2 * s.ih, ow = 2 * s.iw, taps = merged(s) ? 2 : 3;
  for (int b = 0; b < s.n; ++b)
    for (int oy = 0; oy < oh; ++oy)
      for (int ox = 0; ox < ow; ++ox)
        for (int o = 0; o < s.oc; ++o) {
          const int phase = merged(s) ? oy % 2 * 2 + ox % 2 : 0;
          double sum = 0;
          for (int ky = 0; ky < taps; ++ky)
            for (int kx = 0; kx < taps; ++kx) {
              // In the upsampled image; the second merged tap of phase 0 and the first of phase 1 are the
              // pixel's own.
              int uy = merged(s) ? 2 * (oy / 2 - 1 + phase / 2 + ky) : oy + ky - 1;
              int ux = merged(s) ? 2 * (ox / 2 - 1 + phase % 2 + kx) : ox + kx - 1;
              const bool inside = uy >= 0 && uy < oh && ux >= 0 && ux < ow;
              if (!inside && s.padding == Padding::kZeros) continue;
              uy = std::clamp(uy, 0, oh - 1);
              ux = std::clamp(ux, 0, ow - 1);
              const size_t pixel = (static_cast<size_t>(b) * s.ih + uy / 2) * s.iw + ux / 2;
              for (int i = 0; i < s.ic; ++i)
                sum += read_input(x, pixel, s.ic, i, s.weights, s.input_zero) *
                       w[(((static_cast<size_t>(phase) * s.oc + o) * s.ic + i) * taps + ky) * taps + kx];
            }
          write_output(epilogue, sum, (static_cast<size_t>(b) * oh + oy) * ow + ox, s.oc, o, phase * s.oc + o,
                       y);
        }
}

}  // namespace

extern const UpsampleConvKernel upsample_conv;
const UpsampleConvKernel upsample_conv = {packed_bytes, pack, scratch_floats, run};

}  // namespace edgevae::reference
