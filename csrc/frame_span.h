// Which source positions lie under an output position of frame_pack.h's area mean, on the CPU and in CUDA.
//
// In an unnamed namespace, so that every translation unit keeps its own copy (see vec.h).
#pragma once

#if defined(__CUDACC__)
#define EDGEVAE_DEVICE __device__
#else
#define EDGEVAE_DEVICE
#endif

namespace edgevae {
namespace {

// Source positions per output position, and the share that a whole one has.
struct Spacing {
  int size;  // of the source
  double step, share;

  Spacing(int out_size, int size_)
      : size(size_), step(static_cast<double>(size) / out_size), share(1 / step) {}

  // The position at the centre of output position `out`.
  EDGEVAE_DEVICE int centre(int out) const {
    const int at = static_cast<int>((out + 0.5) * step);
    return at < size ? at : size - 1;
  }
};

// `first` with share `head`, whole ones, the last with `tail`. Shares are divided by the interval's length,
// so they add up to one.
struct Span {
  int first, last;
  float head, whole, tail;

  EDGEVAE_DEVICE Span(const Spacing& s, int out) {
    const double begin = out * s.step, end = (out + 1) * s.step;
    first = static_cast<int>(begin);
    if (first >= s.size) first = s.size - 1;
    last = static_cast<int>(end);
    double after = end - last;  // what of `last` is covered
    if (last >= s.size || after < 1e-9) {
      --last;
      after = 1;
    }
    whole = static_cast<float>(s.share);
    if (last <= first) {
      last = first;
      head = tail = 1;
    } else {
      head = static_cast<float>((first + 1 - begin) * s.share);
      tail = static_cast<float>(after * s.share);
    }
  }
  EDGEVAE_DEVICE float share(int i) const { return i == first ? head : i == last ? tail : whole; }
};

}  // namespace
}  // namespace edgevae
