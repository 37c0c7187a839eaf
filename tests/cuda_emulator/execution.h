// Runs a grid on the CPU: blocks one after the other, the threads of a block as fibers.
//
// A thread runs until it waits for others (a barrier, or a step that its whole warp takes together), and a
// warp as far as it can before the next one gets its turn. Which one is next is drawn anew each time, and so
// is the order of the blocks: a kernel that forgot a barrier reads what is not there yet, or finds
// overwritten what it still wanted. Shared memory begins as NaN. A copy by cp.async arrives at once or as
// late as it may, by chance too.
//
// What the emulator cannot show: threads that run at the same instant, the order in which memory becomes
// visible to other blocks, and time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace cuda_emulator {

inline constexpr int kWarp = 32;

// Runs `body` as every thread of a grid. One grid at a time; other callers wait. A kernel that breaks a rule
// (a thread that leaves others waiting, an address that is not aligned) ends the process with a sentence.
void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body);

// The order of threads, blocks and copies of the grids from now on.
void set_seed(std::uint64_t seed);

// What follows is for the threads of a grid.
struct Place {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
  int lane;  // of the warp
};
extern Place place;

void* shared_memory();
void barrier();

// A step that the 32 threads of a warp take together: `run` gets what each brought, by lane, once all are
// there. `step` names it, and is the same for all of them.
void together(const char* step, void* brought, void (*run)(void** brought));

// cp.async of `size` bytes, of which the first `bytes` are read and the others are zero.
void copy_async(void* to, const void* from, int size, int bytes);
void close_copies();            // commit_group
void await_copies(int groups);  // wait_group: all but the latest `groups`

[[noreturn]] void fail(const char* what);
void want_aligned(const void* p, std::size_t bytes);

}  // namespace cuda_emulator
