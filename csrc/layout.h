// Between planes, (c, h, w), as callers have images, and pixels, (h, w, c), as kernels want them.
#pragma once

#include <cstdint>

namespace edgevae {

// (c, pixels) to (pixels, c) and back.
void to_nhwc(const float* x, int c, std::int64_t pixels, float* y);
void to_nchw(const float* x, int c, std::int64_t pixels, float* y);

}  // namespace edgevae
