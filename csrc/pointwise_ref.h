// The activation functions in double, for the reference kernels.
#pragma once

#include <cmath>

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

}  // namespace edgevae::reference
