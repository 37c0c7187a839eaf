// upsample_conv, fast, in one of three ways.
//
// Nine products (nine_products.h): the differences are taken while the pixels are gathered, once per block
// and not once per output channel; the signs and sums of the output transform are applied when the nine
// results leave. Products: 9 per input pixel and channel pair, where the definition has 36.
//
// Four phases, where the weights come so (in integers, and of transposed convolutions): the 3x3 neighbours of
// a pixel are gathered once, each phase meets its 2x2 of them. 16 products.
//
// Columns, where a layer has at most kFewChannels output channels (the last block of a decoder, 64 -> 4): the
// other two would leave most lanes of their panels idle. Turned round, each input pixel is multiplied once
// with everything that any output near it wants of it: four phases of four merged taps, 16 columns per output
// channel, all lanes in use. The outputs are then sums of four columns of neighbouring pixels. 64 -> 4 takes
// 4 vector products per k with 16 lanes, where nine products take 9.
#include "methods.h"
#include "nine_products.h"
#include "upsample_conv.h"

namespace edgevae::EDGEVAE_ISA {
namespace {

bool by_columns(const UpsampleConvShape& s) { return s.oc <= kFewChannels; }
bool in_quads(const UpsampleConvShape& s) { return s.weights == WeightType::kQuads; }
int units(const UpsampleConvShape& s) { return input_units(s.ic, s.weights); }

Products products(const UpsampleConvShape& s) {
  const int pixels = s.ih * s.iw, k = round_up(units(s), kDepth);
  if (by_columns(s)) return Products(s.n, pixels, 1, units(s), 1, 16 * s.oc, s.weights);
  if (!s.phases) return Products(s.n, pixels, kNine, units(s), 1, s.oc, s.weights);
  Products p(s.n, pixels, 4, units(s), 2, s.oc, s.weights);
  p.runs = 2;
  p.gathered = 9 * k;
  for (int phase = 0; phase < 4; ++phase) {
    for (int ty = 0; ty < 2; ++ty) p.offsets[phase][ty] = (3 * (phase / 2 + ty) + phase % 2) * k;
  }
  return p;
}

size_t packed_bytes(const UpsampleConvShape& s) { return products(s).packed_bytes(); }

// The taps of phase (py, px) that fall on the same input pixel, summed: out[phase][ty][tx], over the pixels
// (i - 1 + py + ty, j - 1 + px + tx).
void merge_taps(const float* g, float* out) {
  for (int phase = 0; phase < 4; ++phase) {
    double sums[4] = {};
    for (int ky = 0; ky < 3; ++ky) {
      for (int kx = 0; kx < 3; ++kx) {
        // Tap k of phase p reads upsampled position 2i + p + k - 1, that is pixel i - 1 + (p + k + 1) / 2.
        const int ty = (phase / 2 + ky + 1) / 2 - phase / 2, tx = (phase % 2 + kx + 1) / 2 - phase % 2;
        sums[2 * ty + tx] += g[3 * ky + kx];
      }
    }
    for (int tap = 0; tap < 4; ++tap) out[4 * phase + tap] = static_cast<float>(sums[tap]);
  }
}

// Merged tap `tap` of `phase`, from (4, oc, ic, 2, 2).
float merged_tap(const UpsampleConvShape& s, const float* weights, int phase, int o, int i, int tap) {
  return weights[((static_cast<size_t>(phase) * s.oc + o) * s.ic + i) * 4 + tap];
}

void pack(const UpsampleConvShape& s, const float* weights, void* packed) {
  const Products p = products(s);
  const int per_unit = in_quads(s) ? 4 : 1;
  __builtin_memset(packed, 0, p.packed_bytes());
  for (int o = 0; o < s.oc; ++o) {
    const Products::Channel channel = p.channel(packed, o);  // but by columns
    for (int i = 0; i < s.ic; ++i) {
      const int unit = i / per_unit, part = i % per_unit;
      const float* g = weights + (static_cast<size_t>(o) * s.ic + i) * 9;
      if (!s.phases && !by_columns(s)) {
        float nine[kNine];
        transform_weights(g, nine);
        for (int j = 0; j < kNine; ++j) channel.set(j, unit, part, nine[j], 0);
        continue;
      }
      float merged[16];
      if (s.phases) {
        for (int j = 0; j < 16; ++j) merged[j] = merged_tap(s, weights, j / 4, o, i, j % 4);
      } else {
        merge_taps(g, merged);
      }
      for (int j = 0; j < 16; ++j) {
        if (by_columns(s)) {
          p.channel(packed, j * s.oc + o).set(0, unit, part, merged[j], s.input_zero);
        } else {
          channel.set(j / 4, j % 4 * (p.run_depth / 2) + unit, part, merged[j], s.input_zero);
        }
      }
    }
  }
}

// Columns are made strip by strip: some rows of an image and one more on either side, which the neighbouring
// strip makes again.
struct Strips {
  static constexpr int kFloats = 96 * 1024;  // of columns, 384 KiB
  static constexpr int kRows = 4;            // at least, or the rows made twice would cost too much

  int columns, strips, rows;  // columns per pixel, strips per image, rows in the largest

  Strips(const UpsampleConvShape& s, int threads) {
    const Products p = products(s);
    columns = p.panels() * p.width();
    const int fit = max_of(kRows, kFloats / (s.iw * columns) - 2);
    strips = max_of(ceil_div(s.ih, fit), min_of(ceil_div(2 * threads, s.n), s.ih / kRows));
    rows = ceil_div(s.ih, strips);
  }
  size_t floats(const UpsampleConvShape& s) const { return static_cast<size_t>(rows + 2) * s.iw * columns; }
};

size_t scratch(const UpsampleConvShape& s) {
  const Products p = products(s);
  if (!by_columns(s)) return scratch_floats(p);
  return Strips(s, 1).floats(s) + static_cast<size_t>(p.tile_pixels()) * p.gathered + p.tile_sums();
}

// All columns of some pixels of x that follow each other.
void make_columns(const Products& p, const UpsampleConvShape& s, const float* x, const void* packed,
                  int pixels, float* gathered, float* sums, float* out) {
  const Tiling tiling(pixels, p.tile_pixels());
  const int columns = p.panels() * p.width(), ic = units(s);
  for (int t = 0; t < tiling.tiles; ++t) {
    const int size = tiling.size(t);
    put(gathered, size, 0, x + static_cast<size_t>(tiling.begin(t)) * ic, ic, size, ic, 0.0f);
    put(gathered, size, ic, nullptr, 0, size, p.gathered - ic, 0.0f);
    if (in_quads(s)) shift_quads(gathered, static_cast<size_t>(size) * p.gathered);
    for (int panel = 0; panel < p.panels(); ++panel) {
      const int32_t* zero_sums = p.zero_sums(packed, panel);
      const int width = p.panel_width(panel);
      tile_for(size, width / kLanes, p.type, p.rows)(run_of(p, p.gathered, true, p.panel(packed, panel), 0),
                                                     gathered, p.panel(packed, panel), sums);
      for (int i = 0; i < size; ++i) {
        float* to = out + static_cast<size_t>(tiling.begin(t) + i) * columns + panel * p.width();
        for (int lane = 0; lane < width; lane += kLanes) {
          const float* from = sums + i * width + lane;
          if (in_quads(s)) {
            store(to + lane, load_integers(from) - load_integers(zero_sums + lane));
          } else {
            store(to + lane, load(from));
          }
        }
      }
    }
  }
}

// Bias and scale of the 4 OC numbers over a pixel.
template <int OC>
struct PatchConstants {
  float bias[round_up(4 * OC, kLanes)] = {}, scale[round_up(4 * OC, kLanes)] = {};

  explicit PatchConstants(const Epilogue& e) {
    for (int i = 0; i < 4 * OC; ++i) {
      bias[i] = e.bias[i % OC];
      scale[i] = e.scale == nullptr ? 1.0f : e.scale[i];
    }
  }
};

// The four outputs over each pixel of input row `row` of `image`. rows[0..2] are the columns of the rows
// above, of it and below, of type T; null reads zero.
template <int OC, class T>
void finish_row(const UpsampleConvShape& s, const float* const* rows, int columns, int image, int row,
                const PatchConstants<OC>& constants, const Output& out) {
  constexpr int kNumbers = round_up(4 * OC, kLanes);
  static constexpr T kZeros[16 * OC] = {};
  const size_t top = (static_cast<size_t>(image) * 2 * s.ih + 2 * row) * 2 * s.iw, bottom = top + 2 * s.iw;
  const bool zeros = s.padding == Padding::kZeros;
  for (int j = 0; j < s.iw; ++j) {
    const T* at[3][3];
    for (int dx = 0; dx < 3; ++dx) {
      const int column = j + dx - 1;
      const bool inside = column >= 0 && column < s.iw;
      for (int dy = 0; dy < 3; ++dy) {
        const T* from =
            reinterpret_cast<const T*>(rows[dy]) + static_cast<size_t>(inside ? column : j) * columns;
        at[dy][dx] = rows[dy] == nullptr || (!inside && zeros) ? kZeros : from;
      }
    }
    T patch[kNumbers] = {};
    for (int phase = 0; phase < 4; ++phase) {
      for (int tap = 0; tap < 4; ++tap) {
        const T* from = at[phase / 2 + tap / 2][phase % 2 + tap % 2] + (4 * phase + tap) * OC;
        for (int o = 0; o < OC; ++o) patch[phase * OC + o] += from[o];
      }
    }
    float values[kNumbers];
    for (int i = 0; i < kNumbers; ++i) values[i] = static_cast<float>(patch[i]);
    const size_t pixels[4] = {top + 2 * j, top + 2 * j + 1, bottom + 2 * j, bottom + 2 * j + 1};
    if (out.epilogue.inverse_scale != nullptr) {
      const Places<4> places{
          {pixels[0], pixels[1], pixels[2], pixels[3]}, 0, 1, 0, OC, {0, OC, 2 * OC, 3 * OC}};
      out.put(places, [&](int, vf* group) {
        for (int phase = 0; phase < 4; ++phase) group[phase] = load_first(values + phase * OC, OC);
      });
      continue;
    }
    for (int i = 0; i < kNumbers; i += kLanes) {
      const vf sum = load(values + i) * load(constants.scale + i) + load(constants.bias + i);
      store(values + i, activate(sum, out.epilogue.act));
    }
    float* y = static_cast<float*>(out.y);
    __builtin_memcpy(y + pixels[0] * OC, values, 2 * OC * sizeof(float));
    __builtin_memcpy(y + pixels[2] * OC, values + 2 * OC, 2 * OC * sizeof(float));
  }
}

template <int OC>
void run_columns(const UpsampleConvShape& s, const float* x, const void* packed, const Output& out,
                 Scratch scratch, Pool& pool) {
  const Products p = products(s);
  const Strips strips(s, pool_threads(pool));
  const PatchConstants<OC> constants(out.epilogue);
  parallel_for(pool, s.n * strips.strips, [&](int task, int thread) {
    float* gathered = scratch.base + static_cast<size_t>(thread) * scratch.per_thread;
    float* sums = gathered + static_cast<size_t>(p.tile_pixels()) * p.gathered;
    float* columns = sums + p.tile_sums();
    const int image = task / strips.strips, strip = task % strips.strips;
    const int begin = strip * s.ih / strips.strips, end = (strip + 1) * s.ih / strips.strips;
    const int first = max_of(0, begin - 1), last = min_of(s.ih, end + 1);
    const float* from = x + (static_cast<size_t>(image) * s.ih + first) * s.iw * units(s);
    make_columns(p, s, from, packed, (last - first) * s.iw, gathered, sums, columns);
    for (int row = begin; row < end; ++row) {
      const float* rows[3];
      for (int d = 0; d < 3; ++d) {
        int near = row + d - 1;
        const bool inside = near >= 0 && near < s.ih;
        if (!inside) near = row;
        rows[d] = inside || s.padding == Padding::kReplicate
                      ? columns + static_cast<size_t>(near - first) * s.iw * strips.columns
                      : nullptr;
      }
      const auto finish = in_quads(s) ? finish_row<OC, int32_t> : finish_row<OC, float>;
      finish(s, rows, strips.columns, image, row, constants, out);
    }
  });
}

// As finish_nine, of sums that are the four outputs already.
void finish_phases(const Products& p, const float* sums, const int32_t* zero_sums, int size, int first,
                   int panel, size_t corner, int width, int count, const Output& out) {
  const int pixel = p.panel_width(panel), oc = p.channels;
  const size_t apart = static_cast<size_t>(size) * pixel;
  const WeightType type = p.type;
  sums += first * pixel;
  for (int v = 0; v < pixel / kLanes; ++v, sums += kLanes, zero_sums += kLanes) {
    const int o = panel * p.width() + v * kLanes;
    if (o >= oc) break;
    const size_t below = corner + width;
    const Places<4> places{{corner, corner + 1, below, below + 1}, 2, count, o, oc - o,
                           {o, oc + o, 2 * oc + o, 3 * oc + o}};
    out.put(places, [=](int i, vf* group) {
      for (int phase = 0; phase < 4; ++phase)
        group[phase] = finished(sums + phase * apart + i * pixel, zero_sums + phase * pixel, type);
    });
  }
}

void run(const UpsampleConvShape& s, const void* input, const void* packed, const Epilogue& epilogue, void* y,
         Scratch scratch, Pool& pool) {
  const auto* x = static_cast<const float*>(input);
  const Output out{epilogue, y, s.oc};
  if (by_columns(s)) {
    constexpr decltype(&run_columns<1>) by_channels[kFewChannels] = {run_columns<1>, run_columns<2>,
                                                                     run_columns<3>, run_columns<4>};
    return by_channels[s.oc - 1](s, x, packed, out, scratch, pool);
  }
  const Products p = products(s);
  const int ic = units(s), k = p.gathered / 9;
  const float zero = zero_padding(s.weights, s.input_zero);
  const auto gather = [&](int first, int size, float* at) {
    const size_t row = static_cast<size_t>(size) * kDepth, apart = static_cast<size_t>(size) * k;
    each_row(first, size, s.ih, s.iw, [&](Position pixel, int, int count) {
      const float* image = x + static_cast<size_t>(pixel.image) * s.ih * s.iw * ic;
      for (; count > 0; --count, ++pixel.x, at += kDepth) {
        const Neighbours near(image, s.ih, s.iw, ic, s.padding, pixel.y - 1, pixel.x - 1, 1);
        if (!s.phases) {
          gather_nine(near, ic, apart, row, at);
          continue;
        }
        for (int tap = 0; tap < 9; ++tap) {
          put(at + tap * apart, size, 0, near.at[tap / 3][tap % 3], 0, 1, ic, zero);
          put(at + tap * apart, size, ic, nullptr, 0, 1, k - ic, 0.0f);
        }
      }
    });
  };
  const auto finish = [&](int first, int size, int panel, const float* sums) {
    const int32_t* zero_sums = p.zero_sums(packed, panel);
    each_row(first, size, s.ih, s.iw, [&](Position pixel, int i, int count) {
      const size_t corner = (2 * (static_cast<size_t>(pixel.image) * s.ih + pixel.y) * s.iw + pixel.x) * 2;
      if (s.phases) {
        finish_phases(p, sums, zero_sums, size, i, panel, corner, 2 * s.iw, count, out);
      } else {
        finish_nine(p, sums, size, i, panel, corner, 2 * s.iw, count, out);
      }
    });
  };
  run_products(p, s.oc, packed, scratch, pool, gather, finish);
}

}  // namespace

extern const UpsampleConvKernel upsample_conv;
const UpsampleConvKernel upsample_conv = {packed_bytes, pack, scratch, run};

}  // namespace edgevae::EDGEVAE_ISA
