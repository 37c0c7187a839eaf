// Counts what is allocated by threads that do not hold Python's lock: in a process that only runs the engine,
// that is the engine itself, its workers included, and neither numpy nor the binding.
//
// Preloaded into a Python process (glibc), switched on and read through ctypes.PyDLL, which keeps the lock.
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
extern int PyGILState_Check(void) __attribute__((weak));

static atomic_int counting;
static atomic_long allocations;

static void count(void) {
  if (counting && PyGILState_Check && !PyGILState_Check()) ++allocations;
}

// Sets the switch and returns how many there were since the last call.
long malloc_shim_count(int on) {
  counting = on;
  return atomic_exchange(&allocations, 0);
}

void* malloc(size_t size) {
  count();
  return __libc_malloc(size);
}

void* calloc(size_t n, size_t size) {
  count();
  return __libc_calloc(n, size);
}

void* realloc(void* p, size_t size) {
  count();
  return __libc_realloc(p, size);
}

void* memalign(size_t alignment, size_t size) {
  count();
  return __libc_memalign(alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void** p, size_t alignment, size_t size) {
  *p = memalign(alignment, size);
  return *p == NULL ? ENOMEM : 0;
}
