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

// Turns folded layers into steps: packs their weights, and has inputs of integer layers quantized.
class Network::Builder {
 public:
  Builder(Network& network, const std::vector<Layer>& layers) : net_(network), layers_(layers) {}

  void build() {
    const auto shapes = infer_shapes(layers_, net_.input_, net_.condition_);
    net_.largest_ = 0;
    for (const Shape& shape : shapes) net_.largest_ = std::max(net_.largest_, shape.floats());
    net_.output_ = shapes.empty() ? net_.input_ : shapes.back();
    fold_layers(layers_, net_.input_, shapes, [this](const FoldedLayer& folded) { add(folded); });
    for (Step& step : net_.steps_) {
      step.macs = step.macs_by_definition();
      net_.macs_ += step.macs;
      net_.weight_bytes_ += static_cast<std::int64_t>(step.weights.size() + step.bias.size() * sizeof(float));
    }
  }

 private:
  using Folded = FoldedLayer::Kind;

  void add(const FoldedLayer& folded) {
    at_ = folded.index;
    const Shape &in = folded.in, &out = folded.out;
    switch (folded.kind) {
      case Folded::kConv:
        return add_conv(folded);
      case Folded::kUpsampleConv:
        return add_upsample_conv(folded);
      case Folded::kConvTranspose:
        return add_conv_transpose(folded);
      case Folded::kMaxPool:
        append(Kind::kMaxPool).pool = {
            0, in.h, in.w, in.c, out.h, out.w, folded.layer->kernel, folded.layer->stride};
        return;
      case Folded::kConcat:
        append(Kind::kConcat).shape = in;
        return;
      case Folded::kActivation: {
        Step& step = append(Kind::kActivation);
        step.shape = in;
        step.activation = folded.activation;
        return;
      }
      case Folded::kToPlanes:
        append(Kind::kToNchw).shape = in;
        return;
      case Folded::kToPixels:
        append(Kind::kToNhwc).shape = in;
        return;
    }
  }

  Step& append(Kind kind) {
    net_.steps_.push_back(Step{});
    net_.steps_.back().kind = kind;
    net_.steps_.back().layer = at_;
    return net_.steps_.back();
  }

  // A step with what the folded layer has beside its weights.
  Step& append(Kind kind, const FoldedLayer& folded) {
    Step& step = append(kind);
    step.bias.assign(folded.bias.begin(), folded.bias.end());
    step.scale.assign(folded.weight_scale.begin(), folded.weight_scale.end());
    step.activation = folded.activation;
    return step;
  }

  // Has the input of an integer layer quantized: by the steps that make it, where it is an image that they
  // have just made, else by a step of its own.
  void quantize_input(const FoldedLayer& folded) {
    if (folded.input_scale.empty()) return;
    const Shape& in = folded.in;
    Floats inverse(in.c);
    for (int i = 0; i < in.c; ++i) inverse[i] = 1.0f / folded.input_scale[i];
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
      steps[i].zero = folded.layer->input_zero;
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
    const bool nine = step.nine_products =
        layer.input_scale.data == nullptr && conv_method(s) == ConvMethod::kNineProducts;
    step.conv_kernel = nine ? &net_.kernels_.conv_nine : &net_.kernels_.conv;
    if (int8) {
      // The nine are sums of at most four integers, which halves hold exactly.
      step.conv.weights = nine ? WeightType::kFloat16 : int8_type(layer);
    } else {
      step.conv.weights = weight_type(weights, static_cast<size_t>(s.oc) * s.ic * s.kh * s.kw, !nine);
    }
    step.conv.input_zero = layer.input_zero;
    step.weights.resize(step.conv_kernel->packed_bytes(step.conv));
    step.conv_kernel->pack(step.conv, weights, step.weights.data());
  }

  void add_conv(const FoldedLayer& folded) {
    quantize_input(folded);
    Step& step = append(Kind::kConv, folded);
    step.conv = conv_of(folded);
    pack_conv(*folded.layer, step, folded.weights);
  }

  void add_upsample_conv(const FoldedLayer& folded) {
    quantize_input(folded);
    const Shape& in = folded.in;
    Step& step = append(Kind::kUpsampleConv, folded);
    step.upsample = {0, in.h, in.w, in.c, folded.out.c, folded.layer->padding_mode};
    step.upsample.phases = !folded.weight_scale.empty();
    pack_upsample_conv(*folded.layer, step, folded.weights, 9);
  }

  // An upsample-conv that is given as merged taps.
  void add_phases(const FoldedLayer& folded, const float* weights) {
    const Shape& in = folded.in;
    Step& step = append(Kind::kUpsampleConv, folded);
    step.upsample = {0, in.h, in.w, in.c, folded.out.c, Padding::kZeros};
    step.upsample.phases = step.transposed = true;
    const Floats scale = step.scale;  // one for all phases
    for (int phase = 1; phase < 4; ++phase) step.scale.insert(step.scale.end(), scale.begin(), scale.end());
    pack_upsample_conv(*folded.layer, step, weights, 16);
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
  void add_conv_transpose(const FoldedLayer& folded) {
    const Layer& layer = *folded.layer;
    const Shape &in = folded.in, &out = folded.out;
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
    quantize_input(folded);
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
                      folded.weights[((static_cast<size_t>(i) * out.c + o) * kh + ky) * kw + kx];
            }
        }
      add_phases(folded, weights.data());
      return;
    }
    if (kh == stride && kw == stride && out.h == stride * in.h && out.w == stride * in.w &&
        layer.padding == 0) {
      return add_patches(folded, stride);
    }
    for (int py = 0; py < std::min(stride, out.h); ++py) {
      for (int px = 0; px < std::min(stride, out.w); ++px) {
        const Phase y = phase_of(py, kh, out.h), x = phase_of(px, kw, out.w);
        Step& step = append(Kind::kConv, folded);
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
                    folded.weights[((static_cast<size_t>(i) * out.c + o) * kh + ky) * kw + kx];
              }
        pack_conv(layer, step, weights.data());
      }
    }
    net_.steps_.back().keeps_input = false;
  }

  // A transposed convolution whose patches of side x side outputs lie beside each other, one for each input
  // pixel: all of them are one convolution by 1x1.
  void add_patches(const FoldedLayer& folded, int side) {
    const Shape &in = folded.in, &out = folded.out;
    Step& step = append(Kind::kConv, folded);
    const int pixels = side * side;
    step.conv = conv_shape(in.h, in.w, in.c, in.h, in.w, pixels * out.c, 1, 1);
    step.conv.out_h = out.h;
    step.conv.out_w = out.w;
    step.conv.patch = side;
    const Floats bias = step.bias, scale = step.scale;  // the same for all pixels of a patch
    for (int p = 1; p < pixels; ++p) {
      step.bias.insert(step.bias.end(), bias.begin(), bias.end());
      step.scale.insert(step.scale.end(), scale.begin(), scale.end());
    }
    std::vector<float> weights(size_t{1} * pixels * out.c * in.c);
    for (int p = 0; p < pixels; ++p)
      for (int o = 0; o < out.c; ++o)
        for (int i = 0; i < in.c; ++i)
          weights[(static_cast<size_t>(p) * out.c + o) * in.c + i] =
              folded.weights[(static_cast<size_t>(i) * out.c + o) * pixels + p];
    pack_conv(*folded.layer, step, weights.data());
  }

  Network& net_;
  const std::vector<Layer>& layers_;
  size_t at_ = 0;
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
