#include "execution.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Stores what a function must keep on the stack, the stack pointer at *from, and goes on at another one.
extern "C" void cuda_emulator_switch(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.type cuda_emulator_switch, @function
cuda_emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size cuda_emulator_switch, . - cuda_emulator_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.type cuda_emulator_switch, %function
cuda_emulator_switch:
  stp x19, x20, [sp, #-160]!
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x19, x20, [sp], #160
  ret
.size cuda_emulator_switch, . - cuda_emulator_switch
)");
#else
#error "the CUDA emulator runs on x86-64 and AArch64"
#endif

namespace cuda_emulator {

Place place;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "CUDA emulator: block (%u, %u, %u), thread (%u, %u, %u): %s\n", place.block.x,
               place.block.y, place.block.z, place.thread.x, place.thread.y, place.thread.z, what);
  std::abort();
}

namespace {

constexpr std::size_t kStack = 256 * 1024;  // of a thread, touched only as far as it goes

struct Random {
  std::uint64_t state;

  std::uint32_t next() {  // PCG
    state = state * 6364136223846793005u + 1442695040888963407u;
    const auto bits = static_cast<std::uint32_t>(((state >> 18) ^ state) >> 27);
    const auto turn = static_cast<unsigned>(state >> 59);
    return bits >> turn | bits << ((32 - turn) & 31);
  }
  int bit_of(std::uint32_t mask) {  // one of the bits that are set
    const unsigned turn = next() & 31;
    const std::uint32_t turned = mask >> turn | mask << ((32 - turn) & 31);
    return static_cast<int>((static_cast<unsigned>(__builtin_ctz(turned)) + turn) & 31);
  }
};

struct Copy {
  void* to;
  const void* from;
  int size, bytes;
  void run() const {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
    std::memset(static_cast<char*>(to) + bytes, 0, static_cast<std::size_t>(size - bytes));
  }
};

struct Thread {
  void* stack_pointer;
  char* stack;
  uint3 index;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack;
#endif
};

struct Warp {
  std::uint32_t ready, living;
  int arrived;
  const char* step;
  void* brought[kWarp];
};

class Grid {
 public:
  void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body) {
    body_ = &body;
    threads_in_block_ = static_cast<int>(block.x * block.y * block.z);
    if (threads_in_block_ < 1 || threads_in_block_ > 1024 || threads_in_block_ % kWarp != 0) {
      fail("a block wants 32 to 1024 threads, in whole warps");
    }
    place.block_dim = block;
    place.grid_dim = grid;
    while (threads_.size() < static_cast<std::size_t>(threads_in_block_)) add_thread();
    // A block at a time at a stride that has no factor in common with their number, so that each comes once.
    const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
    std::uint64_t stride = random_.next() % blocks + 1, at = random_.next() % blocks;
    while (common_factor(stride, blocks) != 1) ++stride;
    for (std::uint64_t i = 0; i < blocks; ++i, at = (at + stride) % blocks) {
      place.block = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                     static_cast<unsigned>(at / grid.x / grid.y)};
      run_block(shared_bytes);
    }
  }

  void set_seed(std::uint64_t seed) { random_.state = seed; }
  void* shared() { return shared_.get(); }
  Thread& thread() { return threads_[static_cast<std::size_t>(current_)]; }
  bool chance() { return random_.next() & 1; }

  void barrier() {
    ++at_barrier_;
    if (at_barrier_ == living_) return release_barrier();
    next();
  }

  void together(const char* step, void* brought, void (*take)(void**)) {
    Warp& warp = warps_[static_cast<std::size_t>(current_ / kWarp)];
    if (warp.arrived > 0 && std::strcmp(warp.step, step) != 0) fail("its warp takes another step together");
    warp.step = step;
    warp.brought[current_ % kWarp] = brought;
    if (++warp.arrived < kWarp) return next();
    take(warp.brought);
    warp.arrived = 0;
    warp.ready = ~(1u << (current_ % kWarp));
  }

 private:
  static std::uint64_t common_factor(std::uint64_t a, std::uint64_t b) {
    return b == 0 ? a : common_factor(b, a % b);
  }

  void add_thread() {
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) fail("no memory for the stacks of its threads");
    threads_.push_back({});
    threads_.back().stack = static_cast<char*>(stack);
  }

  void run_block(std::size_t shared_bytes) {
    // Of exactly the size asked for, so that AddressSanitizer sees what lies outside; as aligned as the real.
    shared_.reset(std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128 + 128));
    std::memset(shared_.get(), 0xff, shared_bytes);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(static_cast<char*>(shared_.get()) + shared_bytes,
                                (shared_bytes + 127) / 128 * 128 + 128 - shared_bytes);
#endif
    living_ = threads_in_block_;
    at_barrier_ = 0;
    warps_.assign(static_cast<std::size_t>(threads_in_block_ / kWarp), Warp{~0u, ~0u, 0, nullptr, {}});
    for (int t = 0; t < threads_in_block_; ++t) {
      Thread& thread = threads_[static_cast<std::size_t>(t)];
      const auto i = static_cast<unsigned>(t);
      const dim3& block = place.block_dim;
      thread.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
      thread.open.clear();
      thread.groups.clear();
#if defined(__SANITIZE_ADDRESS__)
      // The frames that a thread ended in were never returned from.
      __asan_unpoison_memory_region(thread.stack, kStack);
#endif
      thread.stack_pointer = first_frame(thread.stack);
    }
    current_ = -1;
#if defined(__SANITIZE_ADDRESS__)
    outside_bottom_ = nullptr;
#endif
    switch_to(pick());
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(shared_.get(), (shared_bytes + 127) / 128 * 128 + 128);
#endif
  }

  // A stack on which a switch finds the registers it takes off, and returns to entry().
  static void* first_frame(char* stack) {
    auto** top = reinterpret_cast<void**>(stack + kStack - 64);
#if defined(__x86_64__)
    *--top = nullptr;  // where entry() would return to; on entry the stack is 8 off a multiple of 16
    *--top = reinterpret_cast<void*>(&entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
#else
    top -= 20;
    std::memset(top, 0, 160);
    top[11] = reinterpret_cast<void*>(&entry);  // x30
#endif
    return top;
  }

  static void entry();

  void leave() {
    Warp& warp = warps_[static_cast<std::size_t>(current_ / kWarp)];
    warp.living &= ~(1u << (current_ % kWarp));
    --living_;
    if (living_ == 0) return switch_to(-1);
    if (at_barrier_ == living_) release_barrier();  // which only counts who is still there
    next();
  }

  void release_barrier() {
    at_barrier_ = 0;
    for (Warp& warp : warps_) warp.ready = warp.living;
    warps_[static_cast<std::size_t>(current_ / kWarp)].ready &= ~(1u << (current_ % kWarp));  // it runs
  }

  // The thread that goes on: of the warp that ran, as long as there is one. It is no longer in `ready`.
  int pick() {
    int warp = current_ < 0 ? -1 : current_ / kWarp;
    if (warp < 0 || warps_[static_cast<std::size_t>(warp)].ready == 0) {
      std::uint32_t able = 0;
      for (std::size_t w = 0; w < warps_.size(); ++w) able |= (warps_[w].ready != 0 ? 1u : 0u) << w;
      if (able == 0)
        fail("every thread waits: not all come to the same barrier, or the whole warp to a step");
      warp = random_.bit_of(able);
    }
    std::uint32_t& ready = warps_[static_cast<std::size_t>(warp)].ready;
    const int lane = random_.bit_of(ready);
    ready &= ~(1u << lane);
    return warp * kWarp + lane;
  }

  void next() { switch_to(pick()); }

  // To thread `to`, or back to run_block (-1).
  void switch_to(int to) {
    void** from = current_ < 0 ? &outside_ : &thread().stack_pointer;
    if (to == current_) return;
#if defined(__SANITIZE_ADDRESS__)
    void** fake = current_ < 0 ? &outside_fake_ : &thread().fake_stack;
    Thread* target = to < 0 ? nullptr : &threads_[static_cast<std::size_t>(to)];
    __sanitizer_start_switch_fiber(fake, target != nullptr ? target->stack : outside_bottom_,
                                   target != nullptr ? kStack : outside_size_);
#endif
    set_current(to);
    cuda_emulator_switch(from, to < 0 ? outside_ : threads_[static_cast<std::size_t>(to)].stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(*fake, nullptr, nullptr);
#endif
  }

  void set_current(int t) {
    current_ = t;
    if (t < 0) return;
    place.thread = thread().index;
    place.lane = t % kWarp;
  }

  struct Free {
    void operator()(void* p) const { std::free(p); }
  };

  const std::function<void()>* body_ = nullptr;
  Random random_{20260101};
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::unique_ptr<void, Free> shared_;
  int threads_in_block_ = 0, living_ = 0, at_barrier_ = 0, current_ = -1;
  void* outside_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  void* outside_fake_ = nullptr;
  const void* outside_bottom_ = nullptr;
  std::size_t outside_size_ = 0;
#endif
};

Grid& grid() {
  static Grid& one = *new Grid;  // threads of Python may outlive static objects
  return one;
}

void Grid::entry() {
  Grid& g = grid();
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  std::size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (g.outside_bottom_ == nullptr) g.outside_bottom_ = bottom, g.outside_size_ = size;
#endif
  (*g.body_)();
  g.leave();
  std::abort();  // a thread that has ended never runs again
}

std::mutex one_at_a_time;

}  // namespace

void run_grid(dim3 blocks, dim3 block, std::size_t shared_bytes, const std::function<void()>& body) {
  const std::lock_guard lock(one_at_a_time);
  grid().run(blocks, block, shared_bytes, body);
}

void set_seed(std::uint64_t seed) {
  const std::lock_guard lock(one_at_a_time);
  grid().set_seed(seed);
}

void* shared_memory() { return grid().shared(); }
void barrier() { grid().barrier(); }
void together(const char* step, void* brought, void (*run)(void**)) { grid().together(step, brought, run); }

void want_aligned(const void* p, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) fail("an address is not aligned");
}

void copy_async(void* to, const void* from, int size, int bytes) {
  want_aligned(to, static_cast<std::size_t>(size));
  want_aligned(from, static_cast<std::size_t>(size));
  const Copy copy{to, from, size, bytes};
  if (grid().chance()) return copy.run();
  grid().thread().open.push_back(copy);
}

void close_copies() {
  Thread& thread = grid().thread();
  thread.groups.push_back(std::move(thread.open));
  thread.open.clear();
}

void await_copies(int groups) {
  Thread& thread = grid().thread();
  while (thread.groups.size() > static_cast<std::size_t>(groups)) {
    for (const Copy& copy : thread.groups.front()) copy.run();
    thread.groups.pop_front();
  }
}

}  // namespace cuda_emulator
