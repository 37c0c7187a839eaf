#include "threads.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace edgevae {
namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr auto kSpin = std::chrono::microseconds(60);

// One 64-bit word holds the job's number, its task count and the next free task. A worker that comes
// late learns from the single fetch_add whether the task it drew exists, so the job's other fields are
// read only while the job cannot end.
constexpr int kCountBits = 20;
constexpr std::uint64_t kCountMask = (1u << kCountBits) - 1;
std::uint64_t next_of(std::uint64_t ticket) { return ticket & kCountMask; }
std::uint64_t count_of(std::uint64_t ticket) { return (ticket >> kCountBits) & kCountMask; }
std::uint64_t job_of(std::uint64_t ticket) { return ticket >> (2 * kCountBits); }

std::atomic<unsigned> forks{0};

}  // namespace

unsigned pool_forks() {
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  return forks.load(std::memory_order_relaxed);
}

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
#if defined(__linux__)
    if (sched_getaffinity(0, sizeof allowed_, &allowed_) != 0) CPU_ZERO(&allowed_);
#endif
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }

  ~Pool() {
    if (forked()) {  // the workers are not in this process, nor are their stacks
      new std::vector(std::move(workers_));
      return;
    }
    stop_.store(true, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  int threads() const { return threads_; }
  bool forked() const { return fork_ != pool_forks(); }

  void run(int tasks, TaskFn fn, void* context) {
    keep_off_my_cpu();
    fn_ = fn;
    context_ = context;
    done_.store(0, std::memory_order_relaxed);
    const std::uint64_t job = (job_of(ticket_.load(std::memory_order_relaxed)) + 1) & 0xffffff;
    ticket_.store(job << (2 * kCountBits) | static_cast<std::uint64_t>(tasks) << kCountBits,
                  std::memory_order_release);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    drain(0);
    while (done_.load(std::memory_order_acquire) != tasks) relax();
  }

 private:
  // A scheduler that wakes a worker on the CPU of its waker makes two threads as slow as one for as long as
  // it takes to notice (milliseconds: a whole frame). The caller computes from here on, so its CPU is the one
  // place where no worker should be. A system call only when the caller has moved since the last job.
  void keep_off_my_cpu() {
#if defined(__linux__)
    const int mine = sched_getcpu();
    if (mine == callers_cpu_ || mine < 0 || CPU_COUNT(&allowed_) < 2) return;
    callers_cpu_ = mine;
    cpu_set_t others = allowed_;
    CPU_CLR(mine, &others);
    for (auto& worker : workers_) pthread_setaffinity_np(worker.native_handle(), sizeof others, &others);
#endif
  }

  void drain(int thread) {
    for (;;) {
      const std::uint64_t seen = ticket_.load(std::memory_order_acquire);
      if (next_of(seen) >= count_of(seen)) return;
      const std::uint64_t mine = ticket_.fetch_add(1, std::memory_order_acq_rel);
      if (next_of(mine) >= count_of(mine)) return;
      fn_(context_, static_cast<int>(next_of(mine)), thread);
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  void work(int thread) {
    std::uint32_t seen = 0;
    for (;;) {
      const auto give_up = std::chrono::steady_clock::now() + kSpin;
      while (epoch_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < give_up) {
        for (int i = 0; i < 32 && epoch_.load(std::memory_order_relaxed) == seen; ++i) relax();
      }
      epoch_.wait(seen, std::memory_order_acquire);
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      drain(thread);
    }
  }

  const int threads_;
  const unsigned fork_ = pool_forks();
  TaskFn fn_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<std::uint32_t> epoch_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
#if defined(__linux__)
  cpu_set_t allowed_;
  int callers_cpu_ = -1;
#endif
};

void parallel_for(Pool& pool, int tasks, TaskFn fn, void* context) {
  if (tasks <= 0) return;
  if (tasks == 1 || pool.threads() == 1 || pool.forked()) {
    for (int task = 0; task < tasks; ++task) fn(context, task, 0);
    return;
  }
  // More tasks than the ticket can count are taken in rounds.
  constexpr int kRound = static_cast<int>(kCountMask) / 2;
  struct Shifted {
    TaskFn fn;
    void* context;
    int first;
  };
  for (int first = 0; first < tasks; first += kRound) {
    const int count = tasks - first < kRound ? tasks - first : kRound;
    Shifted shifted{fn, context, first};
    pool.run(
        count,
        [](void* self, int task, int thread) {
          auto* s = static_cast<Shifted*>(self);
          s->fn(s->context, s->first + task, thread);
        },
        &shifted);
  }
}

Pool* pool_create(int threads) { return new Pool(threads); }
void pool_destroy(Pool* pool) { delete pool; }
int pool_threads(const Pool& pool) { return pool.threads(); }

}  // namespace edgevae
