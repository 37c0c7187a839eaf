// What the bindings of both engines share: arguments from Python, checked.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "folding.h"
#include "frame_pack.h"

namespace edgevae {

namespace py = pybind11;

// Python ends a thread that comes back after the interpreter has begun to shut down by unwinding it, which
// may not pass a destructor; such a thread sleeps until the process is gone, as it does from Python 3.14 on.
class Unlocked {
 public:
  ~Unlocked() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }

 private:
  PyThreadState* state_ = PyEval_SaveThread();
};

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

inline std::invalid_argument error(const std::string& what) { return std::invalid_argument(what); }

inline std::string shape_text(const py::array& a) { return py::str(a.attr("shape")); }

inline std::string choice(const py::dict& d, const char* key) { return py::cast<std::string>(d[key]); }

inline Padding padding_of(const std::string& name) {
  if (name == "zeros") return Padding::kZeros;
  if (name == "replicate") return Padding::kReplicate;
  throw error("padding_mode is '" + name + "', wanted zeros or replicate.");
}

inline Activation activation_of(const py::dict& d) {
  const std::string kind = choice(d, "kind");
  if (kind == "relu") return {ActivationKind::kRelu, 0};
  if (kind == "leaky_relu") return {ActivationKind::kLeakyRelu, py::cast<float>(d["slope"])};
  if (kind == "tanh") return {ActivationKind::kTanh, 0};
  if (kind == "sigmoid") return {ActivationKind::kSigmoid, 0};
  if (kind == "softplus") return {ActivationKind::kSoftplus, 0};
  throw error("activation kind is '" + kind + "', wanted relu, leaky_relu, tanh, sigmoid or softplus.");
}

// Layers whose tensors point into arrays that `kept` holds.
struct Layers {
  std::vector<Layer> layers;
  std::vector<FloatArray> kept;

  Layers(const py::list& list, const py::dict& tensors) {
    for (const auto& item : list) {
      const auto d = py::cast<py::dict>(item);
      Layer layer;
      layer.op = choice(d, "op");
      const auto integer = [&](const char* key, int& value) {
        if (d.contains(key)) value = py::cast<int>(d[key]);
      };
      integer("stride", layer.stride);
      integer("padding", layer.padding);
      integer("output_padding", layer.output_padding);
      integer("kernel", layer.kernel);
      integer("size", layer.size);
      if (d.contains("padding_mode")) layer.padding_mode = padding_of(choice(d, "padding_mode"));
      if (d.contains("shape")) layer.shape = py::cast<std::vector<int>>(d["shape"]);
      if (layer.op == "activation") layer.activation = activation_of(d);
      integer("input_zero", layer.input_zero);
      if (d.contains("weight_scale")) layer.weight_scale = tensor(tensors, choice(d, "weight_scale"));
      if (d.contains("input_scale")) layer.input_scale = tensor(tensors, choice(d, "input_scale"));
      if (d.contains("weight")) layer.weight = tensor(tensors, choice(d, "weight"));
      if (d.contains("bias") && !d["bias"].is_none()) layer.bias = tensor(tensors, choice(d, "bias"));
      layers.push_back(std::move(layer));
    }
  }

 private:
  Tensor tensor(const py::dict& tensors, const std::string& name) {
    if (!tensors.contains(name.c_str()))
      throw error("tensor '" + name + "' is named by a layer but not there.");
    kept.push_back(py::cast<FloatArray>(tensors[name.c_str()]));
    const FloatArray& array = kept.back();
    Tensor t;
    t.data = array.data();
    for (py::ssize_t i = 0; i < array.ndim(); ++i) t.shape.push_back(static_cast<int>(array.shape(i)));
    return t;
  }
};

inline Shape image_shape(const std::vector<int>& chw) {
  if (chw.size() != 1 && chw.size() != 3) throw error("input shape wants (c, h, w) or (n).");
  const int largest = chw.size() == 1 ? 1 << 30 : 16384;
  for (int n : chw) {
    if (n < 1 || n > largest) {
      throw error("input shape is out of bounds, wanted sizes from 1 to " + std::to_string(largest) + ".");
    }
  }
  if (chw.size() == 1) return {chw[0], 1, 1, false};
  return {chw[0], chw[1], chw[2], true};
}

inline std::vector<int> shape_list(const Shape& s) {
  return s.image ? std::vector<int>{s.c, s.h, s.w} : std::vector<int>{s.c};
}

inline InputEncoding encoding_of(int channels, const std::string& color, const std::string& depth,
                                 float min_m, float max_m, float no_reading, bool fill) {
  InputEncoding e{channels, color == "minmax", DepthEncoding::kNone, min_m, max_m, no_reading, fill};
  if (channels != 1 && channels != 3 && channels != 4) throw error("channels must be 1, 3 or 4.");
  if (color != "fixed" && color != "minmax") throw error("color encoding must be fixed or minmax.");
  if (depth == "linear") e.depth = DepthEncoding::kLinear;
  if (depth == "inverse") e.depth = DepthEncoding::kInverse;
  if (depth == "log") e.depth = DepthEncoding::kLog;
  if (depth == "minmax") e.depth = DepthEncoding::kMinMax;
  if (channels == 4 && e.depth == DepthEncoding::kNone) {
    throw error("depth encoding is '" + depth + "', wanted linear, inverse, log or minmax.");
  }
  if (channels == 4 && e.depth != DepthEncoding::kMinMax && !(min_m > 0 && max_m > min_m)) {
    throw error("depth range must satisfy 0 < min_m < max_m.");
  }
  if (fill && (channels != 4 || e.depth == DepthEncoding::kMinMax || !(no_reading < -1))) {
    throw error("fill wants a metric depth encoding and no_reading below -1.");
  }
  return e;
}

// A colour image and its depth, as strides and pointers. The arrays outlive the call.
inline FramePack frame_of(const py::array& rgb, const py::object& depth, float depth_scale, bool bgr,
                          const InputEncoding& encoding) {
  if (!rgb.dtype().is(py::dtype::of<std::uint8_t>()) || rgb.ndim() != 3 || rgb.shape(2) < 3 ||
      rgb.shape(0) < 1 || rgb.shape(1) < 1 || rgb.shape(0) > 65536 || rgb.shape(1) > 65536) {
    throw error("colour is " + std::string(py::str(rgb.dtype())) + " " + shape_text(rgb) +
                ", wanted uint8 (H, W, 3) in R, G, B order.");
  }
  if (rgb.strides(2) != 1)
    throw error("the three samples of a colour pixel must be adjacent; copy the array.");
  FramePack f{};
  f.color = static_cast<const std::uint8_t*>(rgb.data());
  f.height = static_cast<int>(rgb.shape(0));
  f.width = static_cast<int>(rgb.shape(1));
  f.color_row = rgb.strides(0);
  f.color_pixel = rgb.strides(1);
  f.bgr = bgr;
  f.depth_type = DepthType::kNone;
  f.depth_scale = depth_scale;
  f.encoding = encoding;
  if (!depth.is_none()) {
    const auto array = py::cast<py::array>(depth);
    if (array.ndim() != 2 || array.shape(0) != rgb.shape(0) || array.shape(1) != rgb.shape(1)) {
      throw error("depth is " + shape_text(array) + ", colour is " + shape_text(rgb) +
                  "; wanted the same height and width.");
    }
    if (array.dtype().is(py::dtype::of<std::uint16_t>())) {
      f.depth_type = DepthType::kUint16;
      if (!(depth_scale > 0)) throw error("depth_scale must be positive metres per unit.");
    } else if (array.dtype().is(py::dtype::of<float>())) {
      f.depth_type = DepthType::kFloat32;
    } else {
      throw error("depth is " + std::string(py::str(array.dtype())) + ", wanted uint16 or float32 metres.");
    }
    f.depth = array.data();
    f.depth_row = array.strides(0);
    f.depth_pixel = array.strides(1);
  }
  return f;
}

// A convolution on the caller's own memory, for programs that keep their tensors elsewhere: a conv2d or
// upsample_conv2d of floats, and an activation or none, as a network takes them, in one step for `take`.
// Returns the shapes of input and output.
inline std::array<Shape, 2> fold_convolution(const py::list& list, const py::dict& tensors,
                                             const std::vector<int>& input,
                                             const std::function<void(const FoldedLayer&)>& take) {
  const Layers parsed(list, tensors);
  const auto& layers = parsed.layers;
  const bool fits = (layers.size() == 1 || (layers.size() == 2 && layers[1].op == "activation")) &&
                    (layers[0].op == "conv2d" || layers[0].op == "upsample_conv2d") &&
                    layers[0].weight_scale.data == nullptr;
  if (!fits) throw error("layers are not a conv2d or upsample_conv2d of floats and at most an activation.");
  const Shape in = image_shape(input);
  const auto shapes = infer_shapes(layers, in, 0);
  fold_layers(layers, in, shapes, take);
  return {in, shapes.back()};
}

// The most images that such a step takes at once.
inline std::int64_t most_images(const Shape& in, const Shape& out) {
  return kLargest / std::max(in.floats(), out.floats());
}

// A network of one engine as Python sees it. Engine has of edgevae::Network input(), output(), condition(),
// ends_in_linear(), macs() and weight_bytes(), and beside them
//   name()                  what it runs on
//   ready()                 called with the interpreter's lock: may it be used at all?
//   lock()                  held during the following calls
//   run(n, outputs, x, condition, y), encode_frame(frame, outputs, y), decode_frames(n, z, condition,
//   encoding, rgb, depth), profile(n, outputs, condition)      of dense arrays in host memory, as the methods
//   here say
template <class Engine>
class PyNetwork {
 public:
  template <class... Arguments>
  PyNetwork(const py::list& list, const py::dict& tensors, const std::vector<int>& input, int condition,
            Arguments&&... arguments)
      : network_(checked(list, tensors, condition).layers, image_shape(input), condition,
                 std::forward<Arguments>(arguments)...) {}

  // x (N, ...) float32 in the network's input shape, condition (N, k) or None.
  FloatArray run(const FloatArray& x, const py::object& condition, std::optional<int> outputs) {
    const Shape in = network_.input(), out = network_.output();
    const std::vector<int> wanted = shape_list(in);
    bool fits = x.ndim() == static_cast<py::ssize_t>(wanted.size()) + 1;
    for (size_t i = 0; fits && i < wanted.size(); ++i) fits = x.shape(i + 1) == wanted[i];
    if (!fits) {
      std::string text = "(N";
      for (int n : wanted) text += ", " + std::to_string(n);
      throw error("input is " + shape_text(x) + ", wanted float32 " + text + ").");
    }
    const auto n = x.shape(0);
    if (n > (1 << 20)) throw error("a batch of " + std::to_string(n) + " images is too large; split it.");
    const int want = wanted_outputs(outputs);
    const FloatArray c = condition_array(condition, n);
    std::vector<py::ssize_t> shape{n};
    if (out.image) {
      shape.insert(shape.end(), {out.c, out.h, out.w});
    } else {
      shape.push_back(want);
    }
    FloatArray result(shape);
    if (n == 0) return result;
    const float *from = x.data(), *conditions = c.data();
    float* to = result.mutable_data();
    network_.ready();
    Unlocked unlocked;
    const auto lock = network_.lock();
    network_.run(n, want, from, conditions, to);
    return result;
  }

  // One camera frame to (outputs,): the numbers, and the seconds that packing and the network took.
  py::tuple encode_frame(const py::array& rgb, const py::object& depth, float depth_scale, bool bgr,
                         const InputEncoding& encoding, std::optional<int> outputs) {
    const Shape in = network_.input(), out = network_.output();
    if (!in.image || in.c != encoding.channels || out.image || network_.condition() != 0) {
      throw error("this network does not take camera frames.");
    }
    FramePack f = frame_of(rgb, depth, depth_scale, bgr, encoding);
    const int want = wanted_outputs(outputs);
    FloatArray result(want);
    float* to = result.mutable_data();
    std::array<double, 2> seconds{};
    network_.ready();
    {
      Unlocked unlocked;
      const auto lock = network_.lock();
      f.out_height = in.h;
      f.out_width = in.w;
      seconds = network_.encode_frame(f, want, to);
    }
    return py::make_tuple(result, seconds[0], seconds[1]);
  }

  // Latents (N, d) to colour (N, h, w, 3) and depth (N, h, w), or None for a network without depth.
  py::tuple decode_frames(const FloatArray& z, const py::object& condition, const InputEncoding& encoding) {
    const Shape in = network_.input(), out = network_.output();
    if (in.image || !out.image || out.c != encoding.channels)
      throw error("this network does not make frames.");
    if (z.ndim() != 2 || z.shape(1) != in.c) {
      throw error("latent is " + shape_text(z) + ", wanted (N, " + std::to_string(in.c) + ").");
    }
    const auto n = z.shape(0);
    if (n > (1 << 20)) throw error("a batch of " + std::to_string(n) + " latents is too large; split it.");
    const bool with_depth = encoding.channels == 4;
    const FloatArray c = condition_array(condition, n);
    py::array_t<std::uint8_t> rgb({n, py::ssize_t{out.h}, py::ssize_t{out.w}, py::ssize_t{3}});
    FloatArray depth(with_depth ? std::vector<py::ssize_t>{n, out.h, out.w} : std::vector<py::ssize_t>{0});
    if (n > 0) {
      const float *from = z.data(), *conditions = c.data();
      std::uint8_t* colors = rgb.mutable_data();
      float* metres = with_depth ? depth.mutable_data() : nullptr;
      network_.ready();
      Unlocked unlocked;
      const auto lock = network_.lock();
      network_.decode_frames(n, from, conditions, encoding, colors, metres);
    }
    return py::make_tuple(rgb, with_depth ? py::object(depth) : py::none());
  }

  // What every step is and the seconds it took, in one run like run().
  py::list profile(const FloatArray& x, const py::object& condition, std::optional<int> outputs) {
    run(x, condition, outputs);  // the input is in place, and everything is warm
    const FloatArray c = condition_array(condition, x.shape(0));
    std::vector<StepReport> steps;
    if (x.shape(0) > 0) {
      const int want = wanted_outputs(outputs);
      network_.ready();
      Unlocked unlocked;
      const auto lock = network_.lock();
      steps = network_.profile(static_cast<int>(x.shape(0)), want, c.data());
    }
    py::list list;
    for (const StepReport& s : steps) {
      py::dict d;
      d["layer"] = s.layer;
      d["method"] = s.method;
      d["arithmetic"] = s.arithmetic;
      d["macs"] = s.macs;
      d["products"] = s.products;
      d["weight_bytes"] = s.weight_bytes;
      d["seconds"] = s.seconds;
      list.append(d);
    }
    return list;
  }

  py::dict properties() const {
    py::dict d;
    d["input"] = shape_list(network_.input());
    d["output"] = shape_list(network_.output());
    d["macs"] = network_.macs();
    d["weight_bytes"] = network_.weight_bytes();
    d["isa"] = network_.name();
    return d;
  }

 protected:
  int wanted_outputs(std::optional<int> outputs) const {
    const int all = network_.output().c;
    if (!outputs) return all;
    if (*outputs < 1 || *outputs > all || !network_.ends_in_linear()) {
      throw error("outputs is " + std::to_string(*outputs) + ", wanted 1 to " + std::to_string(all) +
                  " of a network that ends in a linear layer.");
    }
    return *outputs;
  }

  FloatArray condition_array(const py::object& condition, py::ssize_t n) const {
    const int k = network_.condition();
    if (condition.is_none()) {
      if (k != 0) throw error("the model wants a condition (N, " + std::to_string(k) + ").");
      return FloatArray(0);
    }
    const auto c = py::cast<FloatArray>(condition);
    if (k == 0) throw error("the model takes no condition.");
    if (c.ndim() != 2 || c.shape(0) != n || c.shape(1) != k) {
      throw error("condition is " + shape_text(c) + ", wanted (" + std::to_string(n) + ", " +
                  std::to_string(k) + ").");
    }
    return c;
  }

  static Layers checked(const py::list& list, const py::dict& tensors, int condition) {
    if (list.empty()) throw error("a network needs at least one layer.");
    if (condition < 0) throw error("condition is " + std::to_string(condition) + ", wanted at least 0.");
    return {list, tensors};
  }

  Engine network_;
};

// The methods that both engines have in Python.
template <class Bound>
void bind_methods(py::class_<Bound>& bound) {
  bound
      .def("run", &Bound::run, py::arg("x"), py::arg("condition") = py::none(),
           py::arg("outputs") = py::none())
      .def("encode_frame", &Bound::encode_frame, py::arg("rgb"), py::arg("depth"), py::arg("depth_scale"),
           py::arg("bgr"), py::arg("encoding"), py::arg("outputs") = py::none())
      .def("decode_frames", &Bound::decode_frames, py::arg("z"), py::arg("condition"), py::arg("encoding"))
      .def("profile", &Bound::profile, py::arg("x"), py::arg("condition") = py::none(),
           py::arg("outputs") = py::none())
      .def("properties", &Bound::properties);
}

namespace cuda {  // of builds with CUDA

void bind(py::module_&);          // bindings_cuda.cpp
void bind_kernels(py::module_&);  // bindings_cuda_kernels.cpp
enum class Arithmetic;
Arithmetic arithmetic_of(const std::string& precision);

}  // namespace cuda
}  // namespace edgevae
