#include "network.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "half.h"
#include "layout.h"
#include "methods.h"

namespace edgevae {
namespace {

constexpr std::int64_t kLargest = std::int64_t{1} << 30;  // floats of one activation, pixels of a batch

std::string text(const Shape& s) {
  if (!s.image) return std::to_string(s.c) + " numbers";
  return std::to_string(s.c) + "x" + std::to_string(s.h) + "x" + std::to_string(s.w);
}

std::string text(const std::vector<int>& shape) {
  std::string out = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) out += ", ";
    out += std::to_string(shape[i]);
  }
  return out + ")";
}

[[noreturn]] void fail(size_t index, const Layer& layer, const std::string& what) {
  throw std::invalid_argument("layer " + std::to_string(index) + " (" + layer.op + "): " + what);
}

// What every layer with weights must satisfy; returns its number of output channels.
int check_weights(size_t index, const Layer& layer, size_t rank, size_t in_axis, int in, size_t out_axis) {
  const auto& shape = layer.weight.shape;
  if (layer.weight.data == nullptr || shape.size() != rank) {
    fail(index, layer,
         "weight has shape " + text(shape) + ", wanted " + std::to_string(rank) + " dimensions.");
  }
  std::int64_t count = 1;
  for (int n : shape) {
    if (n < 1 || (count *= n) > kLargest)
      fail(index, layer, "weight has shape " + text(shape) + ", out of bounds.");
  }
  if (shape[in_axis] != in) {
    fail(index, layer,
         "weight " + text(shape) + " takes " + std::to_string(shape[in_axis]) + " channels, the layer gets " +
             std::to_string(in) + ".");
  }
  const int out = shape[out_axis];
  if (layer.bias.data != nullptr && layer.bias.shape != std::vector<int>{out}) {
    fail(index, layer,
         "bias has shape " + text(layer.bias.shape) + ", wanted (" + std::to_string(out) + ").");
  }
  return out;
}

// What an int8 layer brings beside its weights. `scales` numbers of weight_scale, `inputs` of input_scale,
// each output a sum of `terms`.
void check_scales(size_t index, const Layer& layer, std::vector<int> scales, int inputs, std::int64_t terms) {
  if (layer.weight_scale.data == nullptr) return;
  const auto positive = [](const Tensor& t, std::int64_t count) {
    return std::all_of(t.data, t.data + count, [](float v) { return v > 0 && std::isfinite(v); });
  };
  std::int64_t count = 1;
  for (int n : scales) count *= n;
  if (layer.weight_scale.shape != scales || !positive(layer.weight_scale, count)) {
    fail(index, layer,
         "weight_scale has shape " + text(layer.weight_scale.shape) + ", wanted positive numbers, " +
             text(scales) + ".");
  }
  if (layer.input_scale.data == nullptr) return;
  if (layer.input_scale.shape != std::vector<int>{inputs} || !positive(layer.input_scale, inputs)) {
    fail(index, layer,
         "input_scale has shape " + text(layer.input_scale.shape) + ", wanted positive numbers, (" +
             std::to_string(inputs) + ").");
  }
  if (layer.input_zero < 0 || layer.input_zero > 255) {
    fail(index, layer, "input_zero is " + std::to_string(layer.input_zero) + ", wanted 0 to 255.");
  }
  if (terms > ((std::int64_t{1} << 31) - 1) / (255 * 127)) {
    fail(index, layer, "sums " + std::to_string(terms) + " products, too many for int8 arithmetic.");
  }
}

void want_image(size_t index, const Layer& layer, const Shape& s) {
  if (!s.image)
    fail(index, layer, "wants an image, gets " + text(s) + "; a reshape to (c, h, w) is missing.");
}

void want_vector(size_t index, const Layer& layer, const Shape& s) {
  if (s.image)
    fail(index, layer, "wants a vector, gets an image " + text(s) + "; a reshape to (n) is missing.");
}

// Output length of a window that slides along `in` samples.
int slide(size_t index, const Layer& layer, int in, int kernel, int stride, int padding) {
  const std::int64_t room = std::int64_t{in} + 2 * std::int64_t{padding} - kernel;
  if (stride < 1 || padding < 0 || padding >= kernel || room < 0) {
    fail(index, layer,
         "kernel " + std::to_string(kernel) + ", stride " + std::to_string(stride) + ", padding " +
             std::to_string(padding) + " do not fit an input of " + std::to_string(in) + " pixels.");
  }
  return static_cast<int>(room / stride + 1);
}

Shape next_shape(size_t index, const Layer& layer, const Shape& in, int condition) {
  Shape out = in;
  if (layer.op == "conv2d") {
    want_image(index, layer, in);
    out.c = check_weights(index, layer, 4, 1, in.c, 0);
    check_scales(index, layer, {out.c}, in.c,
                 std::int64_t{in.c} * layer.weight.shape[2] * layer.weight.shape[3]);
    out.h = slide(index, layer, in.h, layer.weight.shape[2], layer.stride, layer.padding);
    out.w = slide(index, layer, in.w, layer.weight.shape[3], layer.stride, layer.padding);
  } else if (layer.op == "upsample_conv2d") {
    want_image(index, layer, in);
    const auto& shape = layer.weight.shape;
    if (layer.weight_scale.data == nullptr) {
      out.c = check_weights(index, layer, 4, 1, in.c, 0);
      if (shape[2] != 3 || shape[3] != 3)
        fail(index, layer, "weight has shape " + text(shape) + ", wanted a 3x3 kernel.");
    } else {
      out.c = check_weights(index, layer, 5, 2, in.c, 1);
      if (shape[0] != 4 || shape[3] != 2 || shape[4] != 2 || layer.input_scale.data == nullptr)
        fail(index, layer,
             "weight has shape " + text(shape) + ", wanted int8 phases (4, O, I, 2, 2) with input_scale.");
      check_scales(index, layer, {4, out.c}, in.c, std::int64_t{4} * in.c);
    }
    if (in.h > 16384 || in.w > 16384) fail(index, layer, "input " + text(in) + " is too large.");
    out.h = 2 * in.h;
    out.w = 2 * in.w;
  } else if (layer.op == "conv_transpose2d") {
    want_image(index, layer, in);
    out.c = check_weights(index, layer, 4, 0, in.c, 1);
    check_scales(index, layer, {out.c}, in.c,
                 std::int64_t{in.c} * layer.weight.shape[2] * layer.weight.shape[3]);
    const auto grow = [&](int n, int kernel) {
      const std::int64_t size = (n - std::int64_t{1}) * layer.stride - 2 * std::int64_t{layer.padding} +
                                kernel + layer.output_padding;
      if (layer.stride < 1 || layer.padding < 0 || layer.padding >= kernel || layer.output_padding < 0 ||
          layer.output_padding >= layer.stride || size < 1 || size > 32768) {
        fail(index, layer,
             "kernel " + std::to_string(kernel) + ", stride " + std::to_string(layer.stride) + ", padding " +
                 std::to_string(layer.padding) + ", output_padding " + std::to_string(layer.output_padding) +
                 " do not fit an input of " + std::to_string(n) + " pixels.");
      }
      return static_cast<int>(size);
    };
    out.h = grow(in.h, layer.weight.shape[2]);
    out.w = grow(in.w, layer.weight.shape[3]);
  } else if (layer.op == "linear") {
    want_vector(index, layer, in);
    out.c = check_weights(index, layer, 2, 1, in.c, 0);
    check_scales(index, layer, {out.c}, in.c, in.c);
  } else if (layer.op == "max_pool2d") {
    want_image(index, layer, in);
    if (layer.kernel < 1)
      fail(index, layer, "kernel is " + std::to_string(layer.kernel) + ", wanted at least 1.");
    out.h = slide(index, layer, in.h, layer.kernel, layer.stride, 0);
    out.w = slide(index, layer, in.w, layer.kernel, layer.stride, 0);
  } else if (layer.op == "reshape") {
    std::int64_t count = 1;
    for (int n : layer.shape) {
      if (n < 1 || (count *= n) > kLargest)
        fail(index, layer, "shape " + text(layer.shape) + " is out of bounds.");
    }
    if (layer.shape.size() == 1) {
      out = {layer.shape[0], 1, 1, false};
    } else if (layer.shape.size() == 3) {
      out = {layer.shape[0], layer.shape[1], layer.shape[2], true};
    } else {
      fail(index, layer, "shape " + text(layer.shape) + ", wanted (n) or (c, h, w).");
    }
    if (count != in.floats())
      fail(index, layer, "gets " + text(in) + ", cannot become " + text(layer.shape) + ".");
  } else if (layer.op == "concat_condition") {
    want_vector(index, layer, in);
    if (layer.size != condition || condition < 1) {
      fail(index, layer,
           "takes " + std::to_string(layer.size) + " numbers, the model's condition has " +
               std::to_string(condition) + ".");
    }
    out.c = in.c + layer.size;
  } else if (layer.op != "activation") {
    fail(index, layer, "is not an operation this version knows.");
  }
  if (out.floats() > kLargest) fail(index, layer, "output " + text(out) + " is too large.");
  return out;
}

}  // namespace

std::vector<Shape> infer_shapes(const std::vector<Layer>& layers, Shape input, int condition) {
  std::vector<Shape> shapes;
  for (size_t i = 0; i < layers.size(); ++i) {
    input = next_shape(i, layers[i], input, condition);
    shapes.push_back(input);
  }
  return shapes;
}

// Walks the layers once and appends steps. An image that was flattened stays (h, w, c) in memory; `planes`
// remembers that shape until a linear layer takes it up in its weights, or a step restores (c, h, w) order.
class Network::Builder {
 public:
  Builder(Network& network, const std::vector<Layer>& layers) : net_(network), layers_(layers) {}

  void build() {
    Shape in = net_.input_;
    net_.largest_ = 0;
    const auto shapes = infer_shapes(layers_, in, net_.condition_);
    for (at_ = 0; at_ < layers_.size(); ++at_) {
      add(layers_[at_], in, shapes[at_]);
      in = shapes[at_];
      net_.largest_ = std::max(net_.largest_, in.floats());
    }
    if (!in.image) restore_planes();
    net_.output_ = in;
    for (Step& step : net_.steps_) {
      step.macs = step.macs_by_definition();
      net_.macs_ += step.macs;
      net_.weight_bytes_ += static_cast<std::int64_t>(step.weights.size() + step.bias.size() * sizeof(float));
    }
  }

 private:
  static bool needs_order(const Shape& s) { return s.c > 1 && s.h * s.w > 1; }

  Step& append(Kind kind) {
    net_.steps_.push_back(Step{});
    net_.steps_.back().kind = kind;
    net_.steps_.back().layer = at_;
    return net_.steps_.back();
  }

  void restore_planes() {
    if (planes_) append(Kind::kToNchw).shape = *planes_;
    planes_.reset();
  }

  void add(const Layer& layer, const Shape& in, const Shape& out) {
    if (layer.op == "conv2d") {
      add_conv(layer, in, out);
    } else if (layer.op == "upsample_conv2d") {
      add_upsample_conv(layer, in, out);
    } else if (layer.op == "conv_transpose2d") {
      add_conv_transpose(layer, in, out);
    } else if (layer.op == "linear") {
      add_linear(layer, in, out);
    } else if (layer.op == "max_pool2d") {
      append(Kind::kMaxPool).pool = {0, in.h, in.w, in.c, out.h, out.w, layer.kernel, layer.stride};
    } else if (layer.op == "reshape") {
      add_reshape(in, out);
    } else if (layer.op == "concat_condition") {
      restore_planes();
      append(Kind::kConcat).shape = in;
    } else {
      add_activation(layer, in);
    }
  }

  void set_constants(const Layer& layer, Step& step, int count) {
    step.bias.assign(count, 0.0f);
    if (layer.bias.data != nullptr) std::copy_n(layer.bias.data, count, step.bias.data());
    if (layer.weight_scale.data != nullptr) {
      const int phases = layer.weight_scale.shape.size() == 2 ? layer.weight_scale.shape[0] : 1;
      step.scale.assign(layer.weight_scale.data, layer.weight_scale.data + phases * count);
    }
  }

  // Has the input of an integer layer quantized: by the steps that make it, where it is an image that they
  // have just made, else by a step of its own. `scales` are those of the input's channels as they lie in
  // memory.
  void quantize_input(const Layer& layer, const Shape& in, const float* scales) {
    if (layer.input_scale.data == nullptr) return;
    Floats inverse(in.c);
    for (int i = 0; i < in.c; ++i) inverse[i] = 1.0f / scales[i];
    auto& steps = net_.steps_;
    size_t first = steps.size();
    while (first > 0 && makes_image(steps[first - 1], in) &&
           (first == steps.size() || steps[first - 1].keeps_input))
      --first;
    if (first == steps.size()) {
      append(Kind::kQuantize).shape = in;
      net_.largest_ = std::max(net_.largest_, in.floats());
      first = steps.size() - 1;
    }
    for (size_t i = first; i < steps.size(); ++i) {
      steps[i].inverse_scale = inverse;
      steps[i].zero = layer.input_zero;
    }
  }

  static bool makes_image(const Step& step, const Shape& image) {
    if (!image.image) return false;
    if (step.kind == Kind::kUpsampleConv)
      return step.upsample.oc == image.c && 2 * step.upsample.ih == image.h &&
             2 * step.upsample.iw == image.w;
    return step.kind == Kind::kConv && step.conv.oc == image.c && step.conv.out_h == image.h &&
           step.conv.out_w == image.w;
  }

  WeightType int8_type(const Layer& layer) const {
    return layer.input_scale.data != nullptr ? WeightType::kQuads : WeightType::kInt8;
  }

  WeightType weight_type(const float* weights, size_t count, bool used_as_they_are) const {
    if (net_.precision_ == Precision::kFloat32) return WeightType::kFloat32;
    if (net_.precision_ == Precision::kExact) {
      const auto fits = [](float w) { return std::abs(w) <= kLargestHalf && from_half(to_half(w)) == w; };
      const bool exact = used_as_they_are && std::all_of(weights, weights + count, fits);
      return exact ? WeightType::kFloat16 : WeightType::kFloat32;
    }
    // A transformed weight is a sum of up to nine.
    const float largest = used_as_they_are ? kLargestHalf : kLargestHalf / 9;
    if (!std::all_of(weights, weights + count, [=](float w) { return std::abs(w) <= largest; })) {
      throw std::invalid_argument("layer " + std::to_string(at_) + " (" + layers_[at_].op +
                                  ") has weights beyond the range of fp16; use fp32.");
    }
    return WeightType::kFloat16;
  }

  void pack_conv(const Layer& layer, Step& step, const float* weights) {
    const ConvShape& s = step.conv;
    const bool int8 = layer.weight_scale.data != nullptr;
    const bool nine = step.nine_products = !int8 && conv_method(s) == ConvMethod::kNineProducts;
    step.conv_kernel = nine ? &net_.kernels_.conv_nine : &net_.kernels_.conv;
    step.conv.weights =
        int8 ? int8_type(layer) : weight_type(weights, static_cast<size_t>(s.oc) * s.ic * s.kh * s.kw, !nine);
    step.conv.input_zero = layer.input_zero;
    step.weights.resize(step.conv_kernel->packed_bytes(step.conv));
    step.conv_kernel->pack(step.conv, weights, step.weights.data());
  }

  void add_conv(const Layer& layer, const Shape& in, const Shape& out) {
    quantize_input(layer, in, layer.input_scale.data);
    Step& step = append(Kind::kConv);
    const int kh = layer.weight.shape[2], kw = layer.weight.shape[3];
    step.conv = conv_shape(in.h, in.w, in.c, out.h, out.w, out.c, kh, kw);
    step.conv.stride = layer.stride;
    step.conv.pad_top = step.conv.pad_left = layer.padding;
    step.conv.padding = layer.padding_mode;
    set_constants(layer, step, out.c);
    pack_conv(layer, step, layer.weight.data);
  }

  void add_upsample_conv(const Layer& layer, const Shape& in, const Shape& out) {
    quantize_input(layer, in, layer.input_scale.data);
    Step& step = append(Kind::kUpsampleConv);
    step.upsample = {0, in.h, in.w, in.c, out.c, layer.padding_mode};
    step.upsample.phases = layer.weight_scale.data != nullptr;
    set_constants(layer, step, out.c);
    pack_upsample_conv(layer, step, layer.weight.data, 9);
  }

  // An upsample-conv that is given as merged taps.
  void add_phases(const Layer& layer, const Shape& in, const Shape& out, const float* weights) {
    Step& step = append(Kind::kUpsampleConv);
    step.upsample = {0, in.h, in.w, in.c, out.c, Padding::kZeros};
    step.upsample.phases = step.transposed = true;
    set_constants(layer, step, out.c);
    const Floats scale = step.scale;  // one for all phases
    for (int phase = 1; phase < 4; ++phase) step.scale.insert(step.scale.end(), scale.begin(), scale.end());
    pack_upsample_conv(layer, step, weights, 16);
  }

  void pack_upsample_conv(const Layer& layer, Step& step, const float* weights, size_t taps) {
    UpsampleConvShape& s = step.upsample;
    s.input_zero = layer.input_zero;
    s.weights = layer.weight_scale.data != nullptr ? int8_type(layer)
                                                   : weight_type(weights, taps * s.oc * s.ic, s.phases);
    step.weights.resize(net_.kernels_.upsample_conv.packed_bytes(s));
    net_.kernels_.upsample_conv.pack(s, weights, step.weights.data());
  }

  // Output row stride * q + phase takes the taps ky = phase + padding (mod stride), from input row
  // q + (phase + padding - ky) / stride: for each phase a plain convolution with every stride-th tap,
  // reversed.
  void add_conv_transpose(const Layer& layer, const Shape& in, const Shape& out) {
    const int kh = layer.weight.shape[2], kw = layer.weight.shape[3], stride = layer.stride;
    struct Phase {
      int taps, pad, count, first_tap;

      // Its taps reach the input rows -1 and 0 (phase 0), or 0 and 1 (phase 1), and none else.
      bool doubles(int phase, int size) const {
        return count == size && taps > 0 && pad <= 1 - phase && taps - 1 - pad <= phase;
      }
    };
    const auto phase_of = [&](int phase, int kernel, int size) {
      const int first = (phase + layer.padding) % stride;
      const int taps = first < kernel ? (kernel - 1 - first) / stride + 1 : 0;
      return Phase{taps, taps - 1 - (phase + layer.padding) / stride, (size - phase + stride - 1) / stride,
                   first};
    };
    quantize_input(layer, in, layer.input_scale.data);
    bool doubles = stride == 2 && out.h == 2 * in.h && out.w == 2 * in.w;
    for (int phase = 0; doubles && phase < 2; ++phase) {
      doubles =
          phase_of(phase, kh, out.h).doubles(phase, in.h) && phase_of(phase, kw, out.w).doubles(phase, in.w);
    }
    if (doubles && ((kh == 4 && kw == 4) || out.c <= kFewChannels)) {
      std::vector<float> weights(size_t{16} * out.c * in.c, 0.0f);
      for (int py = 0; py < 2; ++py)
        for (int px = 0; px < 2; ++px) {
          const Phase y = phase_of(py, kh, out.h), x = phase_of(px, kw, out.w);
          for (int ty = 0; ty < y.taps; ++ty)
            for (int tx = 0; tx < x.taps; ++tx) {
              const int ky = y.first_tap + (y.taps - 1 - ty) * 2, kx = x.first_tap + (x.taps - 1 - tx) * 2;
              const int row = ty - y.pad + 1 - py, column = tx - x.pad + 1 - px;
              for (int o = 0; o < out.c; ++o)
                for (int i = 0; i < in.c; ++i)
                  weights[((static_cast<size_t>(2 * py + px) * out.c + o) * in.c + i) * 4 + 2 * row +
                          column] =
                      layer.weight.data[((static_cast<size_t>(i) * out.c + o) * kh + ky) * kw + kx];
            }
        }
      add_phases(layer, in, out, weights.data());
      return;
    }
    for (int py = 0; py < std::min(stride, out.h); ++py) {
      for (int px = 0; px < std::min(stride, out.w); ++px) {
        const Phase y = phase_of(py, kh, out.h), x = phase_of(px, kw, out.w);
        Step& step = append(Kind::kConv);
        step.keeps_input = true;
        // A phase without taps (kernel shorter than the stride) is its bias: one tap of zero weight.
        const int th = std::max(1, y.taps), tw = std::max(1, x.taps);
        step.conv = conv_shape(in.h, in.w, in.c, y.count, x.count, out.c, th, tw);
        step.conv.pad_top = y.taps ? y.pad : 0;
        step.conv.pad_left = x.taps ? x.pad : 0;
        step.conv.out_h = out.h;
        step.conv.out_w = out.w;
        step.conv.out_step = stride;
        step.conv.out_y = py;
        step.conv.out_x = px;
        std::vector<float> weights(static_cast<size_t>(out.c) * in.c * th * tw, 0.0f);
        for (int o = 0; o < out.c && y.taps && x.taps; ++o)
          for (int i = 0; i < in.c; ++i)
            for (int ty = 0; ty < th; ++ty)
              for (int tx = 0; tx < tw; ++tx) {
                const int ky = y.first_tap + (th - 1 - ty) * stride,
                          kx = x.first_tap + (tw - 1 - tx) * stride;
                weights[((static_cast<size_t>(o) * in.c + i) * th + ty) * tw + tx] =
                    layer.weight.data[((static_cast<size_t>(i) * out.c + o) * kh + ky) * kw + kx];
              }
        set_constants(layer, step, out.c);
        pack_conv(layer, step, weights.data());
      }
    }
    net_.steps_.back().keeps_input = false;
  }

  void add_linear(const Layer& layer, const Shape& in, const Shape& out) {
    std::vector<float> weights(layer.weight.data, layer.weight.data + out.floats() * in.c);
    if (layer.input_scale.data != nullptr) {
      std::vector<float> scales(layer.input_scale.data, layer.input_scale.data + in.c);
      if (planes_) to_nhwc(layer.input_scale.data, planes_->c, planes_->floats() / planes_->c, scales.data());
      quantize_input(layer, in, scales.data());
    }
    Step& step = append(Kind::kConv);
    step.conv = conv_shape(1, 1, in.c, 1, 1, out.c, 1, 1);
    set_constants(layer, step, out.c);
    if (planes_) {  // the input lies in (h, w, c) order: so shall the columns
      for (int o = 0; o < out.c; ++o) {
        const std::int64_t row = std::int64_t{o} * in.c;
        to_nhwc(layer.weight.data + row, planes_->c, planes_->floats() / planes_->c, weights.data() + row);
      }
      planes_.reset();
    }
    if (const auto image = image_after_linear()) {  // and the rows, where an image follows
      const std::int64_t pixels = image->floats() / image->c;
      std::vector<float> rows(weights.size());
      Floats bias(step.bias.size()), scale(step.scale.size());
      for (std::int64_t p = 0; p < pixels; ++p)
        for (int c = 0; c < image->c; ++c) {
          const std::int64_t from = c * pixels + p, to = p * image->c + c;
          std::copy_n(&weights[from * in.c], in.c, &rows[to * in.c]);
          bias[to] = step.bias[from];
          if (!scale.empty()) scale[to] = step.scale[from];
        }
      weights.swap(rows);
      step.bias.swap(bias);
      step.scale.swap(scale);
      image_in_order_ = true;
    }
    pack_conv(layer, step, weights.data());
  }

  // The image that the linear layer at at_ is reshaped to, with at most activations between.
  std::optional<Shape> image_after_linear() const {
    for (size_t i = at_ + 1; i < layers_.size(); ++i) {
      if (layers_[i].op == "activation") continue;
      if (layers_[i].op != "reshape" || layers_[i].shape.size() != 3) return std::nullopt;
      const auto& s = layers_[i].shape;
      const Shape image{s[0], s[1], s[2], true};
      return needs_order(image) ? std::optional(image) : std::nullopt;
    }
    return std::nullopt;
  }

  void add_reshape(const Shape& in, const Shape& out) {
    if (in.image && !out.image) {
      if (needs_order(in)) planes_ = in;
      return;
    }
    if (in.image && needs_order(in)) append(Kind::kToNchw).shape = in;
    if (!in.image) restore_planes();
    if (out.image && needs_order(out) && !image_in_order_) append(Kind::kToNhwc).shape = out;
    image_in_order_ = false;
  }

  void add_activation(const Layer& layer, const Shape& in) {
    // Fused into the layer before, every phase of it, unless that one has an activation already.
    auto& steps = net_.steps_;
    bool fused = false;
    for (size_t i = steps.size(); i-- > 0;) {
      Step& step = steps[i];
      const bool same_layer = i + 1 == steps.size() || step.keeps_input;
      if (!same_layer || (step.kind != Kind::kConv && step.kind != Kind::kUpsampleConv)) break;
      if (step.activation.kind != ActivationKind::kNone) break;
      step.activation = layer.activation;
      fused = true;
    }
    if (fused) return;
    Step& step = append(Kind::kActivation);
    step.shape = in;
    step.activation = layer.activation;
  }

  Network& net_;
  const std::vector<Layer>& layers_;
  size_t at_ = 0;
  std::optional<Shape> planes_;
  bool image_in_order_ = false;
};

Network::Network(const std::vector<Layer>& layers, Shape input, int condition, Precision precision,
                 const Kernels& kernels, std::shared_ptr<Pool> pool)
    : input_(input), condition_(condition), precision_(precision), kernels_(kernels), pool_(std::move(pool)) {
  Builder(*this, layers).build();
}

namespace {

std::string name_of(WeightType type) {
  switch (type) {
    case WeightType::kFloat16:
      return "fp16";
    case WeightType::kInt8:
      return "int8 weights";
    case WeightType::kQuads:
      return "int8";
    case WeightType::kFloat32:
      break;
  }
  return "fp32";
}

}  // namespace

std::int64_t Network::Step::macs_by_definition() const {
  if (kind == Kind::kConv) return std::int64_t{conv.oh} * conv.ow * conv.oc * conv.ic * conv.kh * conv.kw;
  const std::int64_t pairs = std::int64_t{upsample.ih} * upsample.iw * upsample.ic * upsample.oc;
  return kind == Kind::kUpsampleConv ? pairs * (transposed ? 16 : 36) : 0;
}

std::pair<std::string, std::int64_t> Network::Step::method() const {
  const char* const others[] = {"",           "",         "max pool",  "concat",
                                "activation", "quantize", "to planes", "to pixels"};
  if (kind == Kind::kUpsampleConv) {
    const std::int64_t pairs = std::int64_t{upsample.ih} * upsample.iw * upsample.ic * upsample.oc;
    if (upsample.oc <= kFewChannels) return {"columns", 16 * pairs};
    if (upsample.phases) return {"phases", 16 * pairs};
    return {"nine products", 9 * pairs};
  }
  if (kind != Kind::kConv) return {others[static_cast<int>(kind)], 0};
  if (nine_products) return {"nine products", macs / 64 * 36};
  return {"direct", macs};
}

std::string Network::Step::arithmetic() const {
  if (kind == Kind::kConv) return name_of(conv.weights);
  if (kind == Kind::kUpsampleConv) return name_of(upsample.weights);
  return "";
}

bool Network::ends_in_linear() const {
  return !output_.image && !steps_.empty() && steps_.back().kind == Kind::kConv &&
         steps_.back().conv.oc == output_.c;
}

void Network::reserve(int n) {
  if (n <= reserved_) return;
  std::int64_t pixels = std::int64_t{input_.h} * input_.w;
  for (const Step& s : steps_) {
    pixels = std::max(
        {pixels, std::int64_t{s.conv.out_h} * s.conv.out_w, 4 * std::int64_t{s.upsample.ih} * s.upsample.iw});
  }
  if (pixels * n > kLargest) {
    throw std::invalid_argument("a batch of " + std::to_string(n) + " images is too large; split it.");
  }
  size_t scratch = 0;
  for (Step& s : steps_) {
    s.conv.n = s.upsample.n = n;
    if (s.kind == Kind::kConv) scratch = std::max(scratch, s.conv_kernel->scratch_floats(s.conv));
    if (s.kind == Kind::kUpsampleConv)
      scratch = std::max(scratch, kernels_.upsample_conv.scratch_floats(s.upsample));
  }
  // NaN, so that a kernel that read what nobody wrote would show.
  const float poison = std::numeric_limits<float>::quiet_NaN();
  reserved_ = 0;
  input_buffer_.assign(static_cast<size_t>(input_.floats()) * n, poison);
  for (auto& buffer : buffers_) buffer.assign(static_cast<size_t>(largest_) * n, poison);
  this->scratch(scratch);
  reserved_ = n;
}

Scratch Network::scratch(size_t per_thread) {
  per_thread = (per_thread + 31) / 16 * 16;  // a cache line apart
  const size_t threads = static_cast<size_t>(pool_threads(*pool_));
  if (scratch_.size() < per_thread * threads) scratch_.resize(per_thread * threads);
  return {scratch_.data(), scratch_.size() / threads};
}

template <class After>
const float* Network::run_steps(int n, int outputs, const float* condition, After after) {
  const float* x = input_buffer_.data();
  int into = 0;
  const Scratch scratch{scratch_.data(), scratch_.size() / static_cast<size_t>(pool_threads(*pool_))};
  for (size_t i = 0; i < steps_.size(); ++i) {
    Step& s = steps_[i];
    float* y = buffers_[into].data();
    switch (s.kind) {
      case Kind::kConv:
        s.conv.n = n;
        s.conv.outputs = i + 1 == steps_.size() && ends_in_linear() ? outputs : s.conv.oc;
        s.conv_kernel->run(s.conv, x, s.weights.data(), s.epilogue(), y, scratch, *pool_);
        break;
      case Kind::kUpsampleConv:
        s.upsample.n = n;
        kernels_.upsample_conv.run(s.upsample, x, s.weights.data(), s.epilogue(), y, scratch, *pool_);
        break;
      case Kind::kMaxPool:
        s.pool.n = n;
        kernels_.max_pool(s.pool, x, y, *pool_);
        break;
      case Kind::kActivation:
        kernels_.activation(x, static_cast<size_t>(s.shape.floats()) * n, s.activation, y);
        break;
      case Kind::kQuantize:
        kernels_.quantize(x, static_cast<size_t>(s.shape.floats() / s.shape.c) * n, s.shape.c,
                          s.inverse_scale.data(), s.zero, reinterpret_cast<unsigned char*>(y));
        break;
      case Kind::kConcat:
        for (int b = 0; b < n; ++b) {
          float* row = y + static_cast<size_t>(b) * (s.shape.c + condition_);
          std::copy_n(x + static_cast<size_t>(b) * s.shape.c, s.shape.c, row);
          std::copy_n(condition + static_cast<size_t>(b) * condition_, condition_, row + s.shape.c);
        }
        break;
      case Kind::kToNchw:
      case Kind::kToNhwc:
        for (int b = 0; b < n; ++b) {
          const std::int64_t at = b * s.shape.floats(), pixels = std::int64_t{s.shape.h} * s.shape.w;
          (s.kind == Kind::kToNchw ? to_nchw : to_nhwc)(x + at, s.shape.c, pixels, y + at);
        }
        break;
    }
    after(i);
    if (s.keeps_input) continue;
    x = y;
    into = 1 - into;
  }
  return x;
}

const float* Network::run(int n, int outputs, const float* condition) {
  return run_steps(n, outputs, condition, [](size_t) {});
}

std::vector<StepReport> Network::profile(int n, int outputs, const float* condition) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds(steps_.size());
  auto last = Clock::now();
  run_steps(n, outputs, condition, [&](size_t step) {
    const auto now = Clock::now();
    seconds[step] = std::chrono::duration<double>(now - last).count();
    last = now;
  });
  std::vector<StepReport> reports;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& s = steps_[i];
    const auto [method, products] = s.method();
    const auto bytes = static_cast<std::int64_t>(s.weights.size());
    reports.push_back({s.layer, method, s.arithmetic(), s.macs, products, bytes, seconds[i]});
  }
  return reports;
}

}  // namespace edgevae
