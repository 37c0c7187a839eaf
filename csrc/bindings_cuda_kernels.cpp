// Single kernels on a device, for tests: arrays in and out of host memory, outputs and what lies behind them
// filled with NaN beforehand. A network runs the same kernels, with the cuts that its device asks for; here
// the device may be told to be smaller than it is.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "bindings.h"
#include "cuda_check.h"
#include "half.h"
#include "network_cuda.h"

namespace edgevae::cuda {
namespace {

// The device of a session as kernels are to see it; 0 leaves what it has.
struct Told {
  std::shared_ptr<Session> session;
  int sms = 0, shared_per_block = 0, compute = 0;

  Device device() const {
    Device d = session->device;
    if (sms > 0) d.sms = sms;
    if (shared_per_block > 0) d.shared_per_block = shared_per_block;
    if (compute > 0) d.compute = compute;
    return d;
  }
};

constexpr size_t kGuard = 256;  // bytes behind an output that nobody may touch

Memory uploaded(const void* from, size_t bytes) {
  Memory m(Place::kDevice, bytes);
  if (bytes > 0) check(cudaMemcpy(m.as<void>(), from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  return m;
}

// Activations of floats: halves, rounded as packing rounds, or floats.
Memory uploaded(const FloatArray& x, Arithmetic arithmetic) {
  const auto count = static_cast<size_t>(x.size());
  if (arithmetic != Arithmetic::kFloat16) return uploaded(x.data(), count * sizeof(float));
  std::vector<std::uint16_t> halves(count);
  std::transform(x.data(), x.data() + count, halves.begin(), to_half);
  return uploaded(halves.data(), count * sizeof(std::uint16_t));
}

class Poisoned {
 public:
  Poisoned(const Session& session, size_t bytes)
      : stream_(static_cast<cudaStream_t>(session.stream)),
        bytes_(bytes),
        memory_(Place::kDevice, bytes + kGuard) {
    check(cudaMemsetAsync(data(), 0xff, bytes + kGuard, stream_), "cudaMemsetAsync");
  }
  void* data() const { return memory_.as<void>(); }

  // Waits for the kernel, and reads what it wrote.
  void read(void* to) const {
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    std::vector<unsigned char> all(bytes_ + kGuard);
    check(cudaMemcpy(all.data(), data(), all.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    if (!std::all_of(all.begin() + static_cast<std::ptrdiff_t>(bytes_), all.end(),
                     [](unsigned char b) { return b == 0xff; })) {
      throw std::runtime_error("the kernel wrote behind its output.");
    }
    std::memcpy(to, all.data(), bytes_);
  }

  // The same of activations, as floats.
  FloatArray read(const std::vector<py::ssize_t>& shape, bool halves) const {
    FloatArray y(shape);
    if (!halves) {
      read(y.mutable_data());
      return y;
    }
    std::vector<std::uint16_t> bits(static_cast<size_t>(y.size()));
    read(bits.data());
    std::transform(bits.begin(), bits.end(), y.mutable_data(), [](std::uint16_t h) {
      return (h & 0x7c00) == 0x7c00 ? std::numeric_limits<float>::quiet_NaN() : from_half(h);
    });
    return y;
  }

 private:
  const cudaStream_t stream_;
  const size_t bytes_;
  const Memory memory_;
};

// x (n, h, w, c) and weight (oc, c, 3, 3) to (n, 2h, 2w, oc).
FloatArray run_upsample_conv(const Told& told, const FloatArray& x, const FloatArray& weight,
                             const FloatArray& bias, const std::string& padding, const py::dict& activation,
                             const std::string& precision, bool floats) {
  const Arithmetic arithmetic = arithmetic_of(precision);
  const auto size = [&](int axis) { return static_cast<int>(x.shape(axis)); };
  const UpsampleConvShape s{
      size(0), size(1), size(2), size(3), static_cast<int>(weight.shape(0)), padding_of(padding)};
  const Activation act = activation.empty() ? Activation{} : activation_of(activation);
  const OnDevice here(*told.session);
  const Device device = told.device();
  const Bytes packed = pack_upsample_conv(s, weight.data(), arithmetic);
  const Memory input = uploaded(x, arithmetic), weights = uploaded(packed.data(), packed.size()),
               biases = uploaded(bias.data(), static_cast<size_t>(bias.size()) * sizeof(float)),
               workspace(Place::kDevice, upsample_conv_workspace(s, arithmetic, device));
  const bool halves = arithmetic == Arithmetic::kFloat16 && !floats;
  const std::vector<py::ssize_t> shape{s.n, 2 * s.ih, 2 * s.iw, s.oc};
  const Poisoned y(*told.session, static_cast<size_t>(s.n) * 4 * s.ih * s.iw * s.oc * (halves ? 2 : 4));
  upsample_conv(s, arithmetic, device, input.as<void>(), weights.as<void>(),
                {biases.as<float>(), act, floats}, y.data(), workspace.as<void>(), told.session->stream);
  return y.read(shape, halves);
}

// How upsample_conv cuts a layer up: pixels and channels of a block, parts of k, blocks.
py::tuple plan_of_upsample_conv(const Told& told, int n, int ih, int iw, int ic, int oc,
                                const std::string& precision) {
  const Plan p =
      upsample_conv_plan({n, ih, iw, ic, oc, Padding::kZeros}, arithmetic_of(precision), told.device());
  return py::make_tuple(p.method, p.tile_pixels, p.tile_channels, p.splits, p.blocks);
}

// Launches twice on one workspace: the counters in it must be as before, and the results the same.
template <class Launch>
FloatArray run_twice(const Told& told, size_t workspace_bytes, const std::vector<py::ssize_t>& shape,
                     bool halves, Launch launch) {
  size_t bytes = halves ? 2 : 4;
  for (const py::ssize_t length : shape) bytes *= static_cast<size_t>(length);
  const Memory workspace(Place::kDevice, workspace_bytes);
  if (workspace_bytes > 0)
    check(cudaMemsetAsync(workspace.as<void>(), 0, kCounterBytes,
                          static_cast<cudaStream_t>(told.session->stream)),
          "cudaMemsetAsync");
  FloatArray results[2];
  for (FloatArray& result : results) {
    const Poisoned y(*told.session, bytes);
    launch(y.data(), workspace.as<void>(), told.session->stream);
    result = y.read(shape, halves);
  }
  if (std::memcmp(results[0].data(), results[1].data(), static_cast<size_t>(results[0].nbytes())) != 0)
    throw std::runtime_error("a second run gave other numbers.");
  return results[0];
}

// x (n, h, w, c) and weight (oc, c, kh, kw), of a linear layer (oc, c, 1, 1), to (n, oh, ow, outputs).
ConvShape conv_of(const py::array& x, const py::array& weight, int stride, int padding,
                  const std::string& mode, std::optional<int> outputs) {
  const auto size = [](const py::array& a, int axis) { return static_cast<int>(a.shape(axis)); };
  const int kh = size(weight, 2), kw = size(weight, 3), ih = size(x, 1), iw = size(x, 2);
  ConvShape s = conv_shape(ih, iw, size(x, 3), (ih + 2 * padding - kh) / stride + 1,
                           (iw + 2 * padding - kw) / stride + 1, size(weight, 0), kh, kw);
  s.n = size(x, 0);
  s.stride = stride;
  s.pad_top = s.pad_left = padding;
  s.padding = padding_of(mode);
  s.outputs = outputs.value_or(s.oc);
  return s;
}

FloatArray run_conv(const Told& told, const FloatArray& x, const FloatArray& weight, const FloatArray& bias,
                    int stride, int padding, const std::string& mode, const py::dict& activation,
                    const std::string& precision, bool floats, std::optional<int> outputs) {
  const Arithmetic arithmetic = arithmetic_of(precision);
  const ConvShape s = conv_of(x, weight, stride, padding, mode, outputs);
  const Activation act = activation.empty() ? Activation{} : activation_of(activation);
  const OnDevice here(*told.session);
  const Device device = told.device();
  const Bytes packed = pack_conv(s, weight.data(), arithmetic);
  const Memory input = uploaded(x, arithmetic), weights = uploaded(packed.data(), packed.size()),
               biases = uploaded(bias.data(), static_cast<size_t>(bias.size()) * sizeof(float));
  return run_twice(told, conv_workspace(s, arithmetic, device), {s.n, s.oh, s.ow, s.outputs},
                   arithmetic == Arithmetic::kFloat16 && !floats,
                   [&](void* y, void* workspace, Stream stream) {
                     conv(s, arithmetic, device, input.as<void>(), weights.as<void>(),
                          {biases.as<float>(), act, floats}, y, workspace, stream);
                   });
}

// x (n, h, w, c) and weight (c, oc, kh, kw) to (n, oh, ow, oc).
ConvTransposeShape conv_transpose_of(const py::array& x, const py::array& weight, int stride, int padding,
                                     int output_padding, const std::string& mode) {
  const auto size = [](const py::array& a, int axis) { return static_cast<int>(a.shape(axis)); };
  const int kh = size(weight, 2), kw = size(weight, 3), ih = size(x, 1), iw = size(x, 2);
  const auto grown = [&](int in, int kernel) {
    return (in - 1) * stride - 2 * padding + kernel + output_padding;
  };
  return {size(x, 0),      ih, iw, size(x, 3), grown(ih, kh), grown(iw, kw),
          size(weight, 1), kh, kw, stride,     padding,       padding_of(mode)};
}

FloatArray run_conv_transpose(const Told& told, const FloatArray& x, const FloatArray& weight,
                              const FloatArray& bias, int stride, int padding, int output_padding,
                              const std::string& mode, const py::dict& activation,
                              const std::string& precision, bool floats) {
  const Arithmetic arithmetic = arithmetic_of(precision);
  const ConvTransposeShape s = conv_transpose_of(x, weight, stride, padding, output_padding, mode);
  const Activation act = activation.empty() ? Activation{} : activation_of(activation);
  const OnDevice here(*told.session);
  const Device device = told.device();
  const Bytes packed = pack_conv_transpose(s, weight.data(), arithmetic);
  const Memory input = uploaded(x, arithmetic), weights = uploaded(packed.data(), packed.size()),
               biases = uploaded(bias.data(), static_cast<size_t>(bias.size()) * sizeof(float));
  return run_twice(told, conv_transpose_workspace(s, arithmetic, device), {s.n, s.oh, s.ow, s.oc},
                   arithmetic == Arithmetic::kFloat16 && !floats,
                   [&](void* y, void* workspace, Stream stream) {
                     conv_transpose(s, arithmetic, device, input.as<void>(), weights.as<void>(),
                                    {biases.as<float>(), act, floats}, y, workspace, stream);
                   });
}

py::tuple tuple_of(const Plan& p) {
  return py::make_tuple(p.method, p.tile_pixels, p.tile_channels, p.splits, p.blocks);
}

// How conv cuts a layer of n images up: pixels and channels of a block, parts of k, blocks.
py::tuple plan_of_conv(const Told& told, int n, int ih, int iw, int ic, int oc, int kernel, int stride,
                       int padding, const std::string& precision) {
  ConvShape s = conv_shape(ih, iw, ic, (ih + 2 * padding - kernel) / stride + 1,
                           (iw + 2 * padding - kernel) / stride + 1, oc, kernel, kernel);
  s.n = n;
  s.stride = stride;
  s.pad_top = s.pad_left = padding;
  return tuple_of(conv_plan(s, arithmetic_of(precision), told.device()));
}

// A frame to (h, w, c), as pack_frame, from device memory.
FloatArray run_pack_frame(const Told& told, const py::array& rgb, const py::object& depth, float depth_scale,
                          bool bgr, const InputEncoding& encoding, int height, int width,
                          const std::string& precision) {
  const Arithmetic arithmetic = arithmetic_of(precision);
  FramePack f = frame_of(rgb, depth, depth_scale, bgr, encoding);
  f.out_height = height;
  f.out_width = width;
  const OnDevice here(*told.session);
  // The bytes that the strides of a row-major array with gaps at most reach.
  const auto span = [&](std::ptrdiff_t row, std::ptrdiff_t pixel, size_t last) {
    return static_cast<size_t>((f.height - 1) * row + (f.width - 1) * pixel) + last;
  };
  const Memory color = uploaded(f.color, span(f.color_row, f.color_pixel, 3));
  const size_t sample = f.depth_type == DepthType::kUint16 ? 2 : 4;
  const Memory metres = f.depth_type == DepthType::kNone
                            ? Memory()
                            : uploaded(f.depth, span(f.depth_row, f.depth_pixel, sample));
  f.color = color.as<const std::uint8_t>();
  f.depth = metres.as<void>();
  const std::vector<unsigned char> zeros(std::max(kCounterBytes, pack_frame_workspace(f)));
  const Memory workspace = uploaded(zeros.data(), zeros.size());
  const size_t count = static_cast<size_t>(height) * width * encoding.channels;
  const Poisoned out(*told.session, count * activation_bytes(arithmetic));
  pack_frame(f, arithmetic, told.device(), out.data(), workspace.as<void>(), told.session->stream);
  const FloatArray y = out.read({height, width, encoding.channels}, arithmetic == Arithmetic::kFloat16);
  std::vector<unsigned char> counters(kCounterBytes);
  check(cudaMemcpy(counters.data(), workspace.as<void>(), kCounterBytes, cudaMemcpyDeviceToHost),
        "cudaMemcpy");
  if (!std::equal(counters.begin(), counters.end(), zeros.begin()))
    throw std::runtime_error("the kernel wrote over the counters of the workspace.");
  return y;
}

// Network output (n, c) to rgb (n, 3) and depth (n,), or None without depth.
py::tuple run_unpack_frames(const Told& told, const FloatArray& x, const InputEncoding& encoding) {
  const py::ssize_t pixels = x.shape(0);
  const bool with_depth = encoding.channels == 4;
  const OnDevice here(*told.session);
  const Memory input = uploaded(x, Arithmetic::kFloat32);
  const Poisoned rgb(*told.session, static_cast<size_t>(pixels) * 3);
  const Poisoned depth(*told.session, with_depth ? static_cast<size_t>(pixels) * sizeof(float) : 0);
  unpack_frames(input.as<float>(), static_cast<size_t>(pixels), encoding, told.device(),
                static_cast<unsigned char*>(rgb.data()),
                with_depth ? static_cast<float*>(depth.data()) : nullptr, told.session->stream);
  py::array_t<std::uint8_t> colors({pixels, py::ssize_t{3}});
  rgb.read(colors.mutable_data());
  if (!with_depth) return py::make_tuple(colors, py::none());
  return py::make_tuple(colors, depth.read({pixels}, false));
}

}  // namespace

void bind_kernels(py::module_& m) {
  py::class_<Told>(m, "CudaKernels")
      .def(py::init([](std::shared_ptr<Session> session, int sms, int shared_per_block, int compute) {
             return Told{std::move(session), sms, shared_per_block, compute};
           }),
           py::arg("session").none(false), py::arg("sms") = 0, py::arg("shared_per_block") = 0,
           py::arg("compute") = 0)
      .def("conv", &run_conv, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("stride"),
           py::arg("padding"), py::arg("padding_mode"), py::arg("activation"), py::arg("precision"),
           py::arg("floats") = false, py::arg("outputs") = py::none())
      .def("conv_transpose", &run_conv_transpose, py::arg("x"), py::arg("weight"), py::arg("bias"),
           py::arg("stride"), py::arg("padding"), py::arg("output_padding"), py::arg("padding_mode"),
           py::arg("activation"), py::arg("precision"), py::arg("floats") = false)
      .def("conv_plan", &plan_of_conv, py::arg("n"), py::arg("ih"), py::arg("iw"), py::arg("ic"),
           py::arg("oc"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("precision"))
      .def("upsample_conv", &run_upsample_conv, py::arg("x"), py::arg("weight"), py::arg("bias"),
           py::arg("padding_mode"), py::arg("activation"), py::arg("precision"), py::arg("floats") = false)
      .def("upsample_conv_plan", &plan_of_upsample_conv, py::arg("n"), py::arg("ih"), py::arg("iw"),
           py::arg("ic"), py::arg("oc"), py::arg("precision"))
      .def("pack_frame", &run_pack_frame, py::arg("rgb"), py::arg("depth"), py::arg("depth_scale"),
           py::arg("bgr"), py::arg("encoding"), py::arg("height"), py::arg("width"), py::arg("precision"))
      .def("unpack_frames", &run_unpack_frames, py::arg("x"), py::arg("encoding"));
}

}  // namespace edgevae::cuda
