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
  return Products(s.n, s.oh * s.ow, 1, s.kh * s.kw * input_units(s.ic, s.weights), 1, s.oc, s.weights);
}

size_t packed_bytes(const ConvShape& s) { return products(s).packed_bytes(); }

// (oc, ic, kh, kw) to k = (ky, kx, ic).
void pack(const ConvShape& s, const float* weights, void* packed) {
  const Products p = products(s);
  const int taps = s.kh * s.kw, units = input_units(s.ic, s.weights);
  const int per_unit = s.weights == WeightType::kQuads ? 4 : 1;
  __builtin_memset(packed, 0, p.packed_bytes());
  for (int o = 0; o < s.oc; ++o) {
    const Products::Channel channel = p.channel(packed, o);
    for (int i = 0; i < s.ic; ++i) {
      for (int tap = 0; tap < taps; ++tap) {
        channel.set(0, tap * units + i / per_unit, i % per_unit, *weights++, s.input_zero);
      }
    }
  }
}

size_t scratch(const ConvShape& s) { return scratch_floats(products(s)); }

// Gathers the taps of `count` output pixels of one row, `ic` units each. What they see of a row of the image
// are neighbours in memory, but for the pixels at its ends that see beyond it.
void gather_row(const ConvShape& s, int ic, const float* image, Position first, int count, int depth,
                int tile_pixels, float* at) {
  const float zero = zero_padding(s.weights, s.input_zero);
  const int row_units = s.kw * ic;
  const auto x0 = [&](int i) { return (first.x + i) * s.stride - s.pad_left; };
  int begin = 0, end = count;  // pixels that see whole rows
  while (begin < end && x0(begin) < 0) ++begin;
  while (end > begin && x0(end - 1) + s.kw > s.iw) --end;
  image += static_cast<size_t>(first.image) * s.ih * s.iw * ic;
  int k = 0;
  for (int ky = 0; ky < s.kh; ++ky, k += row_units) {
    int y = first.y * s.stride - s.pad_top + ky;
    const bool inside = y >= 0 && y < s.ih;
    if (!inside && s.padding == Padding::kZeros) {
      put(at, tile_pixels, k, nullptr, 0, count, row_units, zero);
      continue;
    }
    if (!inside) y = y < 0 ? 0 : s.ih - 1;
    const float* row = image + static_cast<size_t>(y) * s.iw * ic;
    const ptrdiff_t step = static_cast<ptrdiff_t>(s.stride) * ic;
    put(at + begin * kDepth, tile_pixels, k, row + static_cast<ptrdiff_t>(x0(begin)) * ic, step, end - begin,
        row_units, zero);
    for (int i = 0; i < count; ++i) {
      if (i == begin) i = end;
      if (i >= count) break;
      for (int kx = 0; kx < s.kw; ++kx) {
        const int wanted = x0(i) + kx, x = max_of(0, min_of(wanted, s.iw - 1));
        const bool outside = x != wanted && s.padding == Padding::kZeros;
        put(at + i * kDepth, tile_pixels, k + kx * ic,
            outside ? nullptr : row + static_cast<ptrdiff_t>(x) * ic, 0, 1, ic, zero);
      }
    }
  }
  put(at, tile_pixels, k, nullptr, 0, count, depth - k, 0.0f);
}

void run(const ConvShape& s, const void* x, const void* packed, const Epilogue& epilogue, void* y,
         Scratch scratch, Pool& pool) {
  const Products p = products(s);
  // A row of a patch lies in one piece. To the output, it is a pixel.
  const int row_channels = s.oc / s.patch;
  const Output out{epilogue, y, row_channels};
  const int units = input_units(s.ic, s.weights);
  const auto gather = [&](int first, int size, float* at) {
    each_row(first, size, s.oh, s.ow, [&](Position position, int i, int count) {
      gather_row(s, units, static_cast<const float*>(x), position, count, p.depth(), size, at + i * kDepth);
    });
  };
  const auto finish = [&](int first, int size, int panel, const float* sums) {
    const int32_t* zero_sums = p.zero_sums(packed, panel);
    const int width = p.panel_width(panel);
    each_row(first, size, s.oh, s.ow, [&](Position position, int i, int count) {
      const int begin = panel * p.width(), end = min_of(begin + width, s.outputs);
      for (int o = begin, next; o < end; o = next) {
        const int part = o / row_channels;
        next = min_of(min_of(o + kLanes, (part + 1) * row_channels), end);
        const size_t row = static_cast<size_t>(position.image) * s.out_h + s.out_y +
                           position.y * s.out_step * s.patch + part;
        // Channel o of this place is number o % row_channels of its row.
        const size_t to = row * (s.out_w / s.patch) + s.out_x + position.x * s.out_step - part;
        const float* from = sums + i * width + (o - begin);
        const int32_t* zeros = zero_sums + (o - begin);
        const WeightType type = p.type;
        out.put(Places<1>{{to}, s.out_step, count, o, next - o, {o}},
                [=](int j, vf* sum) { *sum = finished(from + j * width, zeros, type); });
      }
    });
  };
  run_products(p, s.outputs, packed, scratch, pool, gather, finish);
}

}  // namespace

extern const ConvKernel conv;
const ConvKernel conv = {packed_bytes, pack, scratch, run};

}  // namespace edgevae::EDGEVAE_ISA
