// upsample_conv, literally: each output pixel reads its nine taps of the upsampled image, in double.
#include "upsample_conv.h"

#include <algorithm>

#include "pointwise_ref.h"

namespace edgevae::reference {
namespace {

size_t packed_bytes(const UpsampleConvShape& s) {
  return static_cast<size_t>(s.oc) * s.ic * 9 * sizeof(float);
}

void pack(const UpsampleConvShape& s, const float* weights, void* packed) {
  copy_weights(weights, packed_bytes(s) / sizeof(float), s.weights, static_cast<float*>(packed));
}

size_t scratch_floats(const UpsampleConvShape&) { return 0; }

void run(const UpsampleConvShape& s, const float* x, const void* packed, const float* bias, Activation act,
         float* y, Scratch, Pool&) {
  const float* w = static_cast<const float*>(packed);
  const int oh = 2 * s.ih, ow = 2 * s.iw;
  for (int b = 0; b < s.n; ++b)
    for (int oy = 0; oy < oh; ++oy)
      for (int ox = 0; ox < ow; ++ox)
        for (int o = 0; o < s.oc; ++o) {
          double sum = bias[o];
          for (int ky = 0; ky < 3; ++ky)
            for (int kx = 0; kx < 3; ++kx) {
              int uy = oy + ky - 1, ux = ox + kx - 1;  // in the upsampled image
              const bool inside = uy >= 0 && uy < oh && ux >= 0 && ux < ow;
              if (!inside && s.padding == Padding::kZeros) continue;
              uy = std::clamp(uy, 0, oh - 1);
              ux = std::clamp(ux, 0, ow - 1);
              const float* pixel = x + ((static_cast<size_t>(b) * s.ih + uy / 2) * s.iw + ux / 2) * s.ic;
              for (int i = 0; i < s.ic; ++i)
                sum +=
                    static_cast<double>(pixel[i]) * w[(static_cast<size_t>(o) * s.ic + i) * 9 + ky * 3 + kx];
            }
          y[((static_cast<size_t>(b) * oh + oy) * ow + ox) * s.oc + o] =
              static_cast<float>(activate(sum, act));
        }
}

}  // namespace

extern const UpsampleConvKernel upsample_conv;
const UpsampleConvKernel upsample_conv = {packed_bytes, pack, scratch_floats, run};

}  // namespace edgevae::reference
