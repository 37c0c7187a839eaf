// cuda_runtime_api.h: memory, streams, events and graphs, with the failures that tests ask for.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"

using Work = std::function<void()>;

struct CUgraph_st {
  std::vector<Work> work;
  bool valid = true;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
struct CUmemPoolHandle_st {
  int device;
};

// Its work in the order of issue; `done` of it have run.
struct CUstream_st {
  std::deque<Work> waiting;
  std::uint64_t issued = 0, done = 0;
  cudaGraph_t graph = nullptr;  // being captured
};
struct CUevent_st {
  cudaStream_t stream = nullptr;
  std::uint64_t until = 0;  // what was issued to the stream when the event was recorded
  std::chrono::steady_clock::time_point time;
};

namespace {

using cuda_emulator::injected;
using cuda_emulator::remember;

constexpr int kDevices = 2;
constexpr size_t kMemory = size_t{8} << 30, kAlignment = 256;
constexpr unsigned char kPoison = 0xff;

struct Block {
  size_t bytes;
  int device;
  cudaMemoryType type;
};
struct Failure {
  int countdown;
  cudaError_t error;
  bool forever;
};

// Kernels of one test process are few and short: one lock for everything. It is recursive because work that
// a wait sets off may call the runtime.
std::recursive_mutex mutex;
std::map<std::uintptr_t, Block> blocks;
std::map<std::string, Failure> failures;
std::set<cudaStream_t> streams;
cudaError_t sticky = cudaSuccess;
CUstream_st legacy, per_thread;
thread_local int current = 0;
thread_local cudaError_t last = cudaSuccess;
thread_local int capturing = 0;

cudaStream_t real(cudaStream_t stream) {
  if (stream == nullptr || stream == cudaStreamLegacy) return &legacy;
  if (stream == cudaStreamPerThread) return &per_thread;
  return stream;
}

bool known(cudaStream_t stream) {
  return stream == &legacy || stream == &per_thread || streams.count(stream) != 0;
}

// Runs a stream's work up to the given count. Work that waits for an event runs the other stream in turn:
// what it waits for was issued before, so this ends.
void run_until(cudaStream_t stream, std::uint64_t count) {
  while (stream->done < count) {
    const Work work = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    work();
    ++stream->done;
  }
}

void run_all() {
  run_until(&legacy, legacy.issued);
  run_until(&per_thread, per_thread.issued);
  for (cudaStream_t stream : streams) run_until(stream, stream->issued);
}

// Calls that a capture of this thread cannot hold end it.
bool forbidden_by_capture() {
  if (capturing == 0) return false;
  for (cudaStream_t stream : streams)
    if (stream->graph != nullptr) stream->graph->valid = false;
  return true;
}

std::map<std::uintptr_t, Block>::const_iterator block_of(const void* pointer) {
  const auto at = reinterpret_cast<std::uintptr_t>(pointer);
  auto found = blocks.upper_bound(at);
  if (found == blocks.begin()) return blocks.end();
  --found;
  return at < found->first + std::max<size_t>(found->second.bytes, 1) ? found : blocks.end();
}

// Whether `bytes` from here on belong to memory of this kind: plain host memory has no block.
bool within(const void* pointer, size_t bytes, bool device) {
  const auto found = block_of(pointer);
  if (found == blocks.end()) return !device;
  if ((found->second.type == cudaMemoryTypeDevice) != device) return false;
  return reinterpret_cast<std::uintptr_t>(pointer) + bytes <= found->first + found->second.bytes;
}

bool copy_fits(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return kind != cudaMemcpyDefault && within(to, bytes, to_device) && within(from, bytes, from_device);
}

cudaError_t allocate(void** pointer, size_t bytes, cudaMemoryType type, int device) {
  size_t used = 0;
  for (const auto& [address, block] : blocks)
    if (block.type == cudaMemoryTypeDevice && block.device == device) used += block.bytes;
  if (type == cudaMemoryTypeDevice && bytes > kMemory - std::min(used, kMemory))
    return remember(cudaErrorMemoryAllocation);
  void* memory = std::aligned_alloc(kAlignment, (bytes + kAlignment) / kAlignment * kAlignment);
  if (memory == nullptr) return remember(cudaErrorMemoryAllocation);
  std::memset(memory, kPoison, bytes);
  blocks[reinterpret_cast<std::uintptr_t>(memory)] = {bytes, device, type};
  *pointer = memory;
  return cudaSuccess;
}

cudaError_t release(void* pointer, bool device) {
  if (pointer == nullptr) return cudaSuccess;
  const auto found = blocks.find(reinterpret_cast<std::uintptr_t>(pointer));
  if (found == blocks.end() || (found->second.type == cudaMemoryTypeDevice) != device)
    return remember(cudaErrorInvalidValue);
  std::memset(pointer, kPoison, found->second.bytes);
  blocks.erase(found);
  std::free(pointer);
  return cudaSuccess;
}

}  // namespace

namespace cuda_emulator {

void fail_call(const char* name, int nth, cudaError_t error, bool forever) {
  std::scoped_lock lock(mutex);
  failures[name] = {nth, error, forever};
}

void succeed_again() {
  std::scoped_lock lock(mutex);
  failures.clear();
  sticky = cudaSuccess;
  last = cudaSuccess;
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  if (error == cudaErrorLaunchFailure || error == cudaErrorIllegalAddress) sticky = error;
  return error;
}

cudaError_t injected(const char* name) {
  if (sticky != cudaSuccess) return remember(sticky);
  const auto found = failures.find(name);
  if (found == failures.end()) return cudaSuccess;
  Failure& failure = found->second;
  if (failure.countdown > 1) {
    --failure.countdown;
    return cudaSuccess;
  }
  const cudaError_t error = failure.error;
  if (!failure.forever) failures.erase(found);
  return remember(error);
}

cudaError_t enqueue(cudaStream_t given, Work work) {
  std::scoped_lock lock(mutex);
  cudaStream_t stream = real(given);
  if (!known(stream)) return remember(cudaErrorInvalidResourceHandle);
  if (stream->graph != nullptr) {
    stream->graph->work.push_back(std::move(work));
  } else {
    stream->waiting.push_back(std::move(work));
    ++stream->issued;
  }
  return cudaSuccess;
}

}  // namespace cuda_emulator

#define BEGIN(name)             \
  std::scoped_lock lock(mutex); \
  if (const cudaError_t failed = injected(name); failed != cudaSuccess) return failed

#define WANT(condition) \
  if (!(condition)) return remember(cudaErrorInvalidValue)

#define NOT_IN_CAPTURE \
  if (forbidden_by_capture()) return remember(cudaErrorStreamCaptureUnsupported)

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorLaunchOutOfResources:
      return "too many resources requested for launch";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    default:
      return "invalid argument";
  }
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = sticky;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last; }

cudaError_t cudaDriverGetVersion(int* version) {
  BEGIN("cudaDriverGetVersion");
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  BEGIN("cudaGetDeviceCount");
  *count = kDevices;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  BEGIN("cudaGetDevice");
  *device = current;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  BEGIN("cudaSetDevice");
  if (device < 0 || device >= kDevices) return remember(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  BEGIN("cudaDeviceGetAttribute");
  if (device < 0 || device >= kDevices) return remember(cudaErrorInvalidDevice);
  // Those of an H200.
  static const std::map<cudaDeviceAttr, int> values = {
      {cudaDevAttrMultiProcessorCount, 132},  {cudaDevAttrComputeCapabilityMajor, 9},
      {cudaDevAttrComputeCapabilityMinor, 0}, {cudaDevAttrMaxSharedMemoryPerBlockOptin, 227 * 1024},
      {cudaDevAttrMemoryPoolsSupported, 1},
  };
  *value = values.at(attribute);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  BEGIN("cudaGetDeviceProperties");
  if (device < 0 || device >= kDevices) return remember(cudaErrorInvalidDevice);
  *properties = {"emulated device", kMemory};
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  BEGIN("cudaMemGetInfo");
  *total = *free = kMemory;
  for (const auto& [address, block] : blocks)
    if (block.type == cudaMemoryTypeDevice && block.device == current) *free -= block.bytes;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  BEGIN("cudaDeviceSynchronize");
  NOT_IN_CAPTURE;
  run_all();
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  BEGIN("cudaMalloc");
  NOT_IN_CAPTURE;
  return allocate(pointer, bytes, cudaMemoryTypeDevice, current);
}

cudaError_t cudaFree(void* pointer) {
  BEGIN("cudaFree");
  NOT_IN_CAPTURE;
  run_all();
  return release(pointer, true);
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  BEGIN("cudaHostAlloc");
  NOT_IN_CAPTURE;
  return allocate(pointer, bytes, cudaMemoryTypeHost, current);
}

cudaError_t cudaFreeHost(void* pointer) {
  BEGIN("cudaFreeHost");
  NOT_IN_CAPTURE;
  run_all();
  return release(pointer, false);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  BEGIN("cudaPointerGetAttributes");
  *attributes = {cudaMemoryTypeUnregistered, -1, nullptr, nullptr};
  const auto found = block_of(pointer);
  if (found != blocks.end()) {
    attributes->type = found->second.type;
    attributes->device = found->second.device;
    attributes->devicePointer = const_cast<void*>(pointer);
  }
  return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  BEGIN("cudaMemPoolCreate");
  WANT(properties->allocType == cudaMemAllocationTypePinned);
  WANT(properties->location.type == cudaMemLocationTypeDevice);
  *pool = new CUmemPoolHandle_st{properties->location.id};
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }

cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  delete pool;
  return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  BEGIN("cudaMallocFromPoolAsync");
  if (!known(real(stream))) return remember(cudaErrorInvalidResourceHandle);
  return allocate(pointer, bytes, cudaMemoryTypeDevice, pool->device);
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  BEGIN("cudaFreeAsync");
  WANT(block_of(pointer) != blocks.end());
  return cuda_emulator::enqueue(stream, [=] { release(pointer, true); });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  BEGIN("cudaMemcpy");
  NOT_IN_CAPTURE;
  WANT(copy_fits(to, from, bytes, kind));
  run_until(&legacy, legacy.issued);
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  BEGIN("cudaMemcpyAsync");
  WANT(copy_fits(to, from, bytes, kind));
  return cuda_emulator::enqueue(stream, [=] { std::memcpy(to, from, bytes); });
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  BEGIN("cudaMemsetAsync");
  WANT(within(pointer, bytes, true));
  return cuda_emulator::enqueue(stream, [=] { std::memset(pointer, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  BEGIN("cudaStreamCreateWithFlags");
  *stream = new CUstream_st;
  streams.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  BEGIN("cudaStreamDestroy");
  if (streams.count(stream) == 0) return remember(cudaErrorInvalidResourceHandle);
  run_until(stream, stream->issued);
  streams.erase(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t given) {
  BEGIN("cudaStreamSynchronize");
  NOT_IN_CAPTURE;
  cudaStream_t stream = real(given);
  if (!known(stream)) return remember(cudaErrorInvalidResourceHandle);
  run_until(stream, stream->issued);
  return sticky == cudaSuccess ? cudaSuccess : remember(sticky);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  BEGIN("cudaStreamWaitEvent");
  if (event->stream == nullptr || real(stream) == event->stream) return cudaSuccess;
  return cuda_emulator::enqueue(stream, [other = event->stream, until = event->until] {
    if (known(other)) run_until(other, until);
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  BEGIN("cudaEventCreateWithFlags");
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  BEGIN("cudaEventDestroy");
  if (event->stream != nullptr && known(event->stream)) run_until(event->stream, event->until);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t given) {
  BEGIN("cudaEventRecord");
  cudaStream_t stream = real(given);
  const cudaError_t error =
      cuda_emulator::enqueue(stream, [event] { event->time = std::chrono::steady_clock::now(); });
  if (error != cudaSuccess) return error;
  event->stream = stream;
  event->until = stream->issued;
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  BEGIN("cudaEventSynchronize");
  NOT_IN_CAPTURE;
  if (event->stream != nullptr && known(event->stream)) run_until(event->stream, event->until);
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  BEGIN("cudaEventElapsedTime");
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  BEGIN("cudaStreamBeginCapture");
  if (streams.count(stream) == 0 || stream->graph != nullptr) return remember(cudaErrorInvalidValue);
  stream->graph = new CUgraph_st;
  ++capturing;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  std::scoped_lock lock(mutex);
  *graph = nullptr;
  WANT(stream->graph != nullptr);
  std::unique_ptr<CUgraph_st> captured(std::exchange(stream->graph, nullptr));
  --capturing;
  if (const cudaError_t failed = injected("cudaStreamEndCapture"); failed != cudaSuccess) return failed;
  if (!captured->valid) return remember(cudaErrorStreamCaptureInvalidated);
  *graph = captured.release();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  BEGIN("cudaGraphInstantiateWithFlags");
  *exec = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  BEGIN("cudaGraphLaunch");
  for (const Work& work : exec->work) {
    if (const cudaError_t error = cuda_emulator::enqueue(stream, work); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
