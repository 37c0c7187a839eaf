#include "folding.h"

#include <algorithm>
#include <optional>

#include "layout.h"

namespace edgevae {
namespace {

using Kind = FoldedLayer::Kind;

// Walks the layers once. A step waits for the next one, because an activation between them belongs to it.
class Folding {
 public:
  Folding(const std::vector<Layer>& layers, const std::function<void(const FoldedLayer&)>& take)
      : layers_(layers), take_(take) {}

  void walk(Shape in, const std::vector<Shape>& shapes) {
    for (at_ = 0; at_ < layers_.size(); ++at_) {
      add(layers_[at_], in, shapes[at_]);
      in = shapes[at_];
    }
    if (!in.image) restore_planes();
    hand_over();
  }

 private:
  static bool needs_order(const Shape& s) { return s.c > 1 && s.h * s.w > 1; }

  void hand_over() {
    if (waiting_) take_(*waiting_);
    waiting_.reset();
  }

  FoldedLayer& append(Kind kind, const Shape& in, const Shape& out) {
    hand_over();
    waiting_.emplace();
    waiting_->kind = kind;
    waiting_->index = at_;
    waiting_->layer = &layers_[std::min(at_, layers_.size() - 1)];
    waiting_->in = in;
    waiting_->out = out;
    return *waiting_;
  }

  void restore_planes() {
    if (planes_) append(Kind::kToPlanes, *planes_, *planes_);
    planes_.reset();
  }

  void add(const Layer& layer, const Shape& in, const Shape& out) {
    if (layer.op == "conv2d") {
      add_weights(append(Kind::kConv, in, out));
    } else if (layer.op == "upsample_conv2d") {
      add_weights(append(Kind::kUpsampleConv, in, out));
    } else if (layer.op == "conv_transpose2d") {
      add_weights(append(Kind::kConvTranspose, in, out));
    } else if (layer.op == "linear") {
      add_linear(in, out);
    } else if (layer.op == "max_pool2d") {
      append(Kind::kMaxPool, in, out);
    } else if (layer.op == "reshape") {
      add_reshape(in, out);
    } else if (layer.op == "concat_condition") {
      restore_planes();
      append(Kind::kConcat, in, out);
    } else {
      add_activation(layer, in);
    }
  }

  static void add_weights(FoldedLayer& step) {
    const Layer& layer = *step.layer;
    step.weights = layer.weight.data;
    step.bias.assign(step.out.c, 0.0f);
    if (layer.bias.data != nullptr) std::copy_n(layer.bias.data, step.out.c, step.bias.data());
    if (layer.weight_scale.data != nullptr) {
      const int phases = layer.weight_scale.shape.size() == 2 ? layer.weight_scale.shape[0] : 1;
      step.weight_scale.assign(layer.weight_scale.data, layer.weight_scale.data + phases * step.out.c);
    }
    if (layer.input_scale.data != nullptr)
      step.input_scale.assign(layer.input_scale.data, layer.input_scale.data + step.in.c);
  }

  void add_linear(const Shape& in, const Shape& out) {
    FoldedLayer& step = append(Kind::kConv, in, out);
    add_weights(step);
    if (planes_) {  // the input lies in (h, w, c) order: so shall the columns
      const std::int64_t pixels = planes_->floats() / planes_->c;
      step.reordered.resize(static_cast<size_t>(out.floats()) * in.c);
      for (int o = 0; o < out.c; ++o) {
        const std::int64_t row = std::int64_t{o} * in.c;
        to_nhwc(step.weights + row, planes_->c, pixels, step.reordered.data() + row);
      }
      step.weights = step.reordered.data();
      if (!step.input_scale.empty())
        to_nhwc(step.layer->input_scale.data, planes_->c, pixels, step.input_scale.data());
      planes_.reset();
    }
    if (const auto image = image_after_linear()) {  // and the rows, where an image follows
      const std::int64_t pixels = image->floats() / image->c;
      std::vector<float> rows(static_cast<size_t>(out.floats()) * in.c);
      std::vector<float> bias(step.bias.size()), scale(step.weight_scale.size());
      for (std::int64_t p = 0; p < pixels; ++p)
        for (int c = 0; c < image->c; ++c) {
          const std::int64_t from = c * pixels + p, to = p * image->c + c;
          std::copy_n(&step.weights[from * in.c], in.c, &rows[to * in.c]);
          bias[to] = step.bias[from];
          if (!scale.empty()) scale[to] = step.weight_scale[from];
        }
      step.reordered.swap(rows);
      step.weights = step.reordered.data();
      step.bias.swap(bias);
      step.weight_scale.swap(scale);
      image_in_order_ = true;
    }
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
    if (in.image && needs_order(in)) append(Kind::kToPlanes, in, in);
    if (!in.image) restore_planes();
    if (out.image && needs_order(out) && !image_in_order_) append(Kind::kToPixels, out, out);
    image_in_order_ = false;
  }

  void add_activation(const Layer& layer, const Shape& in) {
    const bool folds =
        waiting_ && waiting_->weights != nullptr && waiting_->activation.kind == ActivationKind::kNone;
    if (!folds) append(Kind::kActivation, in, in);
    waiting_->activation = layer.activation;
  }

  const std::vector<Layer>& layers_;
  const std::function<void(const FoldedLayer&)>& take_;
  size_t at_ = 0;
  std::optional<FoldedLayer> waiting_;
  std::optional<Shape> planes_;
  bool image_in_order_ = false;
};

}  // namespace

void fold_layers(const std::vector<Layer>& layers, Shape input, const std::vector<Shape>& shapes,
                 const std::function<void(const FoldedLayer&)>& take) {
  Folding(layers, take).walk(input, shapes);
}

ConvShape conv_of(const FoldedLayer& step) {
  const auto& weight = step.layer->weight.shape;
  if (weight.size() == 2) return conv_shape(1, 1, step.in.c, 1, 1, step.out.c, 1, 1);
  ConvShape s =
      conv_shape(step.in.h, step.in.w, step.in.c, step.out.h, step.out.w, step.out.c, weight[2], weight[3]);
  s.stride = step.layer->stride;
  s.pad_top = s.pad_left = step.layer->padding;
  s.padding = step.layer->padding_mode;
  return s;
}

}  // namespace edgevae
