// From the layers of a model file to the steps that an engine takes.
//
// An activation is folded into the layer before it. An image that was flattened stays (h, w, c) in memory: a
// linear layer that follows takes that order up in the columns of its weights, and one whose outputs become
// an image takes it up in the rows. Where neither can, a step restores the order.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "conv.h"
#include "layer_list.h"

namespace edgevae {

struct FoldedLayer {
  enum class Kind {
    kConv,  // or a linear layer, a convolution of one pixel
    kUpsampleConv,
    kConvTranspose,
    kMaxPool,
    kConcat,
    kActivation,
    kToPlanes,  // `in` from (h, w, c) to (c, h, w)
    kToPixels,  // and back
  };
  Kind kind;
  size_t index;  // of the layer in the model file's list
  const Layer* layer;
  Shape in, out;
  Activation activation;  // that was folded in, or of kActivation

  // Of layers with weights: as the file shapes them, in the order of the numbers in memory.
  const float* weights = nullptr;
  std::vector<float> bias;
  std::vector<float> weight_scale, input_scale;  // of int8 layers, else empty

  std::vector<float> reordered;  // where `weights` points if the file has another order
};

// Gives every step in turn to `take`; what it gets lives as long as the call. `shapes` are infer_shapes'.
void fold_layers(const std::vector<Layer>& layers, Shape input, const std::vector<Shape>& shapes,
                 const std::function<void(const FoldedLayer&)>& take);

// The plain convolution of a kConv step, for one image.
ConvShape conv_of(const FoldedLayer&);

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

}  // namespace edgevae
