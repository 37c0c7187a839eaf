// depth_fill on a GPU: one block, level by level in the workspace. What a pass writes, the next one reads
// after a barrier.
#include "cuda_device.cuh"
#include "cuda_kernels.h"
#include "depth_fill.h"

namespace edgevae::cuda {
namespace {

constexpr int kThreads = 1024;

// (h, w) each.
struct FillLevel {
  int h, w;
  float* depth;  // NaN where unknown
  float* left;   // weight of a pixel and the one before it, 0 for the first
  float* up;     // and the one above it
  float* step;   // kRelaxation by the sum of a pixel's weights, 0 where it is known

  __host__ __device__ FillLevel(int h_, int w_, float* floats) : h(h_), w(w_), depth(floats) {
    left = depth + h * w;
    up = left + h * w;
    step = up + h * w;
  }
  __device__ FillLevel half() const { return {(h + 1) / 2, (w + 1) / 2, step + h * w}; }
};

__device__ FillLevel level_of(const FillLevel& finest, int times) {
  FillLevel level = finest;
  while (times-- > 0) level = level.half();
  return level;
}

__device__ float color_weight(float a, float b) {
  const float d = kColorGain * (a - b);
  return __fdividef(1, 1 + d * d);
}

// Calls each(y, x) for the pixels of (h, w), threads beside each other for pixels beside each other.
template <class Each>
__device__ void each_pixel(int h, int w, Each each) {
  for (int i = static_cast<int>(threadIdx.x); i < h * w; i += kThreads) each(i / w, i % w);
  __syncthreads();
}

// From planes (4, h, w): depth and weights. Whether this thread saw a pixel that is known, and one that is
// not.
__device__ void read(const FillLevel& l, const float* planes, bool* known, bool* unknown) {
  const int pixels = l.h * l.w;
  const auto grey = [=](int i) {
    return (planes[i] + planes[pixels + i] + planes[2 * pixels + i]) * (1 / 3.0f);
  };
  each_pixel(l.h, l.w, [&](int y, int x) {
    const int i = y * l.w + x;
    const float d = planes[3 * pixels + i], g = grey(i);
    l.depth[i] = d;
    *known |= d == d;
    *unknown |= d != d;
    l.left[i] = x > 0 ? color_weight(g, grey(i - 1)) : 0.0f;
    l.up[i] = y > 0 ? color_weight(g, grey(i - l.w)) : 0.0f;
  });
}

__device__ void push(const FillLevel& from, const FillLevel& to) {
  each_pixel(to.h, to.w, [&](int y, int x) {
    const int corner = 2 * y * from.w + 2 * x;
    const bool right = 2 * x + 1 < from.w, below = 2 * y + 1 < from.h;
    float sum = 0, count = 0;
    const auto add = [&](bool is, int i) {
      const float d = is ? from.depth[i] : NAN;
      sum += d == d ? d : 0.0f;
      count += d == d ? 1.0f : 0.0f;
    };
    add(true, corner);
    add(right, corner + 1);
    add(below, corner + from.w);
    add(right && below, corner + from.w + 1);
    const int i = y * to.w + x;
    to.depth[i] = count > 0 ? __fdividef(sum, count) : NAN;
    to.left[i] = below ? 0.5f * (from.left[corner] + from.left[corner + from.w]) : from.left[corner];
    to.up[i] = right ? 0.5f * (from.up[corner] + from.up[corner + 1]) : from.up[corner];
  });
}

// The unknown pixels' first values, and all pixels' steps.
__device__ void pull(const FillLevel& from, const FillLevel& to) {
  const auto nearer = [](int at, int size) { return min(max(at / 2 + (at % 2 == 1 ? 1 : -1), 0), size - 1); };
  each_pixel(to.h, to.w, [&](int y, int x) {
    const int i = y * to.w + x;
    const bool known = to.depth[i] == to.depth[i];
    const float sum = to.left[i] + to.up[i] + (x + 1 < to.w ? to.left[i + 1] : 0.0f) +
                      (y + 1 < to.h ? to.up[i + to.w] : 0.0f);
    to.step[i] = known ? 0.0f : __fdividef(kRelaxation, sum);
    if (known) return;
    const float *const own = from.depth + y / 2 * from.w, *const next =
                                                              from.depth + nearer(y, from.h) * from.w;
    const int side = nearer(x, from.w);
    to.depth[i] = (9 * own[x / 2] + 3 * own[side] + 3 * next[x / 2] + next[side]) * (1 / 16.0f);
  });
}

// Half a sweep: a thread has pixels of one colour of the chessboard only.
__device__ void relax(const FillLevel& l, int first) {
  each_pixel(l.h, (l.w + 1) / 2, [&](int y, int pair) {
    const int x = 2 * pair + (y + first) % 2, i = y * l.w + x;
    if (x >= l.w || l.step[i] == 0) return;
    const float here = l.depth[i];
    float way = 0;
    if (x > 0) way += l.left[i] * (l.depth[i - 1] - here);
    if (x + 1 < l.w) way += l.left[i + 1] * (l.depth[i + 1] - here);
    if (y > 0) way += l.up[i] * (l.depth[i - l.w] - here);
    if (y + 1 < l.h) way += l.up[i + l.w] * (l.depth[i + l.w] - here);
    l.depth[i] = here + l.step[i] * way;
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    fill_kernel(FillLevel finest, const float* planes, float mirror, T* out) {
  await_previous_kernel();
  let_next_kernel_start();
  auto* const seen = reinterpret_cast<int*>(shared_memory());  // known pixels, unknown ones
  if (threadIdx.x < 2) seen[threadIdx.x] = 0;
  __syncthreads();
  bool known = false, unknown = false;
  read(finest, planes, &known, &unknown);
  if (known) seen[0] = 1;
  if (unknown) seen[1] = 1;
  __syncthreads();
  const bool all = seen[1] == 0, none = seen[0] == 0;
  if (!all && !none) {
    FillLevel at = finest;
    int levels = 0;
    for (; at.h > 1 || at.w > 1; ++levels, at = at.half()) push(at, at.half());
    while (levels-- > 0) {
      const FillLevel above = at;
      at = level_of(finest, levels);
      pull(above, at);
      for (int half = 0; half < 2 * kSweeps; ++half) relax(at, half % 2);
    }
  }
  each_pixel(finest.h, finest.w, [&](int y, int x) {
    const int i = y * finest.w + x;
    const float d = planes[3 * finest.h * finest.w + i];
    store_float(d == d ? d
                : none ? mirror
                       : mirror - fminf(fmaxf(finest.depth[i], -1), 1),
                out + static_cast<size_t>(i) * 4 + 3);
  });
}

}  // namespace

size_t depth_fill_floats(int h, int w) {
  for (size_t floats = 0;; h = (h + 1) / 2, w = (w + 1) / 2) {
    floats += size_t{4} * h * w;
    if (h == 1 && w == 1) return floats;
  }
}

void fill_depth(const float* planes, int h, int w, float mirror, Arithmetic arithmetic, const Device& device,
                float* floats, void* out, Stream stream) {
  const FillLevel finest(h, w, floats);
  const auto with = [&](auto* to) {
    launch(device, fill_kernel<std::remove_pointer_t<decltype(to)>>, 1u, kThreads, 2 * sizeof(int), stream,
           finest, planes, mirror, to);
  };
  if (arithmetic == Arithmetic::kFloat16) {
    with(static_cast<__half*>(out));
  } else {
    with(static_cast<float*>(out));
  }
}

}  // namespace edgevae::cuda
