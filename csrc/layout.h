// Between planes, (c, h, w), as callers have images, and pixels, (h, w, c), as kernels want them.
#pragma once

#include <cstdint>

namespace edgevae {

// (c, pixels) to (pixels, c) and back.
void to_nhwc(const float* x, int c, std::int64_t pixels, float* y);
void to_nchw(const float* x, int c, std::int64_t pixels, float* y);

// Pixels (rows, w, side * side * c), the numbers of each in the order (y, x, c) of a patch, to the image
// (rows * side, w * side, c) that the patches make beside each other.
void spread_channels(const float* x, std::int64_t rows, int w, int c, int side, float* y);

}  // namespace edgevae
