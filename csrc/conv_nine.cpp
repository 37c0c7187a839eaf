// conv, 4x4 with stride 2 and even output, by nine products (nine_products.h): 36 products for a 2x2 patch of
// output where the definition has 64. k runs over the four parities and their channels.
#include "conv.h"
#include "nine_products.h"

namespace edgevae::EDGEVAE_ISA {
namespace {

int parity_depth(const ConvShape& s) { return round_up(s.ic, kDepth); }

Products products(const ConvShape& s) {
  return Products(s.n, (s.oh / 2) * (s.ow / 2), kNine, s.ic, 4, s.oc, s.weights);
}

size_t packed_bytes(const ConvShape& s) { return products(s).packed_bytes(); }

void pack(const ConvShape& s, const float* weights, void* packed) {
  const Products p = products(s);
  __builtin_memset(packed, 0, p.packed_bytes());
  for (int o = 0; o < s.oc; ++o) {
    const Products::Channel channel = p.channel(packed, o);
    for (int i = 0; i < s.ic; ++i, weights += 16) {
      for (int parity = 0; parity < 4; ++parity) {
        const float* g = weights + parity / 2 * 4 + parity % 2;
        const float kernel[9] = {g[0], 0, g[2], 0, 0, 0, g[8], 0, g[10]};
        float nine[kNine];
        transform_weights(kernel, nine);
        for (int j = 0; j < kNine; ++j) {
          channel.set(j, parity * parity_depth(s) + i, 0, nine[j], 0);
        }
      }
    }
  }
}

size_t scratch(const ConvShape& s) { return scratch_floats(products(s)); }

void run(const ConvShape& s, const void* x, const void* packed, const Epilogue& epilogue, void* y,
         Scratch scratch, Pool& pool) {
  const Products p = products(s);
  const Output out{epilogue, y, s.oc};
  const int columns = s.ow / 2, rows = s.oh / 2;
  const auto gather = [&](int first, int size, float* at) {
    const size_t row = static_cast<size_t>(size) * kDepth, apart = static_cast<size_t>(size) * p.depth();
    each_row(first, size, rows, columns, [&](Position patch, int, int count) {
      for (; count > 0; --count, ++patch.x, at += kDepth) {
        const float* image =
            static_cast<const float*>(x) + static_cast<size_t>(patch.image) * s.ih * s.iw * s.ic;
        for (int parity = 0; parity < 4; ++parity) {
          const int top = 4 * patch.y + parity / 2 - s.pad_top, left = 4 * patch.x + parity % 2 - s.pad_left;
          gather_nine(Neighbours(image, s.ih, s.iw, s.ic, s.padding, top, left, 2), s.ic, apart, row,
                      at + static_cast<size_t>(parity) * parity_depth(s) * size);
        }
      }
    });
  };
  const auto finish = [&](int first, int size, int panel, const float* sums) {
    each_row(first, size, rows, columns, [&](Position patch, int i, int count) {
      const size_t row = static_cast<size_t>(patch.image) * s.oh + 2 * patch.y;
      finish_nine(p, sums, size, i, panel, row * s.ow + 2 * patch.x, s.ow, count, out);
    });
  };
  run_products(p, s.oc, packed, scratch, pool, gather, finish);
}

}  // namespace

extern const ConvKernel conv_nine;
const ConvKernel conv_nine = {packed_bytes, pack, scratch, run};

}  // namespace edgevae::EDGEVAE_ISA
