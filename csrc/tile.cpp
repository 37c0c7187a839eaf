// The one inner loop of the fast kernels, for every height and width of a tile and every type of weights.
// Here alone, so that it is compiled once per instruction set and not by each kernel.
#include "tile.h"

#include <utility>

namespace edgevae::EDGEVAE_ISA {
namespace {

// c (P, NV * kLanes) += a packed by rows of kDepth, times a panel.
// Quads of uint8 and their sums in int32 travel as floats, bits unchanged. Parts of rows are counted only
// where there are some: around the plain loop, that costs it a few percent.
template <int P, int NV, class W, bool kParts>
void tile(const Run& run, const float* a, const void* weights, float* c) {
  const W* b = static_cast<const W*>(weights);
  const char* ahead = run.ahead;
  using Vector = decltype(load_weights(b));  // of floats, or of integers
  // Unrolled, here and where they are stored: otherwise the sums begin and end as an array in memory.
  Vector acc[P * NV];
  if (run.first) {
#pragma GCC unroll 32
    for (int i = 0; i < P * NV; ++i) acc[i] = Vector{};
  } else {
#pragma GCC unroll 32
    for (int i = 0; i < P * NV; ++i) __builtin_memcpy(&acc[i], c + i * kLanes, sizeof acc[i]);
  }
  const auto multiply = [&](int k) __attribute__((always_inline)) {
    __builtin_prefetch(ahead, 0, 2);
    ahead += run.stride;
    Vector w[NV];
    for (int v = 0; v < NV; ++v) w[v] = load_weights(b + (k * NV + v) * kLanes);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[p * NV + v] = multiply_add(acc[p * NV + v], a[p * kDepth + k], w[v]);
    }
  };
  for (int part = 0; part < (kParts ? run.count : 1); ++part) {
    for (int row = 0; row < run.rows.full; ++row, a += P * kDepth, b += kDepth * NV * kLanes) {
#pragma GCC unroll 4
      for (int k = 0; k < kDepth; ++k) multiply(k);
    }
    if constexpr (!kParts) break;
    for (int k = 0; k < run.rows.last; k += kStep) {
#pragma GCC unroll 4
      for (int i = 0; i < kStep; ++i) multiply(k + i);
    }
    ahead += (kDepth - run.rows.last) * run.stride;
    a += P * kDepth;
    b += kDepth * NV * kLanes;
  }
#pragma GCC unroll 32
  for (int i = 0; i < P * NV; ++i) store(c + i * kLanes, acc[i]);
}

template <int NV, class W, int... P>
TileFn tile_of(int pixels, bool parts, std::integer_sequence<int, P...>) {
  static constexpr TileFn table[][sizeof...(P)] = {{tile<P + 1, NV, W, false>...},
                                                   {tile<P + 1, NV, W, true>...}};
  return table[parts][pixels - 1];
}

template <class W>
TileFn tile_of_type(int pixels, int vectors, bool parts) {
  return vectors == 1 ? tile_of<1, W>(pixels, parts, std::make_integer_sequence<int, most_pixels(1)>{})
                      : tile_of<2, W>(pixels, parts, std::make_integer_sequence<int, most_pixels(2)>{});
}

}  // namespace

TileFn tile_for(int pixels, int vectors, WeightType type, const Rows& rows) {
  const bool parts = rows.last > 0;
  switch (type) {
    case WeightType::kFloat16:
      return tile_of_type<uint16_t>(pixels, vectors, parts);
    case WeightType::kInt8:
      return tile_of_type<int8_t>(pixels, vectors, parts);
    case WeightType::kQuads:
      return tile_of_type<Quad>(pixels, vectors, parts);
    case WeightType::kFloat32:
      break;
  }
  return tile_of_type<float>(pixels, vectors, parts);
}

}  // namespace edgevae::EDGEVAE_ISA
