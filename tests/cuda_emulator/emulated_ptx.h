// The functions of csrc/cuda_device.cuh that are PTX on a device, from the fragment layouts of the PTX manual
// (section "Warp Level Matrix Multiply-Accumulate Instructions"). Included inside namespace edgevae::cuda.

inline void load_matrices(const void* row, uint32_t (&m)[4]) {
  struct Brought {
    const void* row;
    uint32_t* m;
  } mine{row, m};
  cuda_emulator::want_aligned(row, 16);
  cuda_emulator::together("ldmatrix", &mine, [](void** brought) {
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const auto* source = static_cast<Brought*>(brought[8 * matrix + lane / 4]);
        memcpy(static_cast<Brought*>(brought[lane])->m + matrix,
               static_cast<const char*>(source->row) + lane % 4 * 4, 4);
      }
    }
  });
}

// Sums in double, then rounded: a device keeps fewer bits of them, which the tests' bounds allow for.
template <int kPerWord, class Read>
void multiply_warp(const char* step, const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&d)[4], Read) {
  struct Brought {
    const uint32_t* a;
    uint32_t b[2];
    float* d;
  } mine{a, {b0, b1}, d};
  cuda_emulator::together(step, &mine, [](void** brought) {
    constexpr int kDepth = 8 * kPerWord;
    double rows[16][kDepth], columns[8][kDepth];
    for (int lane = 0; lane < kWarp; ++lane) {
      const auto* from = static_cast<Brought*>(brought[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int part = 0; part < kPerWord; ++part) {
        for (int i = 0; i < 4; ++i) {
          rows[g + i % 2 * 8][(t + i / 2 * 4) * kPerWord + part] = Read{}(from->a[i], part);
        }
        for (int i = 0; i < 2; ++i) columns[g][(t + i * 4) * kPerWord + part] = Read{}(from->b[i], part);
      }
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      float* to = static_cast<Brought*>(brought[lane])->d;
      for (int i = 0; i < 4; ++i) {
        const double *row = rows[lane / 4 + i / 2 * 8], *column = columns[lane % 4 * 2 + i % 2];
        double sum = 0;
        for (int k = 0; k < kDepth; ++k) sum += row[k] * column[k];
        to[i] = static_cast<float>(to[i] + sum);
      }
    }
  });
}

inline void multiply_halves(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&d)[4]) {
  multiply_warp<2>("mma of halves", a, b0, b1, d, [](uint32_t word, int part) {
    return static_cast<double>(__half2float({static_cast<uint16_t>(word >> 16 * part)}));
  });
}

// The multiplier ignores the lower thirteen bits.
inline void multiply_tf32(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&d)[4]) {
  multiply_warp<1>("mma of TF32", a, b0, b1, d,
                   [](uint32_t word, int) { return static_cast<double>(__uint_as_float(word & ~0x1fffu)); });
}

inline uint32_t to_tf32(uint32_t bits) {
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
}

template <int kSize>
void copy_async(void* to, const void* from, bool wanted) {
  cuda_emulator::copy_async(to, from, kSize, wanted ? kSize : 0);
}
inline void close_copies() { cuda_emulator::close_copies(); }
template <int kGroups>
void await_copies() {
  cuda_emulator::await_copies(kGroups);
}

inline void await_previous_kernel() {}
inline void let_next_kernel_start() {}
