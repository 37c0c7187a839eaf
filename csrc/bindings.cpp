// The only file, with bindings.h and bindings_cuda.cpp, that knows Python: numpy arrays in and out, every
// argument checked here, the GIL released around the work.
#include "bindings.h"

#include <chrono>
#include <mutex>

#include "isa.h"
#include "layout.h"
#include "methods.h"
#include "network.h"

namespace edgevae {
namespace {

Precision precision_of(const std::string& name) {
  if (name == "exact") return Precision::kExact;
  if (name == "fp32") return Precision::kFloat32;
  if (name == "fp16") return Precision::kFloat16;
  throw error("precision is '" + name + "', wanted exact, fp32 or fp16.");
}

class PyPool {
 public:
  explicit PyPool(int threads) {
    if (threads < 1 || threads > 256) {
      throw error("threads is " + std::to_string(threads) + ", wanted 1 to 256.");
    }
    pool = std::shared_ptr<Pool>(pool_create(threads), pool_destroy);
  }
  // Call with the GIL held, before the mutex is taken: a fork may have copied it locked.
  void renew_after_fork() {
    if (fork_ == pool_forks()) return;
    fork_ = pool_forks();
    new (&mutex) std::mutex;
  }
  std::shared_ptr<Pool> pool;
  std::mutex mutex;  // one job at a time; networks of a model share the pool
  Floats scratch;    // of convolutions, which have no network to plan it

 private:
  unsigned fork_ = pool_forks();
};

// A network on the processor, for PyNetwork.
class CpuEngine : public Network {
 public:
  CpuEngine(const std::vector<Layer>& layers, Shape input, int condition, std::shared_ptr<PyPool> pool,
            const std::string& isa, const std::string& precision)
      : Network(layers, input, condition, precision_of(precision), select_kernels(isa), pool->pool),
        pool_(std::move(pool)) {}

  const char* name() const { return kernels().name; }
  void ready() { pool_->renew_after_fork(); }
  std::unique_lock<std::mutex> lock() { return std::unique_lock(pool_->mutex); }

  void run(std::int64_t n, int outputs, const float* x, const float* condition, float* y) {
    const Shape in = input(), out = output();
    const int batch = static_cast<int>(n);
    reserve(batch);
    for (int b = 0; b < batch; ++b)
      to_nhwc(x + b * in.floats(), in.c, in.floats() / in.c, input_buffer() + b * in.floats());
    const float* result = Network::run(batch, outputs, condition);
    for (int b = 0; b < batch; ++b) {
      if (out.image) {
        to_nchw(result + b * out.floats(), out.c, out.floats() / out.c, y + b * out.floats());
      } else {
        std::copy_n(result + b * out.floats(), outputs, y + static_cast<size_t>(b) * outputs);
      }
    }
  }

  std::array<double, 2> encode_frame(FramePack f, int outputs, float* y) {
    const Shape in = input();
    const auto begin = std::chrono::steady_clock::now();
    reserve(1);
    f.out = input_buffer();
    f.out_channel = 1;
    f.out_pixel = in.c;
    f.out_row = static_cast<std::ptrdiff_t>(in.w) * in.c;
    kernels().frame_pack.run(f, scratch(kernels().frame_pack.scratch_floats(f)), pool());
    const auto packed = std::chrono::steady_clock::now();
    std::copy_n(Network::run(1, outputs, nullptr), outputs, y);
    const auto end = std::chrono::steady_clock::now();
    return {std::chrono::duration<double>(packed - begin).count(),
            std::chrono::duration<double>(end - packed).count()};
  }

  void decode_frames(std::int64_t n, const float* z, const float* condition, const InputEncoding& encoding,
                     std::uint8_t* rgb, float* depth) {
    const Shape out = output();
    const int batch = static_cast<int>(n);
    reserve(batch);
    std::copy_n(z, n * input().c, input_buffer());
    const float* y = Network::run(batch, out.c, condition);
    kernels().frame_unpack(y, static_cast<size_t>(n) * out.h * out.w, encoding, rgb, depth);
  }

 private:
  std::shared_ptr<PyPool> pool_;
};

// fold_convolution's step on the processor.
class PyConvolution {
 public:
  PyConvolution(const py::list& layers, const py::dict& tensors, const std::vector<int>& input,
                const std::string& isa)
      : kernels_(select_kernels(isa)) {
    shapes_ = fold_convolution(layers, tensors, input, [this](const FoldedLayer& step) {
      bias_.assign(step.bias.begin(), step.bias.end());
      activation_ = step.activation;
      if (step.kind == FoldedLayer::Kind::kConv) {
        conv_ = conv_of(step);
        weights_.resize(conv_kernel().packed_bytes(conv_));
        conv_kernel().pack(conv_, step.weights, weights_.data());
      } else {
        upsample_ =
            UpsampleConvShape{1, step.in.h, step.in.w, step.in.c, step.out.c, step.layer->padding_mode};
        weights_.resize(kernels_.upsample_conv.packed_bytes(*upsample_));
        kernels_.upsample_conv.pack(*upsample_, step.weights, weights_.data());
      }
    });
  }

  // x (N, h, w, c) to y, dense float32 both.
  void run(const py::array& x, py::array& y, PyPool& pool) const {
    check("x", x, shapes_[0]);
    check("y", y, shapes_[1]);
    if (x.shape(0) != y.shape(0)) throw error("x is " + shape_text(x) + ", y " + shape_text(y) + ".");
    if (x.shape(0) > most_images(shapes_[0], shapes_[1]))
      throw error("a batch of " + std::to_string(x.shape(0)) + " images is too large; split it.");
    const int n = static_cast<int>(x.shape(0));
    if (n == 0) return;
    const void* from = x.data();
    void* to = y.mutable_data();
    pool.renew_after_fork();
    Unlocked unlocked;
    const std::scoped_lock lock(pool.mutex);
    const Epilogue epilogue{bias_.data(), nullptr, activation_};
    const auto launch = [&](const auto& kernel, auto shape) {
      shape.n = n;
      const size_t per_thread = (kernel.scratch_floats(shape) + 31) / 16 * 16;  // a cache line apart
      const size_t floats = per_thread * static_cast<size_t>(pool_threads(*pool.pool));
      if (pool.scratch.size() < floats) pool.scratch.resize(floats);
      kernel.run(shape, from, weights_.data(), epilogue, to, {pool.scratch.data(), per_thread}, *pool.pool);
    };
    if (upsample_) {
      launch(kernels_.upsample_conv, *upsample_);
    } else {
      launch(conv_kernel(), conv_);
    }
  }

 private:
  const ConvKernel& conv_kernel() const {
    return conv_method(conv_) == ConvMethod::kNineProducts ? kernels_.conv_nine : kernels_.conv;
  }

  static void check(const std::string& name, const py::array& a, const Shape& s) {
    const bool fits = a.dtype().is(py::dtype::of<float>()) && (a.flags() & py::array::c_style) != 0 &&
                      a.ndim() == 4 && a.shape(1) == s.h && a.shape(2) == s.w && a.shape(3) == s.c;
    if (fits) return;
    throw error(name + " is " + std::string(py::str(a.dtype())) + " " + shape_text(a) +
                ", wanted dense float32 (N, " + std::to_string(s.h) + ", " + std::to_string(s.w) + ", " +
                std::to_string(s.c) + ").");
  }

  const Kernels& kernels_;
  std::array<Shape, 2> shapes_;
  ConvShape conv_{};
  std::optional<UpsampleConvShape> upsample_;  // else it is conv_
  Activation activation_;
  Floats bias_;
  Bytes weights_;
};

// Preprocessing alone: (C, h, w) and the mask of depth readings.
py::tuple pack_frame(const py::array& rgb, const py::object& depth, float depth_scale, bool bgr,
                     const InputEncoding& encoding, int height, int width, const std::string& isa) {
  if (height < 1 || width < 1 || height > 16384 || width > 16384)
    throw error("output size is out of bounds.");
  FramePack f = frame_of(rgb, depth, depth_scale, bgr, encoding);
  FloatArray out({encoding.channels, height, width});
  py::array_t<bool> mask({height, width});
  f.out = out.mutable_data();
  f.out_height = height;
  f.out_width = width;
  f.out_channel = static_cast<std::ptrdiff_t>(height) * width;
  f.out_row = width;
  f.out_pixel = 1;
  auto* readings = reinterpret_cast<std::uint8_t*>(mask.mutable_data());
  std::fill_n(readings, mask.size(), std::uint8_t{0});
  f.mask = encoding.channels == 4 ? readings : nullptr;
  const Kernels& kernels = select_kernels(isa);
  {
    Unlocked unlocked;
    // A pool of one runs its tasks in the caller and has no state, so all callers share it.
    static Pool* const pool = pool_create(1);
    Floats scratch(kernels.frame_pack.scratch_floats(f));
    kernels.frame_pack.run(f, {scratch.data(), scratch.size()}, *pool);
  }
  return py::make_tuple(out, mask);
}

// (n, 4, h, w) in place: NaNs of the depth are filled along the colours and mirrored, as an input with
// InputEncoding::fill has them.
void fill_depth(py::array_t<float, py::array::c_style> frames, float no_reading, const std::string& isa) {
  if (frames.ndim() != 4 || frames.shape(1) != 4 || !frames.writeable())
    throw error("frames must be float32 (n, 4, h, w), writable.");
  const auto n = frames.shape(0), pixels = frames.shape(2) * frames.shape(3);
  const int h = static_cast<int>(frames.shape(2)), w = static_cast<int>(frames.shape(3));
  if (h < 1 || w < 1 || h > 16384 || w > 16384) throw error("frames are empty or too large.");
  float* const data = frames.mutable_data();
  const DepthFillKernel& kernel = select_kernels(isa).depth_fill;
  Unlocked unlocked;
  Floats scratch(kernel.scratch_floats(h, w));
  for (py::ssize_t i = 0; i < n; ++i)
    kernel.run({data + 4 * i * pixels, h, w, pixels, w, 1, 2 * no_reading}, scratch.data());
}

}  // namespace
}  // namespace edgevae

PYBIND11_MODULE(_core, m) {
  using namespace edgevae;
  m.doc() = "The native engine of edgevae.";
  m.def("available_isas", &available_isas);
  m.def(
      "selected_isa", [](const std::string& isa) { return std::string(select_kernels(isa).name); },
      py::arg("isa") = "");
  m.def(
      "infer_shapes",
      [](const py::list& layers, const py::dict& tensors, const std::vector<int>& input, int condition) {
        const Layers parsed(layers, tensors);
        std::vector<std::vector<int>> shapes;
        for (const Shape& s : infer_shapes(parsed.layers, image_shape(input), condition)) {
          shapes.push_back(shape_list(s));
        }
        return shapes;
      },
      py::arg("layers"), py::arg("tensors"), py::arg("input_shape"), py::arg("condition") = 0);
  py::class_<InputEncoding>(m, "InputEncoding")
      .def(py::init(&encoding_of), py::arg("channels"), py::arg("color"), py::arg("depth"), py::arg("min_m"),
           py::arg("max_m"), py::arg("no_reading"), py::arg("fill") = false);
  m.def("pack_frame", &pack_frame, py::arg("rgb"), py::arg("depth"), py::arg("depth_scale"), py::arg("bgr"),
        py::arg("encoding"), py::arg("height"), py::arg("width"), py::arg("isa") = "");
  m.def("fill_depth", &fill_depth, py::arg("frames").noconvert(), py::arg("no_reading"), py::arg("isa") = "");
  py::class_<PyPool, std::shared_ptr<PyPool>>(m, "Pool").def(py::init<int>(), py::arg("threads"));
  py::class_<PyNetwork<CpuEngine>> network(m, "Network");
  network.def(py::init<const py::list&, const py::dict&, const std::vector<int>&, int,
                       std::shared_ptr<PyPool>, const std::string&, const std::string&>(),
              py::arg("layers"), py::arg("tensors"), py::arg("input_shape"), py::arg("condition"),
              py::arg("pool").none(false), py::arg("isa") = "", py::arg("precision") = "exact");
  bind_methods(network);
  py::class_<PyConvolution>(m, "Convolution")
      .def(py::init<const py::list&, const py::dict&, const std::vector<int>&, const std::string&>(),
           py::arg("layers"), py::arg("tensors"), py::arg("input_shape"), py::arg("isa") = "")
      .def("run", &PyConvolution::run, py::arg("x"), py::arg("y"), py::arg("pool"));
#if defined(EDGEVAE_CUDA)
  cuda::bind(m);
#else
  m.attr("cuda_build") = "";
#endif
}
