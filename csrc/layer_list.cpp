#include "layer_list.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace edgevae {
namespace {

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

}  // namespace edgevae
