#include "isa.h"

#include <cstdlib>
#include <stdexcept>

namespace edgevae {

namespace reference {
Kernels kernels();
}
namespace generic {
Kernels kernels();
}
#ifdef EDGEVAE_HAVE_avx2
namespace avx2 {
Kernels kernels();
}
#endif
#ifdef EDGEVAE_HAVE_avx512
namespace avx512 {
Kernels kernels();
}
namespace avx512_vnni {
Kernels kernels();
}
namespace avx2_vnni {
Kernels kernels();
}
#endif

namespace {

// Best first. An entry is listed only if the machine (and its operating system) runs it.
const std::vector<Kernels>& runnable() {
  static const std::vector<Kernels> sets = [] {
    std::vector<Kernels> found;
#ifdef EDGEVAE_HAVE_avx512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma")) {
      if (__builtin_cpu_supports("avx512vnni")) found.push_back(avx512_vnni::kernels());
      found.push_back(avx512::kernels());
    }
#endif
#ifdef EDGEVAE_HAVE_avx2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
        __builtin_cpu_supports("avxvnni"))
      found.push_back(avx2_vnni::kernels());
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
      found.push_back(avx2::kernels());
#endif
    found.push_back(generic::kernels());
    found.push_back(reference::kernels());
    return found;
  }();
  return sets;
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels& set : runnable()) names.emplace_back(set.name);
  return names;
}

const Kernels& select_kernels(const std::string& name) {
  std::string wanted = name;
  std::string from = "isa";
  if (wanted.empty()) {
    if (const char* forced = std::getenv("EDGEVAE_ISA"); forced != nullptr && *forced != '\0') {
      wanted = forced;
      from = "EDGEVAE_ISA";
    }
  }
  const auto& sets = runnable();
  if (wanted.empty()) return sets.front();
  std::string known;
  for (const Kernels& set : sets) {
    if (wanted == set.name) return set;
    known += (known.empty() ? "" : ", ") + std::string(set.name);
  }
  throw std::invalid_argument(from + "=" + wanted + " cannot be had on this machine; it runs " + known + ".");
}

}  // namespace edgevae
