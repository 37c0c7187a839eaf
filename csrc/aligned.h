// Float buffers that begin on a cache line: a 64-byte load that straddles two lines costs double.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace edgevae {

template <class T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};

  CacheLineAllocator() = default;
  template <class U>
  CacheLineAllocator(const CacheLineAllocator<U>&) {}

  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, kAlignment); }
  bool operator==(const CacheLineAllocator&) const { return true; }
};

using Bytes = std::vector<std::byte, CacheLineAllocator<std::byte>>;
using Floats = std::vector<float, CacheLineAllocator<float>>;

}  // namespace edgevae
