// conv, fast and of any shape: an implicit matrix product. The taps under a few output pixels are gathered
// into the second level cache once and multiplied with every panel of weights; nothing is stored between
// gathering and the activated output.
//
// Products: exactly those of the definition. Bytes: each weight is read once per block of pixels, so a
// layer with few pixels (4x4 maps, linear) runs at the speed of memory, the others at that of the
// multipliers.
#include "conv.h"

#include "products.h"

namespace edgevae::EDGEVAE_ISA {
namespace {

Products products(const ConvShape& s) {
  return Products(s.n, s.oh * s.ow, 1, s.kh * s.kw * input_units(s.ic, s.weights), s.oc, s.weights);
}

size_t packed_bytes(const ConvShape& s) { return products(s).packed_bytes(); }

// (oc, ic, kh, kw) to k = (ky, kx, ic).
void pack(const ConvShape& s, const float* weights, void* packed) {
  const Products p = products(s);
  const int taps = s.kh * s.kw, units = input_units(s.ic, s.weights);
  const int per_unit = s.weights == WeightType::kQuads ? 4 : 1;
  __builtin_memset(packed, 0, p.packed_bytes());
  for (int o = 0; o < s.oc; ++o) {
    for (int i = 0; i < s.ic; ++i) {
      for (int tap = 0; tap < taps; ++tap) {
        p.set(packed, o, 0, tap * units + i / per_unit, i % per_unit, *weights++, s.input_zero);
      }
    }
  }
}

size_t scratch(const ConvShape& s) { return scratch_floats(products(s)); }

// Gathers the taps of one output pixel, `ic` units each.
void gather_taps(const ConvShape& s, int ic, const float* image, const Position& pixel, int depth,
                 int tile_pixels, float* at) {
  const float zero = zero_padding(s.weights, s.input_zero);
  image += static_cast<size_t>(pixel.image) * s.ih * s.iw * ic;
  const int y0 = pixel.y * s.stride - s.pad_top, x0 = pixel.x * s.stride - s.pad_left;
  const bool columns_inside = x0 >= 0 && x0 + s.kw <= s.iw;
  const int row_units = s.kw * ic;
  int k = 0;
  if (columns_inside && y0 >= 0 && y0 + s.kh <= s.ih &&
      row_units % kDepth == 0) {  // most pixels of most layers
    const float* row = image + (static_cast<size_t>(y0) * s.iw + x0) * ic;
    for (int ky = 0; ky < s.kh; ++ky, row += static_cast<size_t>(s.iw) * ic) {
      for (int i = 0; i < row_units; i += kDepth, at += tile_pixels * kDepth) {
        __builtin_memcpy(at, row + i, kDepth * sizeof(float));
      }
    }
    return;
  }
  for (int ky = 0; ky < s.kh; ++ky) {
    int y = y0 + ky;
    const bool row_inside = y >= 0 && y < s.ih;
    if (!row_inside && s.padding == Padding::kReplicate) y = y < 0 ? 0 : s.ih - 1;
    const bool row_zero = !row_inside && s.padding == Padding::kZeros;
    const float* row = row_zero ? nullptr : image + static_cast<size_t>(y) * s.iw * ic;
    if (row_zero || columns_inside) {  // the taps of a kernel row are neighbours in memory
      put(at, tile_pixels, k, row_zero ? nullptr : row + static_cast<ptrdiff_t>(x0) * ic, row_units, zero);
      k += row_units;
      continue;
    }
    for (int kx = 0; kx < s.kw; ++kx, k += ic) {
      int x = x0 + kx;
      const bool inside = x >= 0 && x < s.iw;
      if (!inside && s.padding == Padding::kReplicate) x = x < 0 ? 0 : s.iw - 1;
      const bool outside = !inside && s.padding == Padding::kZeros;
      put(at, tile_pixels, k, outside ? nullptr : row + static_cast<ptrdiff_t>(x) * ic, ic, zero);
    }
  }
  put(at, tile_pixels, k, nullptr, depth - k, 0.0f);
}

void run(const ConvShape& s, const void* x, const void* packed, const Epilogue& epilogue, void* y,
         Scratch scratch, Pool& pool) {
  const Products p = products(s);
  const Output out{epilogue, y, s.oc};
  const int units = input_units(s.ic, s.weights);
  const auto gather = [&](int first, int size, float* at) {
    Position pixel(first, s.oh, s.ow);
    for (int i = 0; i < size; ++i, pixel.next(s.oh, s.ow)) {
      gather_taps(s, units, static_cast<const float*>(x), pixel, p.depth(), size, at + i * kDepth);
    }
  };
  const auto finish = [&](int first, int size, int panel, const float* sums) {
    const int32_t* zero_sums = p.zero_sums(packed) + panel * p.width();
    out.with_put([&](auto put_out) {
      Position pixel(first, s.oh, s.ow);
      for (int i = 0; i < size; ++i, pixel.next(s.oh, s.ow), sums += p.width()) {
        const size_t row = static_cast<size_t>(pixel.image) * s.out_h + s.out_y + pixel.y * s.out_step;
        const size_t at = row * s.out_w + s.out_x + pixel.x * s.out_step;
        for (int v = 0; v < p.vectors; ++v) {
          const int o = panel * p.width() + v * kLanes;
          if (o >= s.outputs) break;
          put_out(at, o, s.outputs - o, finished(sums + v * kLanes, zero_sums + v * kLanes, p.type), o);
        }
      }
    });
  };
  run_products(p, s.outputs, packed, scratch, pool, gather, finish);
}

}  // namespace

extern const ConvKernel conv;
const ConvKernel conv = {packed_bytes, pack, scratch, run};

}  // namespace edgevae::EDGEVAE_ISA
