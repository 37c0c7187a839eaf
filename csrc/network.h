// A network: the layers of a model file's encoder or decoder, checked, packed and ready to run.
//
// Building infers every shape, folds what needs no step of its own into its neighbours (folding.h), and packs
// the weights for the chosen kernels. Memory is planned for a batch size and then stays: run() allocates
// nothing, takes no lock and calls no Python.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aligned.h"
#include "folding.h"
#include "kernels.h"
#include "threads.h"

namespace edgevae {

// How weights are kept. kExact: as half-precision numbers where that loses nothing (a file stored as fp16, a
// layer that uses its weights as they are), else as float32; the results are those of float32.
enum class Precision { kExact, kFloat32, kFloat16 };

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
    Shape shape{};  // of the input, of the other kinds
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
