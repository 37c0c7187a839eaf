// frame_pack and frame_unpack on a GPU.
//
// A block makes up to 128 pixels of an output row: first the source rows under it are added up, weighted, in
// shared memory (neighbouring threads read neighbouring bytes, four each, each byte once), then every thread
// adds up its few columns of that one row. 480x640 to 128x128 is 128 blocks which read 921 kB of colour, and
// of depth the 16384 samples that are used. The source may lie in the host's pinned memory: a warp asks for
// 128 bytes at a time, and nothing is read twice.
//
// Min-max encodings want the whole image's range first: their values wait in the workspace as floats (a
// reading's absence as NaN, which no reading is), and a second launch stretches them. So does a picture whose
// depth has its holes filled (depth_fill_cuda.cu).
#include "cuda_device.cuh"
#include "cuda_kernels.h"
#include "frame_span.h"

namespace edgevae::cuda {
namespace {

constexpr int kThreads = 128;  // and output pixels of a block
constexpr int kSource = 1024;  // source pixels whose sums are kept at a time

// shared[i] = the weighted mean over `rows` of the samples of pixels [begin, end), 3 a pixel.
__device__ void add_rows(const FramePack& f, const Span& rows, int begin, int end, float* shared) {
  const int count = 3 * (end - begin);
  const uint8_t* const from = f.color + begin * f.color_pixel;
  const bool words = f.color_pixel == 3 && (reinterpret_cast<uintptr_t>(from) | f.color_row) % 4 == 0;
  for (int i = 4 * threadIdx.x; i < count; i += 4 * kThreads) {
    float4 sum = make_float4(0, 0, 0, 0);
    for (int r = rows.first; r <= rows.last; ++r) {
      const uint8_t* const row = from + r * f.color_row;
      uint32_t samples = 0;
      if (words && i + 4 <= count) {
        samples = *reinterpret_cast<const uint32_t*>(row + i);
      } else {
        for (int j = i; j < min(i + 4, count); ++j) {
          samples |= static_cast<uint32_t>(row[j / 3 * f.color_pixel + j % 3]) << 8 * (j - i);
        }
      }
      const float share = rows.share(r);
      sum.x += share * static_cast<float>(samples & 255);
      sum.y += share * static_cast<float>(samples >> 8 & 255);
      sum.z += share * static_cast<float>(samples >> 16 & 255);
      sum.w += share * static_cast<float>(samples >> 24);
    }
    *reinterpret_cast<float4*>(shared + i) = sum;
  }
}

__device__ float metres_at(const FramePack& f, int row, int column) {
  const char* at = static_cast<const char*>(f.depth) + row * f.depth_row + column * f.depth_pixel;
  if (f.depth_type == DepthType::kUint16) return *reinterpret_cast<const uint16_t*>(at) * f.depth_scale;
  return *reinterpret_cast<const float*>(at);
}

// Metres to the network's value, which is linear in them, their inverse or their logarithm.
struct DepthLine {
  DepthEncoding encoding;
  float lo, hi, zero, gain;

  explicit DepthLine(const InputEncoding& e) : encoding(e.depth), lo(e.min_m), hi(e.max_m), zero(lo) {
    gain = 2 / (hi - lo);
    if (encoding == DepthEncoding::kInverse) zero = 1 / hi, gain = 2 / (1 / lo - 1 / hi);
    if (encoding == DepthEncoding::kLog) zero = logf(lo), gain = 2 / logf(hi / lo);
  }
  __device__ float operator()(float d) const {
    d = fminf(fmaxf(d, lo), hi);
    // An approximate division is as good (2 ulp) where nothing is subnormal, and wants no subroutine.
    if (encoding == DepthEncoding::kInverse) d = __fdividef(1, d);
    if (encoding == DepthEncoding::kLog) d = logf(d);
    return (d - zero) * gain - 1;
  }
};

// out (pixels, channels); `planes` (channels, pixels) takes the values that are to be stretched. Eight blocks
// fill the registers; left alone, ptxas makes room for more on sm_80 and spills.
template <class T>
__global__ void __launch_bounds__(kThreads, 8)
    pack_kernel(FramePack f, Spacing down, Spacing across, DepthLine line, T* out, float* planes) {
  await_previous_kernel();
  let_next_kernel_start();
  float* const sums = reinterpret_cast<float*>(shared_memory());
  const InputEncoding& e = f.encoding;
  const int blocks = (f.out_width + kThreads - 1) / kThreads, y = static_cast<int>(blockIdx.x) / blocks,
            first = static_cast<int>(blockIdx.x) % blocks * kThreads,
            last = min(first + kThreads, f.out_width) - 1,
            x = min(first + static_cast<int>(threadIdx.x), last);
  const Span rows(down, y), columns(across, x);
  const int from = Span(across, first).first / 4 * 4, to = Span(across, last).last + 1;
  float mean[3] = {};
  for (int begin = from; begin < to; begin += kSource) {
    const int end = min(begin + kSource, to);
    __syncthreads();  // the sums before are read
    add_rows(f, rows, begin, end, sums);
    __syncthreads();
    for (int i = max(begin, columns.first); i <= min(end - 1, columns.last); ++i) {
      for (int c = 0; c < 3; ++c) mean[c] += sums[3 * (i - begin) + c] * columns.share(i);
    }
  }
  if (first + static_cast<int>(threadIdx.x) > last) return;

  const size_t pixel = static_cast<size_t>(y) * f.out_width + x,
               pixels = static_cast<size_t>(f.out_width) * f.out_height;
  const float red = f.bgr ? mean[2] : mean[0], green = mean[1], blue = f.bgr ? mean[0] : mean[2];
  const auto put_color = [&](int c, float level) {
    const float value = e.color_min_max ? level : level * (1 / 127.5f) - 1;
    if (e.color_min_max || e.fill) planes[c * pixels + pixel] = value;
    if (!e.color_min_max) store_float(value, out + pixel * e.channels + c);
  };
  if (e.channels == 1) {
    put_color(0, 0.299f * red + 0.587f * green + 0.114f * blue);
    return;
  }
  put_color(0, red);
  put_color(1, green);
  put_color(2, blue);
  if (e.channels == 3) return;
  const float d = f.depth_type == DepthType::kNone ? 0.0f : metres_at(f, down.centre(y), across.centre(x));
  const bool reading = d > 0 && d <= 3.402823466e38f;  // NaN and infinity fail one of them
  if (e.depth == DepthEncoding::kMinMax) {
    planes[3 * pixels + pixel] = reading ? d : NAN;
  } else if (e.fill) {
    planes[3 * pixels + pixel] = reading ? line(d) : NAN;
  } else {
    store_float(reading ? line(d) : e.no_reading, out + pixel * 4 + 3);
  }
}

// Maps a channel's own range to [-1, 1], a block each; a range of at most `flat` is a constant image and
// becomes -1. NaN is no reading.
template <class T>
__global__ void __launch_bounds__(1024) stretch_kernel(FramePack f, float* planes, T* out) {
  await_previous_kernel();
  let_next_kernel_start();
  float* const shared = reinterpret_cast<float*>(shared_memory());  // (2, warps)
  const InputEncoding& e = f.encoding;
  const int c = e.color_min_max ? static_cast<int>(blockIdx.x) : 3,
            warps = static_cast<int>(blockDim.x) / kWarp;
  if (c == 3 && e.depth != DepthEncoding::kMinMax) return;
  const size_t pixels = static_cast<size_t>(f.out_width) * f.out_height;
  float* const plane = planes + c * pixels;
  float lo = INFINITY, hi = -INFINITY;
  for (size_t i = threadIdx.x; i < pixels; i += blockDim.x) {
    lo = fminf(lo, plane[i]);  // of a NaN and a number, the number
    hi = fmaxf(hi, plane[i]);
  }
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    lo = fminf(lo, __shfl_xor_sync(~0u, lo, lanes));
    hi = fmaxf(hi, __shfl_xor_sync(~0u, hi, lanes));
  }
  if (threadIdx.x % kWarp == 0) {
    shared[threadIdx.x / kWarp] = lo;
    shared[warps + threadIdx.x / kWarp] = hi;
  }
  __syncthreads();
  for (int i = 0; i < warps; ++i) {
    lo = fminf(lo, shared[i]);
    hi = fmaxf(hi, shared[warps + i]);
  }
  const float flat = c < 3 ? kFlatColor : 0.0f;
  for (size_t i = threadIdx.x; i < pixels; i += blockDim.x) {
    const float v = plane[i], value = v != v           ? e.no_reading
                                      : hi - lo > flat ? 2 * (v - lo) / (hi - lo) - 1
                                                       : -1.0f;
    if (e.fill) plane[i] = value;
    store_float(value, out + i * e.channels + c);
  }
}

template <class T>
void pack(const FramePack& f, const Device& device, T* out, float* planes, Stream stream) {
  const InputEncoding& e = f.encoding;
  const int blocks = (f.out_width + kThreads - 1) / kThreads;
  launch(device, pack_kernel<T>, static_cast<unsigned>(f.out_height * blocks), kThreads,
         3 * kSource * sizeof(float), stream, f, Spacing(f.out_height, f.height),
         Spacing(f.out_width, f.width), DepthLine(e), out, planes);
  if (e.color_min_max || (e.channels == 4 && e.depth == DepthEncoding::kMinMax)) {
    constexpr int kMany = 1024;
    launch(device, stretch_kernel<T>, e.color_min_max ? static_cast<unsigned>(e.channels) : 1u, kMany,
           2 * kMany / kWarp * sizeof(float), stream, f, planes, out);
  }
}

// Network values to metres; relative for kMinMax.
__device__ float decode_depth(const InputEncoding& e, float x) {
  const float t = fminf(fmaxf(x * 0.5f + 0.5f, 0.0f), 1.0f), lo = e.min_m, hi = e.max_m;
  switch (e.depth) {
    case DepthEncoding::kLinear:
      return t * (hi - lo) + lo;
    case DepthEncoding::kInverse:
      return 1 / (t * (1 / lo - 1 / hi) + 1 / hi);
    case DepthEncoding::kLog:
      return expf(t * logf(hi / lo)) * lo;
    default:
      return t;
  }
}

__global__ void __launch_bounds__(kThreads)
    unpack_kernel(const float* x, size_t pixels, InputEncoding e, uint8_t* rgb, float* depth) {
  await_previous_kernel();
  let_next_kernel_start();
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= pixels) return;
  const float* const in = x + i * e.channels;
  for (int c = 0; c < 3; ++c) {
    const float v = (in[e.channels == 1 ? 0 : c] + 1) * 127.5f;
    rgb[3 * i + c] = static_cast<uint8_t>(v >= 0 ? fminf(rintf(v), 255.0f) : 0.0f);  // NaN becomes 0
  }
  if (depth != nullptr) depth[i] = decode_depth(e, in[3]);
}

}  // namespace

size_t pack_frame_workspace(const FramePack& f) {
  const bool stretched = f.encoding.color_min_max || f.encoding.depth == DepthEncoding::kMinMax;
  if (!stretched && !f.encoding.fill) return 0;
  const size_t pixels = static_cast<size_t>(f.out_height) * f.out_width;
  const size_t filling = f.encoding.fill ? depth_fill_floats(f.out_height, f.out_width) : 0;
  return kCounterBytes + sizeof(float) * (f.encoding.channels * pixels + filling);
}

void pack_frame(const FramePack& f, Arithmetic arithmetic, const Device& device, void* out, void* workspace,
                Stream stream) {
  // Behind the counters of other launches.
  auto* const planes = workspace == nullptr
                           ? nullptr
                           : reinterpret_cast<float*>(static_cast<char*>(workspace) + kCounterBytes);
  if (arithmetic == Arithmetic::kFloat16) {
    pack(f, device, static_cast<__half*>(out), planes, stream);
  } else {
    pack(f, device, static_cast<float*>(out), planes, stream);
  }
  if (f.encoding.fill) {
    fill_depth(planes, f.out_height, f.out_width, f.encoding.nothing(), arithmetic, device,
               planes + size_t{4} * f.out_height * f.out_width, out, stream);
  }
}

void unpack_frames(const float* x, size_t pixels, const InputEncoding& encoding, const Device& device,
                   unsigned char* rgb, float* depth, Stream stream) {
  launch(device, unpack_kernel, static_cast<unsigned>((pixels + kThreads - 1) / kThreads), kThreads, 0,
         stream, x, pixels, encoding, rgb, depth);
}

}  // namespace edgevae::cuda
