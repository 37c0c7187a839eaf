// A network: the layers of a model file's encoder or decoder, checked, packed and ready to run.
//
// Building infers every shape, folds activations into the layer before them and reshapes into the weights
// of linear layers, and packs the weights for the chosen kernels. Memory is planned for a batch size and
// then stays: run() allocates nothing, takes no lock and calls no Python.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aligned.h"
#include "kernels.h"
#include "threads.h"

namespace edgevae {

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

// How weights are kept. kExact: as half-precision numbers where that loses nothing (a file stored as fp16, a
// layer that uses its weights as they are), else as float32; the results are those of float32.
enum class Precision { kExact, kFloat32, kFloat16 };

// One step of a network: which layer it belongs to, how it is computed, and what that costs.
struct StepReport {
  size_t layer;
  std::string method;         // "direct", "nine products", "phases", "columns", or the step's own name
  std::string arithmetic;     // of weights: "fp32", "fp16", "int8 weights", "int8", or empty
  std::int64_t macs;          // multiplications of one image by the layer's definition
  std::int64_t products;      // those that the method makes
  std::int64_t weight_bytes;  // as packed, each read at least once a run
  double seconds;
};

class Network {
 public:
  Network(const std::vector<Layer>& layers, Shape input, int condition, Precision precision,
          const Kernels& kernels, std::shared_ptr<Pool> pool);

  Shape input() const { return input_; }
  Shape output() const { return output_; }
  int condition() const { return condition_; }
  std::int64_t macs() const { return macs_; }  // multiplications by definition, one image
  std::int64_t weight_bytes() const { return weight_bytes_; }
  const Kernels& kernels() const { return kernels_; }
  Pool& pool() { return *pool_; }
  bool ends_in_linear() const;

  // Makes room for batches of n. Throws std::bad_alloc or std::invalid_argument and stays usable.
  void reserve(int n);

  // Where the input goes before run(): (n, h, w, c) of reserved size.
  float* input_buffer() { return input_buffer_.data(); }

  // Runs the first n images. `outputs`, at most output().c, limits what a final linear layer computes.
  // Returns (n, h, w, c), valid until the next call; rows of a vector are output().c apart.
  const float* run(int n, int outputs, const float* condition);

  // What each step does, and how long each took in one more run on the input that is there.
  std::vector<StepReport> profile(int n, int outputs, const float* condition);

  // Scratch memory of frame packing, which runs between calls of run().
  Scratch scratch(size_t per_thread);

 private:
  enum class Kind { kConv, kUpsampleConv, kMaxPool, kConcat, kActivation, kQuantize, kToNchw, kToNhwc };
  struct Step {
    Kind kind;
    ConvShape conv{};
    const ConvKernel* conv_kernel = nullptr;
    UpsampleConvShape upsample{};
    MaxPoolShape pool{};
    Shape shape{};  // of the other kinds: the input
    Activation activation{};
    Bytes weights;
    Floats bias, scale;
    Floats inverse_scale;  // of quantized output, else empty
    int zero = 0;
    size_t layer = 0;       // of the model file's list
    std::int64_t macs = 0;  // of one image, by the layer's definition

    std::int64_t macs_by_definition() const;
    std::pair<std::string, std::int64_t> method() const;  // its name and its products
    std::string arithmetic() const;
    Epilogue epilogue() const {
      return {bias.data(), scale.empty() ? nullptr : scale.data(), activation,
              inverse_scale.empty() ? nullptr : inverse_scale.data(), zero};
    }
    bool keeps_input = false;    // one of several steps that fill the same output
    bool nine_products = false;  // of kConv
    bool transposed = false;     // of kUpsampleConv: it stands for a transposed convolution
  };
  class Builder;

  template <class After>
  const float* run_steps(int n, int outputs, const float* condition, After after);

  Shape input_, output_;
  int condition_;
  Precision precision_;
  const Kernels& kernels_;
  std::shared_ptr<Pool> pool_;
  std::vector<Step> steps_;
  std::int64_t macs_ = 0, weight_bytes_ = 0, largest_ = 0;
  int reserved_ = 0;
  Floats input_buffer_, scratch_;
  std::array<Floats, 2> buffers_;
};

}  // namespace edgevae
