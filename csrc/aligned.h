// Buffers that begin on a cache line, since a 64-byte load that straddles two lines costs double, and on huge
// pages where the system lends them: megabytes of weights are read front to back, and with small pages the
// translation of addresses shows in the time of a layer.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace edgevae {

template <class T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::size_t kLine = 64, kHugePage = std::size_t{2} << 20;

  CacheLineAllocator() = default;
  template <class U>
  CacheLineAllocator(const CacheLineAllocator<U>&) {}

  T* allocate(std::size_t n) {
    const std::size_t bytes = n * sizeof(T);
    void* p = ::operator new(bytes, alignment(n));
#if defined(__linux__)
    if (bytes >= kHugePage) madvise(p, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // a hint, may fail
#endif
    return static_cast<T*>(p);
  }
  void deallocate(T* p, std::size_t n) { ::operator delete(p, alignment(n)); }
  bool operator==(const CacheLineAllocator&) const { return true; }

 private:
  static std::align_val_t alignment(std::size_t n) {
    return std::align_val_t{n * sizeof(T) >= kHugePage ? kHugePage : kLine};
  }
};

using Bytes = std::vector<std::byte, CacheLineAllocator<std::byte>>;
using Floats = std::vector<float, CacheLineAllocator<float>>;

}  // namespace edgevae
