// frame_pack and frame_unpack, as the contract says them, in double.
#include "frame_pack.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "depth_fill.h"

namespace edgevae::reference {

extern const DepthFillKernel depth_fill;

namespace {

// The mean of one colour sample over [x0, x1) x [y0, y1), pixels at the border counted by their share.
double area_mean(const FramePack& f, int sample, double y0, double y1, double x0, double x1) {
  double sum = 0;
  for (int y = static_cast<int>(y0); y < std::min<double>(f.height, std::ceil(y1)); ++y)
    for (int x = static_cast<int>(x0); x < std::min<double>(f.width, std::ceil(x1)); ++x) {
      const double share = (std::min<double>(y + 1, y1) - std::max<double>(y, y0)) *
                           (std::min<double>(x + 1, x1) - std::max<double>(x, x0));
      sum += share * f.color[y * f.color_row + x * f.color_pixel + sample];
    }
  return sum / ((y1 - y0) * (x1 - x0));
}

double depth_at(const FramePack& f, int y, int x) {
  const char* at = static_cast<const char*>(f.depth) + y * f.depth_row + x * f.depth_pixel;
  if (f.depth_type == DepthType::kUint16)
    return *reinterpret_cast<const uint16_t*>(at) * double{f.depth_scale};
  return *reinterpret_cast<const float*>(at);
}

double encode_depth(const InputEncoding& e, double d) {
  const double lo = e.min_m, hi = e.max_m;
  if (e.depth == DepthEncoding::kMinMax) return d;
  d = std::clamp(d, lo, hi);
  double t = (d - lo) / (hi - lo);
  if (e.depth == DepthEncoding::kInverse) t = (1 / d - 1 / hi) / (1 / lo - 1 / hi);
  if (e.depth == DepthEncoding::kLog) t = std::log(d / lo) / std::log(hi / lo);
  return 2 * t - 1;
}

size_t scratch_floats(const FramePack&) { return 0; }

// Maps the image's own range to [-1, 1]; a range of at most `flat` is a constant image and becomes -1.
void stretch(std::vector<double>& values, const std::vector<bool>& used, double flat) {
  double lo = INFINITY, hi = -INFINITY;
  for (size_t i = 0; i < values.size(); ++i)
    if (used[i]) lo = std::min(lo, values[i]), hi = std::max(hi, values[i]);
  for (size_t i = 0; i < values.size(); ++i)
    if (used[i]) values[i] = hi - lo > flat ? 2 * (values[i] - lo) / (hi - lo) - 1 : -1;
}

void pack(const FramePack& f, Scratch, Pool&) {
  const InputEncoding& e = f.encoding;
  const size_t pixels = static_cast<size_t>(f.out_height) * f.out_width;
  const double sy = static_cast<double>(f.height) / f.out_height,
               sx = static_cast<double>(f.width) / f.out_width;
  for (int c = 0; c < e.channels; ++c) {
    std::vector<double> values(pixels);
    std::vector<bool> used(pixels, true);
    for (int y = 0; y < f.out_height; ++y)
      for (int x = 0; x < f.out_width; ++x) {
        const auto mean = [&](int sample) {
          return area_mean(f, f.bgr ? 2 - sample : sample, y * sy, (y + 1) * sy, x * sx, (x + 1) * sx);
        };
        const size_t i = static_cast<size_t>(y) * f.out_width + x;
        if (c < 3) {
          const double v = e.channels == 1 ? 0.299 * mean(0) + 0.587 * mean(1) + 0.114 * mean(2) : mean(c);
          values[i] = e.color_min_max ? v : v / 127.5 - 1;
          continue;
        }
        const double d = f.depth_type == DepthType::kNone
                             ? 0
                             : depth_at(f, std::min(f.height - 1, static_cast<int>((y + 0.5) * sy)),
                                        std::min(f.width - 1, static_cast<int>((x + 0.5) * sx)));
        used[i] = std::isfinite(d) && d > 0;
        values[i] = used[i] ? encode_depth(e, d) : e.fill ? NAN : e.no_reading;
        if (f.mask != nullptr) f.mask[i] = used[i];
      }
    if (c < 3 && e.color_min_max) stretch(values, used, kFlatColor);
    if (c == 3 && e.depth == DepthEncoding::kMinMax) stretch(values, used, 0);
    for (int y = 0; y < f.out_height; ++y)
      for (int x = 0; x < f.out_width; ++x)
        f.out[c * f.out_channel + y * f.out_row + x * f.out_pixel] =
            static_cast<float>(values[static_cast<size_t>(y) * f.out_width + x]);
  }
  if (e.fill) {
    depth_fill.run({f.out, f.out_height, f.out_width, f.out_channel, f.out_row, f.out_pixel, e.nothing()},
                   nullptr);
  }
}

}  // namespace

extern const FramePackKernel frame_pack;
const FramePackKernel frame_pack = {scratch_floats, pack};

void frame_unpack(const float* x, size_t pixels, const InputEncoding& e, uint8_t* rgb, float* depth) {
  for (size_t i = 0; i < pixels; ++i) {
    const float* in = x + i * e.channels;
    for (int c = 0; c < 3; ++c) {
      const double v = std::nearbyint((double{in[e.channels == 1 ? 0 : c]} + 1) * 127.5);
      rgb[3 * i + c] = static_cast<uint8_t>(v >= 0 ? std::min(v, 255.0) : 0);  // NaN becomes 0
    }
    if (depth == nullptr) continue;
    const double t = std::clamp((double{in[3]} + 1) / 2, 0.0, 1.0), lo = e.min_m, hi = e.max_m;
    double d = t;
    if (e.depth == DepthEncoding::kLinear) d = lo + t * (hi - lo);
    if (e.depth == DepthEncoding::kInverse) d = 1 / (1 / hi + t * (1 / lo - 1 / hi));
    if (e.depth == DepthEncoding::kLog) d = lo * std::pow(hi / lo, t);
    depth[i] = static_cast<float>(d);
  }
}

}  // namespace edgevae::reference
