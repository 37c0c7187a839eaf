// What the reference kernels share: the activation functions in double, weights rounded to their type, and
// the ways in and out of a layer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "half.h"
#include "layers.h"

namespace edgevae::reference {

inline double activate(double x, Activation act) {
  switch (act.kind) {
    case ActivationKind::kRelu:
      return x < 0 ? 0 : x;
    case ActivationKind::kLeakyRelu:
      return x < 0 ? x * act.slope : x;
    case ActivationKind::kTanh:
      return std::tanh(x);
    case ActivationKind::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case ActivationKind::kSoftplus:
      return x > 20 ? x : std::log1p(std::exp(x));
    case ActivationKind::kNone:
      break;
  }
  return x;
}

inline void copy_weights(const float* from, size_t count, WeightType type, float* to) {
  for (size_t i = 0; i < count; ++i)
    to[i] = type == WeightType::kFloat16 ? from_half(to_half(from[i])) : from[i];
}

// Channel i of an input pixel: a float, or a uint8 less its zero.
inline double read_input(const void* x, size_t pixel, int channels, int i, WeightType type, int zero) {
  if (type != WeightType::kQuads) return static_cast<const float*>(x)[pixel * channels + i];
  return static_cast<const std::uint8_t*>(x)[pixel * ((channels + 3) / 4 * 4) + i] - zero;
}

// Finishes the sum of channel o of a pixel and stores it; its scale is number `scale`.
inline void write_output(const Epilogue& e, double sum, size_t pixel, int channels, int o, int scale,
                         void* y) {
  if (e.scale != nullptr) sum *= e.scale[scale];
  const double value = activate(sum + e.bias[o], e.act);
  if (e.inverse_scale == nullptr) {
    static_cast<float*>(y)[pixel * channels + o] = static_cast<float>(value);
    return;
  }
  const float scaled = static_cast<float>(value) * e.inverse_scale[o];
  const double q = std::isnan(scaled) ? e.zero : std::nearbyint(scaled) + e.zero;
  static_cast<std::uint8_t*>(y)[pixel * ((channels + 3) / 4 * 4) + o] =
      static_cast<std::uint8_t>(std::clamp(q, 0.0, 255.0));
}

}  // namespace edgevae::reference
