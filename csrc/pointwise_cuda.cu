// Layers that look at one place at a time, and changes of order, on a GPU. All of them are bound by bytes,
// and in none of the models whose time is measured; a thread makes one number.
#include "cuda_device.cuh"
#include "cuda_kernels.h"

namespace edgevae::cuda {
namespace {

constexpr int kThreads = 256;

__device__ size_t thread_index() { return static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x; }

// run(T{}) with the type of an activation.
template <class Run>
void with_type(Arithmetic a, Run run) {
  a == Arithmetic::kFloat16 ? run(__half{}) : run(float{});
}

unsigned blocks_of(size_t count, size_t each) { return static_cast<unsigned>((count + each - 1) / each); }

template <class T>
__global__ void max_pool_kernel(MaxPoolShape s, const T* x, T* y) {
  await_previous_kernel();
  let_next_kernel_start();
  const size_t i = thread_index(), pixel = i / s.c;
  const int c = static_cast<int>(i % s.c), ox = static_cast<int>(pixel % s.ow),
            oy = static_cast<int>(pixel / s.ow % s.oh);
  const size_t image = pixel / s.ow / s.oh;
  if (image >= static_cast<size_t>(s.n)) return;
  const T* window = x + ((image * s.ih + oy * s.stride) * s.iw + ox * s.stride) * s.c + c;
  float best = to_float(*window);
  for (int ky = 0; ky < s.kernel; ++ky) {
    for (int kx = 0; kx < s.kernel; ++kx) {
      const float v = to_float(window[(static_cast<size_t>(ky) * s.iw + kx) * s.c]);
      // A NaN is taken, and once held compares false with everything.
      if (v > best || v != v) best = v;
    }
  }
  store_float(best, y + i);
}

template <class T>
__global__ void activate_kernel(size_t count, Activation act, const T* x, T* y) {
  await_previous_kernel();
  let_next_kernel_start();
  const size_t i = thread_index();
  if (i < count) store_float(activate(to_float(x[i]), act), y + i);
}

template <class T>
__global__ void concat_kernel(size_t count, int c, int size, const T* x, const float* condition, T* y) {
  await_previous_kernel();
  let_next_kernel_start();
  const size_t i = thread_index(), row = i / (c + size);
  if (i >= count) return;
  const int at = static_cast<int>(i % (c + size));
  store_float(at < c ? to_float(x[row * c + at]) : condition[row * size + at - c], y + i);
}

// Of transpose: rows and columns of a tile, at most 1024 numbers. With few rows it is long, so that a warp
// reads and writes neighbouring numbers either way.
struct Tile {
  int rows, columns;

  Tile(int rows_, int columns_) : rows(rows_ < 32 ? rows_ : 32), columns(columns_ < 32 ? columns_ : 32) {
    if (rows < 32) {
      columns = 1024 / rows;
    } else if (columns < 32) {
      rows = 1024 / columns;
    }
  }
};

// y (n, columns, rows) from x (n, rows, columns).
template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    transpose_kernel(int rows, int columns, Tile tile, int down, int across, const From* x, To* y) {
  await_previous_kernel();
  let_next_kernel_start();
  float* const shared = reinterpret_cast<float*>(shared_memory());
  const int pitch = tile.columns | 1;  // odd: a column lies in different banks
  const int at = static_cast<int>(blockIdx.x) % (down * across), row = at / across * tile.rows,
            column = at % across * tile.columns;
  const size_t image = static_cast<size_t>(blockIdx.x) / (down * across) * rows * columns;
  const int height = min(tile.rows, rows - row), width = min(tile.columns, columns - column);
  for (int i = threadIdx.x; i < height * width; i += kThreads) {
    const int r = i / width, c = i % width;
    shared[r * pitch + c] = to_float(x[image + static_cast<size_t>(row + r) * columns + column + c]);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < height * width; i += kThreads) {
    const int c = i / height, r = i % height;
    store_float(shared[r * pitch + c], y + image + static_cast<size_t>(column + c) * rows + row + r);
  }
}

template <class From, class To>
void transpose(int n, size_t rows, size_t columns, const Device& device, const From* x, To* y,
               Stream stream) {
  const int r = static_cast<int>(rows), c = static_cast<int>(columns);
  const Tile tile(r, c);
  const int down = (r + tile.rows - 1) / tile.rows, across = (c + tile.columns - 1) / tile.columns;
  const size_t shared_bytes = sizeof(float) * tile.rows * (tile.columns | 1);
  launch(device, transpose_kernel<From, To>, blocks_of(static_cast<size_t>(n) * down * across, 1), kThreads,
         shared_bytes, stream, r, c, tile, down, across, x, y);
}

}  // namespace

void max_pool(const MaxPoolShape& s, Arithmetic arithmetic, const Device& device, const void* x, void* y,
              Stream stream) {
  const size_t count = static_cast<size_t>(s.n) * s.oh * s.ow * s.c;
  with_type(arithmetic, [&](auto type) {
    using T = decltype(type);
    launch(device, max_pool_kernel<T>, blocks_of(count, kThreads), kThreads, 0, stream, s,
           static_cast<const T*>(x), static_cast<T*>(y));
  });
}

void activate(size_t count, Activation act, Arithmetic arithmetic, const Device& device, const void* x,
              void* y, Stream stream) {
  with_type(arithmetic, [&](auto type) {
    using T = decltype(type);
    launch(device, activate_kernel<T>, blocks_of(count, kThreads), kThreads, 0, stream, count, act,
           static_cast<const T*>(x), static_cast<T*>(y));
  });
}

void concat_condition(int n, int c, int size, Arithmetic arithmetic, const Device& device, const void* x,
                      const float* condition, void* y, Stream stream) {
  const size_t count = static_cast<size_t>(n) * (c + size);
  with_type(arithmetic, [&](auto type) {
    using T = decltype(type);
    launch(device, concat_kernel<T>, blocks_of(count, kThreads), kThreads, 0, stream, count, c, size,
           static_cast<const T*>(x), condition, static_cast<T*>(y));
  });
}

void from_nchw(int n, int c, size_t pixels, Arithmetic arithmetic, const Device& device, const float* x,
               void* y, Stream stream) {
  with_type(arithmetic,
            [&](auto type) { transpose(n, c, pixels, device, x, static_cast<decltype(type)*>(y), stream); });
}

void to_nchw(int n, int c, size_t pixels, Arithmetic arithmetic, const Device& device, const void* x,
             float* y, Stream stream) {
  with_type(arithmetic, [&](auto type) {
    transpose(n, pixels, c, device, static_cast<const decltype(type)*>(x), y, stream);
  });
}

void planes_to_pixels(int n, int c, size_t pixels, Arithmetic arithmetic, const Device& device, const void* x,
                      void* y, Stream stream) {
  with_type(arithmetic, [&](auto type) {
    using T = decltype(type);
    transpose(n, c, pixels, device, static_cast<const T*>(x), static_cast<T*>(y), stream);
  });
}

void pixels_to_planes(int n, int c, size_t pixels, Arithmetic arithmetic, const Device& device, const void* x,
                      void* y, Stream stream) {
  with_type(arithmetic, [&](auto type) {
    using T = decltype(type);
    transpose(n, pixels, c, device, static_cast<const T*>(x), static_cast<T*>(y), stream);
  });
}

}  // namespace edgevae::cuda
