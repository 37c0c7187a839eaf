// What a launch checks before it becomes work of a stream.
#include <map>
#include <mutex>

#include "cuda_runtime.h"

namespace cuda_emulator {
namespace {

constexpr size_t kSharedUnasked = 48 * 1024, kSharedMost = 227 * 1024;  // of a block, the second on Hopper
constexpr unsigned kLargestXBlocks = 0x7fffffff, kLargestBlocks = 65535;

std::mutex mutex;
std::map<const void*, size_t>& allowed() {
  static auto& one = *new std::map<const void*, size_t>;
  return one;
}

}  // namespace

cudaError_t allow_shared(const void* kernel, int bytes) {
  if (const cudaError_t told = injected("cudaFuncSetAttribute"); told != cudaSuccess) return told;
  if (bytes < 0 || static_cast<size_t>(bytes) > kSharedMost) return remember(cudaErrorInvalidValue);
  const std::lock_guard lock(mutex);
  allowed()[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& config, std::function<void()> body) {
  if (const cudaError_t told = injected("cudaLaunchKernel"); told != cudaSuccess) return told;
  const dim3 grid = config.gridDim, block = config.blockDim;
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > kLargestXBlocks || grid.y > kLargestBlocks ||
      grid.z > kLargestBlocks || threads < 1 || threads > 1024) {
    return remember(cudaErrorInvalidConfiguration);
  }
  {
    const std::lock_guard lock(mutex);
    const auto found = allowed().find(kernel);
    if (config.dynamicSmemBytes > (found == allowed().end() ? kSharedUnasked : found->second)) {
      return remember(cudaErrorInvalidValue);
    }
  }
  return enqueue(config.stream, [grid, block, shared = config.dynamicSmemBytes, body = std::move(body)] {
    run_grid(grid, block, shared, body);
  });
}

}  // namespace cuda_emulator
