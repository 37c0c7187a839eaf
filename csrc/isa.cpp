#include "isa.h"

#include <cstdlib>
#include <stdexcept>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace edgevae {

// Defined by kernels.cpp, once per set that CMakeLists.txt builds for this architecture.
namespace avx512_vnni {
Kernels kernels();
}
namespace avx512 {
Kernels kernels();
}
namespace avx2_vnni {
Kernels kernels();
}
namespace avx2 {
Kernels kernels();
}
namespace neon_dot {
Kernels kernels();
}
namespace neon {
Kernels kernels();
}
namespace generic {
Kernels kernels();
}
namespace reference {
Kernels kernels();
}

namespace {

struct Set {
  Kernels (*kernels)();  // to be called only where it runs: it is compiled for that set itself
  bool (*runs)();        // on this machine and its operating system
};

bool always() { return true; }

#if defined(EDGEVAE_GENERIC)
// No other set was built.
#elif defined(__x86_64__)
bool runs_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("fma");
}
bool runs_avx512_vnni() { return runs_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool runs_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool runs_avx2_vnni() { return runs_avx2() && __builtin_cpu_supports("avxvnni"); }
#elif defined(__aarch64__)
// What -march=armv8.2-a+dotprod+fp16 lets the compiler use beyond ARMv8-A.
bool runs_neon_dot() {
  constexpr auto kWanted = HWCAP_ASIMDDP | HWCAP_ASIMDHP | HWCAP_FPHP | HWCAP_ASIMDRDM | HWCAP_ATOMICS;
  return (getauxval(AT_HWCAP) & kWanted) == kWanted;
}
#endif

// Best first.
constexpr Set kSets[] = {
#if defined(EDGEVAE_GENERIC)
#elif defined(__x86_64__)
    {avx512_vnni::kernels, runs_avx512_vnni},
    {avx512::kernels, runs_avx512},
    {avx2_vnni::kernels, runs_avx2_vnni},
    {avx2::kernels, runs_avx2},
#elif defined(__aarch64__)
    {neon_dot::kernels, runs_neon_dot},
    {neon::kernels, always},
#endif
    {generic::kernels, always},
    {reference::kernels, always},
};

const std::vector<Kernels>& runnable() {
  static const std::vector<Kernels> found = [] {
    std::vector<Kernels> sets;
    for (const Set& set : kSets) {
      if (set.runs()) sets.push_back(set.kernels());
    }
    return sets;
  }();
  return found;
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
    if (!known.empty()) known += ", ";
    known += set.name;
  }
  throw std::invalid_argument(from + "=" + wanted + " cannot be had on this machine; it runs " + known + ".");
}

}  // namespace edgevae
