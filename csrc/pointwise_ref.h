// What the reference kernels share: the activation functions in double, and weights rounded to their type.
#pragma once

#include <cmath>

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

}  // namespace edgevae::reference
