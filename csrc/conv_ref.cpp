// conv, as the contract says it, in double.
#include "conv.h"

#include <algorithm>

#include "pointwise_ref.h"

namespace edgevae::reference {
namespace {

size_t packed_bytes(const ConvShape& s) {
  return static_cast<size_t>(s.oc) * s.ic * s.kh * s.kw * sizeof(float);
}

void pack(const ConvShape& s, const float* weights, void* packed) {
  copy_weights(weights, packed_bytes(s) / sizeof(float), s.weights, static_cast<float*>(packed));
}

size_t scratch_floats(const ConvShape&) { return 0; }

void run(const ConvShape& s, const void* x, const void* packed, const Epilogue& epilogue, void* y, Scratch,
         Pool&) {
  const float* w = static_cast<const float*>(packed);
  const bool replicate = s.padding == Padding::kReplicate;
  for (int b = 0; b < s.n; ++b)
    for (int oy = 0; oy < s.oh; ++oy)
      for (int ox = 0; ox < s.ow; ++ox)
        for (int o = 0; o < s.outputs; ++o) {
          double sum = 0;
          for (int ky = 0; ky < s.kh; ++ky)
            for (int kx = 0; kx < s.kw; ++kx) {
              int iy = oy * s.stride + ky - s.pad_top, ix = ox * s.stride + kx - s.pad_left;
              const bool inside = iy >= 0 && iy < s.ih && ix >= 0 && ix < s.iw;
              if (!inside && !replicate) continue;
              iy = std::clamp(iy, 0, s.ih - 1);
              ix = std::clamp(ix, 0, s.iw - 1);
              const size_t pixel = (static_cast<size_t>(b) * s.ih + iy) * s.iw + ix;
              for (int i = 0; i < s.ic; ++i)
                sum += read_input(x, pixel, s.ic, i, s.weights, s.input_zero) *
                       w[((static_cast<size_t>(o) * s.ic + i) * s.kh + ky) * s.kw + kx];
            }
          const int channels = s.oc / (s.patch * s.patch), part = o / channels;  // of a patch
          const int row = s.out_y + oy * s.out_step * s.patch + part / s.patch;
          const int column = s.out_x + ox * s.out_step * s.patch + part % s.patch;
          write_output(epilogue, sum, (static_cast<size_t>(b) * s.out_h + row) * s.out_w + column, channels,
                       o % channels, o, y);
        }
}

}  // namespace

extern const ConvKernel conv, conv_nine;
const ConvKernel conv = {packed_bytes, pack, scratch_floats, run};
const ConvKernel conv_nine = conv;  // one definition for every method

}  // namespace edgevae::reference
