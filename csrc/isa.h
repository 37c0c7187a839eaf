// Which instruction sets this build carries and this machine runs.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace edgevae {

// Names that can be used here, best first; "reference" last.
std::vector<std::string> available_isas();

// The kernels called `name`; an empty name takes the environment variable EDGEVAE_ISA, and without it the
// best set of the machine. Throws std::invalid_argument where that set cannot be had.
const Kernels& select_kernels(const std::string& name);

}  // namespace edgevae
