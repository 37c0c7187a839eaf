// frame_pack, fast. An output row is made in two steps: the source rows under it are added up, weighted,
// over their whole length (long vectors of consecutive bytes), then each output pixel adds up its few
// columns of that one row. Each source byte is converted and multiplied once; the horizontal step sees only
// one row in height / out_height. Depth reads one sample per output pixel.
#include "frame_pack.h"

#include <new>

#include "depth_fill.h"
#include "frame_span.h"
#include "threads.h"
#include "tile.h"

namespace edgevae::EDGEVAE_ISA {

extern const DepthFillKernel depth_fill;

namespace {

typedef float rgbx __attribute__((vector_size(16)));

// sums[i] += share * samples[i], or = on the first row.
void add_row(const uint8_t* samples, int count, float share, bool first, float* sums) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const vf v = load_bytes(samples + i) * share;
    store(sums + i, first ? v : load(sums + i) + v);
  }
  for (; i < count; ++i) sums[i] = (first ? 0.0f : sums[i]) + share * samples[i];
}

// The same where pixels are not adjacent (a strided view, four-byte pixels).
void add_row_strided(const uint8_t* samples, int width, ptrdiff_t pixel, float share, bool first,
                     float* sums) {
  for (int x = 0; x < width; ++x) {
    for (int c = 0; c < 3; ++c) {
      sums[3 * x + c] = (first ? 0.0f : sums[3 * x + c]) + share * samples[x * pixel + c];
    }
  }
}

void color_row(const FramePack& f, int y, const Span* spans, float* sums) {
  const Span rows(Spacing(f.out_height, f.height), y);
  for (int r = rows.first; r <= rows.last; ++r) {
    const uint8_t* row = f.color + r * f.color_row;
    if (f.color_pixel == 3) {
      add_row(row, 3 * f.width, rows.share(r), r == rows.first, sums);
    } else {
      add_row_strided(row, f.width, f.color_pixel, rows.share(r), r == rows.first, sums);
    }
  }
  const InputEncoding& e = f.encoding;
  const int red = f.bgr ? 2 : 0, blue = 2 - red;
  const float gain = e.color_min_max ? 1.0f : 1 / 127.5f, offset = e.color_min_max ? 0.0f : -1.0f;
  float* out = f.out + y * f.out_row;
  for (int x = 0; x < f.out_width; ++x, out += f.out_pixel) {
    const Span& columns = spans[x];
    rgbx mean = {};
    for (int i = columns.first; i <= columns.last; ++i) {
      rgbx v;  // the fourth lane is the next pixel's first sample, or the padding of the row
      __builtin_memcpy(&v, sums + 3 * i, sizeof v);
      mean += v * columns.share(i);
    }
    if (e.channels == 1) {
      out[0] = (0.299f * mean[red] + 0.587f * mean[1] + 0.114f * mean[blue]) * gain + offset;
    } else {
      out[0] = mean[red] * gain + offset;
      out[f.out_channel] = mean[1] * gain + offset;
      out[2 * f.out_channel] = mean[blue] * gain + offset;
    }
  }
}

// Metres to the network's value, before no_reading is filled in.
vf encode_depth(const InputEncoding& e, vf d) {
  if (e.depth == DepthEncoding::kMinMax) return d;
  const float lo = e.min_m, hi = e.max_m;
  d = vmin(vmax(d, broadcast(lo)), broadcast(hi));
  switch (e.depth) {
    case DepthEncoding::kInverse:
      return (1.0f / d - 1 / hi) * (2 / (1 / lo - 1 / hi)) - 1.0f;
    case DepthEncoding::kLog:
      return vlog(d * (1 / lo)) * (2 / __builtin_logf(hi / lo)) - 1.0f;
    default:
      return (d - lo) * (2 / (hi - lo)) - 1.0f;
  }
}

void depth_row(const FramePack& f, int y, float* metres) {
  const InputEncoding& e = f.encoding;
  const Spacing rows(f.out_height, f.height), columns(f.out_width, f.width);
  const char* samples = static_cast<const char*>(f.depth) + rows.centre(y) * f.depth_row;
  for (int x = 0; x < f.out_width; ++x) {
    const char* at = samples + columns.centre(x) * f.depth_pixel;
    if (f.depth_type == DepthType::kUint16) {
      uint16_t units;
      __builtin_memcpy(&units, at, sizeof units);
      metres[x] = units * f.depth_scale;
    } else {
      __builtin_memcpy(&metres[x], at, sizeof(float));
    }
  }
  const vf largest = broadcast(3.402823466e38f), hole = broadcast(e.fill ? __builtin_nanf("") : e.no_reading);
  float* out = f.out + 3 * f.out_channel + y * f.out_row;
  for (int x = 0; x < f.out_width; x += kLanes) {
    const int count = min_of(kLanes, f.out_width - x);
    const vf d = load_first(metres + x, count);
    const vi reading = (d > 0.0f) & (d <= largest);  // NaN and infinity fail one of them
    const vf safe = select(reading, d, broadcast(1.0f));
    const vf value = select(reading, encode_depth(e, safe), hole);
    for (int i = 0; i < count; ++i) {
      out[(x + i) * f.out_pixel] = value[i];
      if (f.mask != nullptr) f.mask[static_cast<size_t>(y) * f.out_width + x + i] = reading[i] != 0;
      // no_reading may be any number: a later pass finds in the scratch row which values are readings.
      metres[x + i] = reading[i] != 0 ? 1.0f : 0.0f;
    }
  }
}

void fill_no_depth(const FramePack& f) {
  for (int y = 0; y < f.out_height; ++y) {
    for (int x = 0; x < f.out_width; ++x) {
      f.out[3 * f.out_channel + y * f.out_row + x * f.out_pixel] = f.encoding.nothing();
      if (f.mask != nullptr) f.mask[static_cast<size_t>(y) * f.out_width + x] = 0;
    }
  }
}

// Maps channel c's own range to [-1, 1]; `used` (or null for all) says which pixels count. A range of at most
// `flat` is a constant image and becomes -1.
void stretch(const FramePack& f, int c, const float* used, float flat) {
  float* plane = f.out + c * f.out_channel;
  float lo = 3.402823466e38f, hi = -lo;
  const auto each = [&](auto&& visit) {
    for (int y = 0; y < f.out_height; ++y) {
      for (int x = 0; x < f.out_width; ++x) {
        if (used == nullptr || used[static_cast<size_t>(y) * f.out_width + x] != 0) {
          visit(plane[y * f.out_row + x * f.out_pixel]);
        }
      }
    }
  };
  each([&](float& v) {
    lo = v < lo ? v : lo;
    hi = v > hi ? v : hi;
  });
  each([&](float& v) { v = hi - lo > flat ? 2 * (v - lo) / (hi - lo) - 1 : -1.0f; });
}

// Per thread one row of colour sums (and one lane of padding) and one of depth, rounded up to cache lines.
// The first thread's part also keeps what all share: which pixels had a reading (for min-max) or what filling
// their holes takes, and the spans of the columns.
size_t row_floats(const FramePack& f) {
  return (static_cast<size_t>(3) * f.width + 4 + f.out_width + kLanes + 15) / 16 * 16;
}

static_assert(sizeof(Span) == 5 * sizeof(float) && alignof(Span) == alignof(float));

size_t plane_floats(const FramePack& f) {
  return f.encoding.fill ? depth_fill.scratch_floats(f.out_height, f.out_width)
                         : static_cast<size_t>(f.out_height) * f.out_width;
}

size_t scratch_floats(const FramePack& f) {
  return row_floats(f) + plane_floats(f) + static_cast<size_t>(5) * f.out_width;
}

void run(const FramePack& f, Scratch scratch, Pool& pool) {
  const InputEncoding& e = f.encoding;
  const bool depth = e.channels == 4 && f.depth_type != DepthType::kNone;
  float* readings = scratch.base + row_floats(f);
  auto* spans = reinterpret_cast<Span*>(readings + plane_floats(f));
  const Spacing columns(f.out_width, f.width);
  for (int x = 0; x < f.out_width; ++x) new (spans + x) Span(columns, x);
  const int tasks = min_of(f.out_height, pool_threads(pool) == 1 ? 1 : 4 * pool_threads(pool));
  parallel_for(pool, tasks, [&](int task, int thread) {
    float* sums = scratch.base + static_cast<size_t>(thread) * scratch.per_thread;
    float* metres = sums + 3 * f.width + 4;
    for (int i = 0; i < 4; ++i) sums[3 * f.width + i] = 0;
    const int begin = task * f.out_height / tasks, end = (task + 1) * f.out_height / tasks;
    for (int y = begin; y < end; ++y) {
      color_row(f, y, spans, sums);
      if (!depth) continue;
      depth_row(f, y, metres);
      if (e.depth == DepthEncoding::kMinMax) {
        __builtin_memcpy(readings + static_cast<size_t>(y) * f.out_width, metres,
                         f.out_width * sizeof(float));
      }
    }
  });
  if (e.channels == 4 && !depth) fill_no_depth(f);
  if (e.color_min_max) {
    for (int c = 0; c < min_of(3, e.channels); ++c) stretch(f, c, nullptr, kFlatColor);
  }
  if (depth && e.depth == DepthEncoding::kMinMax) stretch(f, 3, readings, 0);
  if (depth && e.fill) {
    depth_fill.run({f.out, f.out_height, f.out_width, f.out_channel, f.out_row, f.out_pixel, e.nothing()},
                   readings);
  }
}

vf decode_depth(const InputEncoding& e, vf x) {
  const vf t = vmin(vmax(x * 0.5f + 0.5f, vf{}), broadcast(1.0f));
  const float lo = e.min_m, hi = e.max_m;
  switch (e.depth) {
    case DepthEncoding::kLinear:
      return t * (hi - lo) + lo;
    case DepthEncoding::kInverse:
      return 1.0f / (t * (1 / lo - 1 / hi) + 1 / hi);
    case DepthEncoding::kLog:
      return vexp(t * __builtin_logf(hi / lo)) * lo;
    default:
      return t;
  }
}

}  // namespace

extern const FramePackKernel frame_pack;
const FramePackKernel frame_pack = {scratch_floats, run};

void frame_unpack(const float* x, size_t pixels, const InputEncoding& e, uint8_t* rgb, float* depth) {
  for (size_t i = 0; i < pixels; ++i) {
    const float* in = x + i * e.channels;
    for (int c = 0; c < 3; ++c) {
      const float v = (in[e.channels == 1 ? 0 : c] + 1.0f) * 127.5f;
      rgb[3 * i + c] = v >= 0 ? static_cast<uint8_t>(v < 255 ? __builtin_rintf(v) : 255) : 0;
    }
  }
  if (depth == nullptr) return;
  for (size_t i = 0; i < pixels; i += kLanes) {
    const int count = pixels - i < kLanes ? static_cast<int>(pixels - i) : kLanes;
    float raw[kLanes] = {};
    for (int k = 0; k < count; ++k) raw[k] = x[(i + k) * e.channels + 3];
    store_first(depth + i, decode_depth(e, load(raw)), count);
  }
}

}  // namespace edgevae::EDGEVAE_ISA
