// The table of one set of kernels; compiled once for each, EDGEVAE_ISA its namespace and name.
#include "kernels.h"

#define EDGEVAE_STRING_(x) #x
#define EDGEVAE_STRING(x) EDGEVAE_STRING_(x)

namespace edgevae::EDGEVAE_ISA {

extern const ConvKernel conv, conv_nine;
extern const UpsampleConvKernel upsample_conv;
extern const FramePackKernel frame_pack;
extern const DepthFillKernel depth_fill;
void activation(const float* x, size_t count, Activation act, float* y);
void quantize(const float* x, size_t pixels, int channels, const float* inverse_scale, int zero,
              unsigned char* q);
void max_pool(const MaxPoolShape& s, const float* x, float* y, Pool& pool);
void frame_unpack(const float* x, size_t pixels, const InputEncoding& e, uint8_t* rgb, float* depth);

Kernels kernels() {
  return {EDGEVAE_STRING(EDGEVAE_ISA),
          conv,
          conv_nine,
          upsample_conv,
          activation,
          quantize,
          max_pool,
          frame_pack,
          frame_unpack,
          depth_fill};
}

}  // namespace edgevae::EDGEVAE_ISA
