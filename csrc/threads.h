// A small thread pool for kernels that last between ten microseconds and a few milliseconds.
//
// The calling thread takes part in the work and can finish it alone, so a worker that is late, asleep
// or lost to a fork costs time but never an answer. Workers spin for a short while after a job (layers
// follow each other within microseconds) and then sleep, so an idle model burns nothing.
#pragma once

#include <type_traits>

namespace edgevae {

class Pool;

// Runs fn(context, task, thread) for every task in [0, tasks) and returns when all are done.
// thread is in [0, pool_threads(pool)): no two tasks that run at the same time share it.
// One job at a time: calls on the same pool must not overlap.
using TaskFn = void (*)(void* context, int task, int thread);
void parallel_for(Pool& pool, int tasks, TaskFn fn, void* context);

Pool* pool_create(int threads);  // threads >= 1, the caller included
void pool_destroy(Pool* pool);
int pool_threads(const Pool& pool);

// How often this process is the child of a fork: a pool of before has no workers any more.
unsigned pool_forks();

// Calls a lambda (task, thread) through parallel_for without allocating.
template <class F>
void parallel_for(Pool& pool, int tasks, F&& body) {
  using Body = std::remove_reference_t<F>;
  parallel_for(
      pool, tasks, [](void* context, int task, int thread) { (*static_cast<Body*>(context))(task, thread); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace edgevae
