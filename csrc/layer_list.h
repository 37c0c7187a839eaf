// The layers of a model file's encoder or decoder as the file has them, and the shapes that follow.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layers.h"

namespace edgevae {

inline constexpr std::int64_t kLargest = std::int64_t{1}
                                         << 30;  // floats of one activation, pixels of a batch

// A tensor of the model file; the caller keeps the numbers alive while a network is built.
struct Tensor {
  const float* data = nullptr;
  std::vector<int> shape;
};

// One layer of docs/model-file.md.
struct Layer {
  std::string op;
  Tensor weight, bias;  // bias.data may be null
  Tensor weight_scale;  // of int8 weights, else data is null
  Tensor input_scale;   // of a layer with integer arithmetic, else data is null
  int input_zero = 0;
  int stride = 1, padding = 0, output_padding = 0, kernel = 0, size = 0;
  Padding padding_mode = Padding::kZeros;
  std::vector<int> shape;  // of reshape
  Activation activation;   // of activation
};

struct Shape {
  int c = 0, h = 1, w = 1;
  bool image = false;  // false: a vector of c numbers

  std::int64_t floats() const { return std::int64_t{c} * h * w; }
};

// The shape after each layer. Throws std::invalid_argument with a sentence that names the first layer
// that does not fit: "layer 3 (conv2d): ...".
std::vector<Shape> infer_shapes(const std::vector<Layer>& layers, Shape input, int condition);

}  // namespace edgevae
