#include "network_cuda.h"

#include <cuda_runtime_api.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "cuda_check.h"
#include "half.h"

namespace edgevae::cuda {
namespace {

cudaStream_t real(Stream s) { return static_cast<cudaStream_t>(s); }
cudaEvent_t event(Stream s) { return static_cast<cudaEvent_t>(s); }

// The sentence for a call that failed while `what`: what it means, and what to do.
Error sentence(const Error& e, const std::string& what) {
  const std::string call = std::string(" (") + e.what() + ")";
  switch (e.code) {
    case cudaErrorMemoryAllocation:
      return {"the device has no memory left for " + what + call +
                  "; take a smaller batch, or end what else uses the device.",
              e.code};
    case cudaErrorInsufficientDriver:
      return {"there is no NVIDIA driver that this build can work with" + call +
                  "; install or update it (see 'nvidia-smi'), or take device='cpu'.",
              e.code};
    case cudaErrorNoDevice:
      return {"no CUDA device was found" + call + "; see 'nvidia-smi', or take device='cpu'.", e.code};
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
      return {"a CUDA kernel failed during " + what + call +
                  ", and with it everything that this process has on the device; start the process again, or "
                  "go on with device='cpu'.",
              e.code};
    default:
      return {"a CUDA call failed during " + what + call + "; call again, or take device='cpu'.", e.code};
  }
}

template <class Work>
auto explaining(const std::string& what, Work work) -> decltype(work()) {
  try {
    return work();
  } catch (const Error& e) {
    throw sentence(e, what);
  }
}

int attribute(cudaDeviceAttr name, int index) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, index), "cudaDeviceGetAttribute");
  return value;
}

int compute_of(int index) {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor, index) +
         attribute(cudaDevAttrComputeCapabilityMinor, index);
}

int device_count() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  return count;
}

Device open_device(int index) {
  return explaining("opening cuda:" + std::to_string(index), [&] {
    const int count = device_count();
    if (index < 0 || index >= count) {
      throw std::invalid_argument("there is no device cuda:" + std::to_string(index) +
                                  ", the last one is cuda:" + std::to_string(count - 1) +
                                  "; see 'edgevae doctor'.");
    }
    const OnDevice here(index);
    return Device{index, attribute(cudaDevAttrMultiProcessorCount, index), compute_of(index),
                  attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index)};
  });
}

Stream make_stream(int index) {
  return explaining("making a stream", [&] {
    const OnDevice here(index);
    cudaStream_t stream;
    // One that the legacy stream, where other libraries work by default, neither waits for nor holds up.
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return static_cast<Stream>(stream);
  });
}

Stream make_pool(int index) {
  return explaining("making a pool of memory", [&] {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.handleTypes = cudaMemHandleTypeNone;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = index;
    cudaMemPool_t pool;
    check(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate");
    // Without this, memory goes back to the system at every wait, and the next array asks for it anew.
    std::uint64_t keep = ~std::uint64_t{0};
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
    return static_cast<Stream>(pool);
  });
}

// The second stream waits for what the first has now.
void join(Stream from, Stream to) {
  cudaEvent_t now;
  check(cudaEventCreateWithFlags(&now, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  cudaError_t code = cudaEventRecord(now, real(from));
  if (code == cudaSuccess) code = cudaStreamWaitEvent(real(to), now, 0);
  cudaEventDestroy(now);  // takes effect once it has been reached
  check(code, "cudaStreamWaitEvent");
}

void copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, Stream stream) {
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, kind, real(stream)), "cudaMemcpyAsync");
}

void wait(Stream stream) { check(cudaStreamSynchronize(real(stream)), "cudaStreamSynchronize"); }

// A graph of what `work` gives to the stream; nothing of it runs now.
std::shared_ptr<void> capture(Stream stream, const std::function<void(Stream)>& work) {
  // Other threads may go on allocating meanwhile.
  check(cudaStreamBeginCapture(real(stream), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    work(stream);
  } catch (...) {
    cudaStreamEndCapture(real(stream), &graph);
    cudaGetLastError();
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(real(stream), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t code = cudaGraphInstantiateWithFlags(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(code, "cudaGraphInstantiate");
  return {exec, [](void* g) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(g)); }};
}

constexpr int kMostGraphs = 64;                    // of one network, each a few ten kilobytes
constexpr int kLargestSlice = 256;                 // images: beyond, more of them at once gain nothing
constexpr int kProfiledRuns = 10;                  // of each step, in a row
constexpr size_t kFrameSlice = size_t{256} << 10;  // bytes of a frame that are copied while others travel

size_t aligned(size_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

std::vector<DeviceInfo> devices() {
  return explaining("looking for devices", [] {
    std::vector<DeviceInfo> all;
    for (int i = 0, count = device_count(); i < count; ++i) {
      cudaDeviceProp properties{};
      check(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
      all.push_back({properties.name, compute_of(i), attribute(cudaDevAttrMultiProcessorCount, i),
                     properties.totalGlobalMem});
    }
    return all;
  });
}

Memory::Memory(Place place, size_t bytes) : place_(place), bytes_(bytes) {
  if (bytes == 0) return;
  if (place == Place::kDevice) {
    check(cudaMalloc(&data_, bytes), "cudaMalloc");
  } else {
    check(cudaHostAlloc(&data_, bytes, cudaHostAllocDefault), "cudaHostAlloc");
  }
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  if (place_ == Place::kDevice) {
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}

Session::Session(int index)
    : device(open_device(index)), stream(make_stream(index)), pool(make_pool(index)), process_(getpid()) {}

Session::~Session() {
  cudaStreamDestroy(real(stream));
  cudaMemPoolDestroy(static_cast<cudaMemPool_t>(pool));
}

void Session::check_process() const {
  if (getpid() != process_) {
    throw Error(
        "this model was loaded on the device before the process forked, and CUDA does not work in the "
        "child; load the model there, or start processes by 'spawn'.",
        cudaErrorInvalidDevice);
  }
}

OnDevice::OnDevice(int index) {
  check(cudaGetDevice(&before_), "cudaGetDevice");
  check(cudaSetDevice(index), "cudaSetDevice");
}

OnDevice::~OnDevice() { cudaSetDevice(before_); }

Array::Array(std::shared_ptr<Session> session, std::vector<std::int64_t> shape, Stream made_on)
    : session_(std::move(session)), shape_(std::move(shape)), made_on_(made_on) {
  const OnDevice on(*session_);
  void* data = nullptr;
  explaining("a result", [&] {
    check(cudaMallocFromPoolAsync(&data, std::max<std::int64_t>(1, count()) * sizeof(float),
                                  static_cast<cudaMemPool_t>(session_->pool), real(made_on)),
          "cudaMallocFromPoolAsync");
  });
  data_ = static_cast<float*>(data);
}

Array::~Array() {
  try {
    const OnDevice on(*session_);
    for (Stream stream : given_to_) join(stream, made_on_);
    check(cudaFreeAsync(data_, real(made_on_)), "cudaFreeAsync");
  } catch (const Error&) {
    // A device that failed keeps it.
  }
}

std::int64_t Array::count() const {
  std::int64_t n = 1;
  for (std::int64_t length : shape_) n *= length;
  return n;
}

void Array::give_to(Stream stream) {
  if (stream == made_on_) return;
  const OnDevice on(*session_);
  explaining("handing an array over", [&] { join(made_on_, stream); });
  if (std::find(given_to_.begin(), given_to_.end(), stream) == given_to_.end()) given_to_.push_back(stream);
}

void Array::read(float* to) const {
  const OnDevice on(*session_);
  explaining("a copy to the host", [&] {
    copy(to, data_, count() * sizeof(float), cudaMemcpyDeviceToHost, made_on_);
    wait(made_on_);
  });
}

void Array::write(const float* from) {
  const OnDevice on(*session_);
  explaining("a copy to the device", [&] {
    copy(data_, from, count() * sizeof(float), cudaMemcpyHostToDevice, made_on_);
    wait(made_on_);
  });
}

Network::Network(const std::vector<Layer>& layers, Shape input, int condition, Arithmetic arithmetic,
                 std::shared_ptr<Session> session)
    : input_(input), condition_(condition), arithmetic_(arithmetic), session_(std::move(session)) {
  const OnDevice on(*session_);
  const auto shapes = infer_shapes(layers, input, condition);
  output_ = shapes.empty() ? input : shapes.back();
  largest_ = input.floats();
  for (const Shape& shape : shapes) largest_ = std::max(largest_, shape.floats());
  explaining("the model's weights", [&] {
    fold_layers(layers, input, shapes, [this](const FoldedLayer& folded) { add(folded); });
    cudaEvent_t done;
    check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    done_ = done;
  });
  last_stream_ = session_->stream;
  for (const Step& s : steps_) macs_ += s.macs;
}

Network::~Network() {
  cudaEventSynchronize(event(done_));
  cudaEventDestroy(event(done_));
}

// int8 weights as the numbers they stand for: w[o, i] = weight_scale[o] * q[o, i] / input_scale[i].
std::vector<float> Network::plain_weights(const FoldedLayer& folded) const {
  const auto& shape = folded.layer->weight.shape;
  size_t count = 1;
  for (int n : shape) count *= static_cast<size_t>(n);
  std::vector<float> plain(folded.weights, folded.weights + count);
  if (folded.weight_scale.empty()) return plain;
  const bool transposed = folded.kind == FoldedLayer::Kind::kConvTranspose;
  const size_t outs = folded.out.c, ins = folded.in.c, taps = count / folded.weight_scale.size() / ins;
  for (size_t i = 0; i < count; ++i) {
    const size_t row = i / taps;  // of (phases, O, I), or of (I, O)
    const size_t in = transposed ? row / outs : row % ins, out = transposed ? row % outs : row / ins;
    plain[i] *= folded.weight_scale[out];
    if (!folded.input_scale.empty()) plain[i] /= folded.input_scale[in];
  }
  return plain;
}

void Network::check_range(const FoldedLayer& folded, const std::vector<float>& weights, float largest) const {
  if (arithmetic_ != Arithmetic::kFloat16) return;
  if (std::all_of(weights.begin(), weights.end(), [=](float w) { return std::abs(w) <= largest; })) return;
  throw std::invalid_argument("layer " + std::to_string(folded.index) + " (" + folded.layer->op +
                              ") has weights beyond the range of fp16; use tf32 or fp32.");
}

void Network::add(const FoldedLayer& folded) {
  using Kind = FoldedLayer::Kind;
  const Shape &in = folded.in, &out = folded.out;
  const Layer& layer = *folded.layer;
  Step s{};
  s.kind = folded.kind;
  s.layer = folded.index;
  s.shape = in;
  s.activation = folded.activation;
  const std::int64_t pairs = std::int64_t{in.c} * out.c, in_pixels = std::int64_t{in.h} * in.w;
  switch (folded.kind) {
    case Kind::kConv: {
      const auto weights = plain_weights(folded);
      check_range(folded, weights, kLargestHalf);
      s.conv = conv_of(folded);
      s.macs = pairs * s.conv.oh * s.conv.ow * s.conv.kh * s.conv.kw;
      upload_weights(s, folded, pack_conv(s.conv, weights.data(), arithmetic_));
      break;
    }
    case Kind::kUpsampleConv: {
      const auto weights = plain_weights(folded);
      s.macs = 36 * pairs * in_pixels;
      if (folded.weight_scale.empty()) {
        check_range(folded, weights, kLargestHalf / 9);
        s.upsample = {1, in.h, in.w, in.c, out.c, layer.padding_mode};
        upload_weights(s, folded, pack_upsample_conv(s.upsample, weights.data(), arithmetic_));
        break;
      }
      // Merged taps (4, O, I, 2, 2), which a transposed convolution takes as its 4x4 kernel (cuda_kernels.h).
      check_range(folded, weights, kLargestHalf);
      std::vector<float> kernel(weights.size());
      for (int phase = 0; phase < 4; ++phase)
        for (int o = 0; o < out.c; ++o)
          for (int i = 0; i < in.c; ++i)
            for (int tap = 0; tap < 4; ++tap) {
              const int ky = 3 - phase / 2 - 2 * (tap / 2), kx = 3 - phase % 2 - 2 * (tap % 2);
              kernel[((static_cast<size_t>(i) * out.c + o) * 4 + ky) * 4 + kx] =
                  weights[((static_cast<size_t>(phase) * out.c + o) * in.c + i) * 4 + tap];
            }
      s.kind = Kind::kConvTranspose;
      s.transpose = {1, in.h, in.w, in.c, out.h, out.w, out.c, 4, 4, 2, 1, layer.padding_mode};
      upload_weights(s, folded, pack_conv_transpose(s.transpose, kernel.data(), arithmetic_));
      break;
    }
    case Kind::kConvTranspose: {
      const auto weights = plain_weights(folded);
      check_range(folded, weights, kLargestHalf);
      const int kh = layer.weight.shape[2], kw = layer.weight.shape[3];
      s.macs = pairs * in_pixels * kh * kw;
      s.transpose = {1, in.h, in.w, in.c, out.h, out.w, out.c, kh, kw, layer.stride, layer.padding};
      upload_weights(s, folded, pack_conv_transpose(s.transpose, weights.data(), arithmetic_));
      break;
    }
    case Kind::kMaxPool:
      s.pool = {1, in.h, in.w, in.c, out.h, out.w, layer.kernel, layer.stride};
      break;
    case Kind::kConcat:
    case Kind::kActivation:
    case Kind::kToPlanes:
    case Kind::kToPixels:
      break;
  }
  steps_.push_back(std::move(s));
}

void Network::upload_weights(Step& s, const FoldedLayer& folded, const Bytes& packed) {
  s.weights = Memory(Place::kDevice, packed.size());
  s.bias = Memory(Place::kDevice, folded.bias.size() * sizeof(float));
  check(cudaMemcpy(s.weights.as<void>(), packed.data(), packed.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  check(cudaMemcpy(s.bias.as<void>(), folded.bias.data(), s.bias.bytes(), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  weight_bytes_ += static_cast<std::int64_t>(s.weights.bytes() + s.bias.bytes());
}

bool Network::ends_in_linear() const {
  return !output_.image && !steps_.empty() && steps_.back().kind == FoldedLayer::Kind::kConv;
}

int Network::slice() const {
  return static_cast<int>(std::clamp<std::int64_t>(kLargest / largest_, 1, kLargestSlice));
}

void Network::set_batch(Step& s, int n, int outputs) {
  s.conv.n = s.transpose.n = s.upsample.n = s.pool.n = n;
  s.conv.outputs = &s == &steps_.back() && ends_in_linear() ? outputs : s.conv.oc;
}

size_t Network::workspace(const Step& s) const {
  switch (s.kind) {
    case FoldedLayer::Kind::kConv:
      return conv_workspace(s.conv, arithmetic_, session_->device);
    case FoldedLayer::Kind::kUpsampleConv:
      return upsample_conv_workspace(s.upsample, arithmetic_, session_->device);
    case FoldedLayer::Kind::kConvTranspose:
      return conv_transpose_workspace(s.transpose, arithmetic_, session_->device);
    default:
      return 0;
  }
}

void Network::launch(const Step& s, const void* x, void* y, bool floats, Stream stream) {
  const Device& device = session_->device;
  const Epilogue epilogue{s.bias.as<float>(), s.activation, floats};
  void* const space = workspace_.as<void>();
  const int n = s.conv.n;
  const size_t pixels = static_cast<size_t>(s.shape.h) * s.shape.w;
  switch (s.kind) {
    case FoldedLayer::Kind::kConv:
      return conv(s.conv, arithmetic_, device, x, s.weights.as<void>(), epilogue, y, space, stream);
    case FoldedLayer::Kind::kUpsampleConv:
      return upsample_conv(s.upsample, arithmetic_, device, x, s.weights.as<void>(), epilogue, y, space,
                           stream);
    case FoldedLayer::Kind::kConvTranspose:
      return conv_transpose(s.transpose, arithmetic_, device, x, s.weights.as<void>(), epilogue, y, space,
                            stream);
    case FoldedLayer::Kind::kMaxPool:
      return max_pool(s.pool, arithmetic_, device, x, y, stream);
    case FoldedLayer::Kind::kConcat:
      return concat_condition(n, s.shape.c, condition_, arithmetic_, device, x, conditions_.as<float>(), y,
                              stream);
    case FoldedLayer::Kind::kActivation:
      return activate(static_cast<size_t>(s.shape.floats()) * n, s.activation, arithmetic_, device, x, y,
                      stream);
    case FoldedLayer::Kind::kToPlanes:
      return pixels_to_planes(n, s.shape.c, pixels, arithmetic_, device, x, y, stream);
    case FoldedLayer::Kind::kToPixels:
      return planes_to_pixels(n, s.shape.c, pixels, arithmetic_, device, x, y, stream);
  }
}

// From the input that is in place to floats in output_buffer_, pixel after pixel. After each step calls
// after(step, again), whose second argument launches it once more.
template <class After>
void Network::launch_steps(int n, int outputs, Stream stream, After after) {
  const void* x = input_buffer_.as<void>();
  int into = 0;
  bool floats = false;
  for (Step& s : steps_) {
    set_batch(s, n, outputs);
    floats = &s == &steps_.back() && has_weights(s);
    void* y = floats ? output_buffer_.as<void>() : buffers_[into].as<void>();
    const auto again = [&] { launch(s, x, y, floats, stream); };
    again();
    after(s, again);
    x = y;
    into = 1 - into;
  }
  // One plane of as many numbers as there are is in order as it is: what is left is the conversion.
  if (!floats)
    to_nchw(1, 1, static_cast<size_t>(output_.floats()) * n, arithmetic_, session_->device, x,
            output_buffer_.as<float>(), stream);
}

void Network::launch_steps(int n, int outputs, Stream stream) {
  launch_steps(n, outputs, stream, [](const Step&, const auto&) {});
}

void Network::forget_graphs() {
  check(cudaEventSynchronize(event(done_)), "cudaEventSynchronize");  // one of them may still run
  graphs_.clear();
}

void Network::reserve(int n) {
  if (n <= reserved_) return;
  forget_graphs();
  reserved_ = staged_ = 0;
  // Let go before anything is asked for: both at once might not fit.
  for (Memory* m : {&input_buffer_, &conditions_, &output_buffer_, &buffers_[0], &buffers_[1], &planes_in_,
                    &planes_out_, &pinned_in_, &pinned_out_})
    *m = Memory();
  const size_t batch = n, number = activation_bytes(arithmetic_);
  const auto device = [](size_t bytes) { return Memory(Place::kDevice, bytes); };
  input_buffer_ = device(batch * input_.floats() * number);
  conditions_ = device(batch * condition_ * sizeof(float));
  for (Memory& buffer : buffers_) buffer = device(batch * largest_ * number);
  output_buffer_ = device(batch * output_.floats() * sizeof(float));
  reserved_ = n;
}

void Network::stage(int n) {
  reserve(n);
  if (n <= staged_) return;
  forget_graphs();
  staged_ = 0;
  const size_t batch = n, in = batch * input_.floats() * sizeof(float),
               pixels = batch * output_.h * output_.w,
               // either numbers or a picture's bytes and its metres
      out = std::max(batch * output_.floats() * sizeof(float), aligned(3 * pixels) + pixels * sizeof(float));
  for (Memory* m : {&planes_in_, &planes_out_, &pinned_in_, &pinned_out_}) *m = Memory();
  planes_in_ = Memory(Place::kDevice, in);
  planes_out_ = Memory(Place::kDevice, out);
  pinned_in_ = Memory(Place::kPinned, in + batch * condition_ * sizeof(float));
  pinned_out_ = Memory(Place::kPinned, out);
  staged_ = n;
}

void Network::follow(Stream stream) {
  if (stream != last_stream_)
    check(cudaStreamWaitEvent(real(stream), event(done_), 0), "cudaStreamWaitEvent");
  last_stream_ = stream;
}

void Network::make_room(size_t space) {
  if (space <= workspace_.bytes()) return;
  forget_graphs();
  workspace_ = Memory();
  workspace_ = Memory(Place::kDevice, space);
  check(cudaMemsetAsync(workspace_.as<void>(), 0, kCounterBytes, real(session_->stream)), "cudaMemsetAsync");
  wait(session_->stream);
}

void Network::replay(const GraphKey& key, int n, int outputs, size_t space, Stream stream,
                     const std::function<void(Stream)>& work) {
  const auto found = graphs_.find(key);
  if (found != graphs_.end()) {
    check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(found->second.get()), real(stream)),
          "cudaGraphLaunch");
    return;
  }
  space = std::max(space, kCounterBytes);
  for (Step& s : steps_) {
    set_batch(s, n, outputs);
    space = std::max(space, workspace(s));
  }
  make_room(space);
  // Run before it is captured: the first launch of a kernel loads it, which a capture may not hold.
  work(stream);
  if (graphs_.size() >= kMostGraphs) forget_graphs();
  graphs_[key] = capture(session_->stream, work);
}

void Network::upload_input(int n, bool with_condition, Stream stream) {
  const size_t floats = static_cast<size_t>(input_.floats()) * n;
  const auto* from = pinned_in_.as<float>();
  copy(planes_in_.as<void>(), from, floats * sizeof(float), cudaMemcpyHostToDevice, stream);
  if (with_condition)
    copy(conditions_.as<void>(), from + floats, static_cast<size_t>(condition_) * n * sizeof(float),
         cudaMemcpyHostToDevice, stream);
  from_nchw(n, input_.c, static_cast<size_t>(input_.h) * input_.w, arithmetic_, session_->device,
            planes_in_.as<float>(), input_buffer_.as<void>(), stream);
}

template <class Work>
auto Network::explained(const std::string& what, Work work) -> decltype(work()) {
  return explaining(what, [&] {
    const OnDevice on(*session_);
    return work();
  });
}

namespace {

std::string batch_text(std::int64_t n) { return "a batch of " + std::to_string(n); }

enum GraphOf { kHostArrays, kFrame, kPictures, kDeviceArrays };

std::int64_t bits(float f) { return std::bit_cast<std::int32_t>(f); }

void append_encoding(GraphKey& key, const InputEncoding& e) {
  key.insert(key.end(), {e.channels, e.color_min_max, static_cast<int>(e.depth), bits(e.min_m), bits(e.max_m),
                         bits(e.no_reading), e.fill});
}

}  // namespace

void Network::run(std::int64_t n, int outputs, const float* x, const float* condition, float* y) {
  explained(batch_text(n), [&] {
    const std::int64_t in = input_.floats(), out = output_.image ? output_.floats() : outputs;
    for (std::int64_t first = 0; first < n; first += slice()) {
      const int count = static_cast<int>(std::min<std::int64_t>(slice(), n - first));
      stage(count);
      auto* staged = pinned_in_.as<float>();
      std::copy_n(x + first * in, in * count, staged);
      if (condition_ > 0)
        std::copy_n(condition + first * condition_, std::int64_t{condition_} * count, staged + in * count);
      follow(session_->stream);
      replay({kHostArrays, count, outputs}, count, outputs, 0, session_->stream, [&](Stream stream) {
        upload_input(count, condition_ > 0, stream);
        launch_steps(count, outputs, stream);
        const void* result = output_buffer_.as<void>();
        if (output_.image) {
          to_nchw(count, output_.c, static_cast<size_t>(output_.h) * output_.w, Arithmetic::kFloat32,
                  session_->device, result, planes_out_.as<float>(), stream);
          result = planes_out_.as<void>();
        }
        copy(pinned_out_.as<void>(), result, out * count * sizeof(float), cudaMemcpyDeviceToHost, stream);
      });
      wait(session_->stream);
      std::copy_n(pinned_out_.as<float>(), out * count, y + first * out);
    }
  });
}

// Rows of a frame travel while the next ones are being copied: a camera's memory is seldom pinned.
void Network::stage_frame(const FramePack& f) {
  const size_t pixels = static_cast<size_t>(f.height) * f.width;
  const size_t sample = f.depth_type == DepthType::kUint16 ? 2 : 4;
  const bool with_depth = f.depth_type != DepthType::kNone;
  const size_t color_bytes = aligned(3 * pixels), bytes = color_bytes + (with_depth ? sample * pixels : 0);
  if (frame_.bytes() < bytes) {
    forget_graphs();
    frame_ = Memory();
    pinned_frame_ = Memory();
    frame_ = Memory(Place::kDevice, bytes);
    pinned_frame_ = Memory(Place::kPinned, bytes);
  }
  const auto rows = [&](const void* from, std::ptrdiff_t row_stride, std::ptrdiff_t pixel_stride, size_t size,
                        size_t at) {
    const size_t row = size * f.width;
    const int many = static_cast<int>(std::clamp<size_t>(kFrameSlice / row, 1, f.height));
    for (int first = 0; first < f.height; first += many) {
      const int end = std::min(f.height, first + many);
      for (int y = first; y < end; ++y) {
        const char* source = static_cast<const char*>(from) + y * row_stride;
        char* target = pinned_frame_.as<char>() + at + y * row;
        if (pixel_stride == static_cast<std::ptrdiff_t>(size)) {
          std::memcpy(target, source, row);
        } else {
          for (int x = 0; x < f.width; ++x) std::memcpy(target + x * size, source + x * pixel_stride, size);
        }
      }
      copy(frame_.as<char>() + at + first * row, pinned_frame_.as<char>() + at + first * row,
           (end - first) * row, cudaMemcpyHostToDevice, session_->stream);
    }
  };
  rows(f.color, f.color_row, f.color_pixel, 3, 0);
  if (with_depth) rows(f.depth, f.depth_row, f.depth_pixel, sample, color_bytes);
}

std::array<double, 2> Network::encode_frame(const FramePack& given, int outputs, float* y) {
  return explained("a frame", [&] {
    const auto begin = std::chrono::steady_clock::now();
    stage(1);
    follow(session_->stream);
    FramePack f = given;
    f.out_height = input_.h;
    f.out_width = input_.w;
    stage_frame(f);
    f.color = frame_.as<std::uint8_t>();
    f.color_pixel = 3;
    f.color_row = std::ptrdiff_t{3} * f.width;
    f.depth_pixel = f.depth_type == DepthType::kUint16 ? 2 : 4;
    f.depth_row = f.depth_pixel * f.width;
    f.depth = frame_.as<char>() + aligned(size_t{3} * f.height * f.width);
    const auto sent = std::chrono::steady_clock::now();
    GraphKey key{
        kFrame, outputs, f.height, f.width, f.bgr, static_cast<int>(f.depth_type), bits(f.depth_scale)};
    append_encoding(key, f.encoding);
    replay(key, 1, outputs, pack_frame_workspace(f), session_->stream, [&](Stream stream) {
      pack_frame(f, arithmetic_, session_->device, input_buffer_.as<void>(), workspace_.as<void>(), stream);
      launch_steps(1, outputs, stream);
      copy(pinned_out_.as<void>(), output_buffer_.as<void>(), outputs * sizeof(float), cudaMemcpyDeviceToHost,
           stream);
    });
    wait(session_->stream);
    std::copy_n(pinned_out_.as<float>(), outputs, y);
    const auto end = std::chrono::steady_clock::now();
    return std::array{std::chrono::duration<double>(sent - begin).count(),
                      std::chrono::duration<double>(end - sent).count()};
  });
}

void Network::decode_frames(std::int64_t n, const float* z, const float* condition,
                            const InputEncoding& encoding, std::uint8_t* rgb, float* depth) {
  explained(batch_text(n), [&] {
    const std::int64_t in = input_.floats(), image = std::int64_t{output_.h} * output_.w;
    for (std::int64_t first = 0; first < n; first += slice()) {
      const int count = static_cast<int>(std::min<std::int64_t>(slice(), n - first));
      const size_t pixels = static_cast<size_t>(image) * count, metres_at = aligned(3 * pixels);
      stage(count);
      auto* staged = pinned_in_.as<float>();
      std::copy_n(z + first * in, in * count, staged);
      if (condition_ > 0)
        std::copy_n(condition + first * condition_, std::int64_t{condition_} * count, staged + in * count);
      follow(session_->stream);
      GraphKey key{kPictures, count, depth != nullptr};
      append_encoding(key, encoding);
      replay(key, count, output_.c, 0, session_->stream, [&](Stream stream) {
        upload_input(count, condition_ > 0, stream);
        launch_steps(count, output_.c, stream);
        auto* colors = planes_out_.as<unsigned char>();
        auto* metres = depth == nullptr ? nullptr : reinterpret_cast<float*>(colors + metres_at);
        unpack_frames(output_buffer_.as<float>(), pixels, encoding, session_->device, colors, metres, stream);
        copy(pinned_out_.as<void>(), colors,
             depth == nullptr ? 3 * pixels : metres_at + pixels * sizeof(float), cudaMemcpyDeviceToHost,
             stream);
      });
      wait(session_->stream);
      const auto* bytes = pinned_out_.as<unsigned char>();
      std::copy_n(bytes, 3 * pixels, rgb + first * image * 3);
      if (depth != nullptr) std::memcpy(depth + first * image, bytes + metres_at, pixels * sizeof(float));
    }
  });
}

// The graph holds what does not depend on where the caller's numbers lie; the way in and out are a launch
// each, in the same stream, which the processor gives while the one before still runs.
void Network::run_on_device(std::int64_t n, int outputs, const float* x, const float* condition, float* y,
                            Stream stream) {
  explained(batch_text(n), [&] {
    const std::int64_t in = input_.floats(), out = output_.image ? output_.floats() : outputs;
    for (std::int64_t first = 0; first < n; first += slice()) {
      const int count = static_cast<int>(std::min<std::int64_t>(slice(), n - first));
      reserve(count);
      follow(stream);
      from_nchw(count, input_.c, static_cast<size_t>(input_.h) * input_.w, arithmetic_, session_->device,
                x + first * in, input_buffer_.as<void>(), stream);
      if (condition_ > 0)
        copy(conditions_.as<void>(), condition + first * condition_,
             static_cast<size_t>(condition_) * count * sizeof(float), cudaMemcpyDeviceToDevice, stream);
      replay({kDeviceArrays, count, outputs}, count, outputs, 0, stream,
             [&](Stream on) { launch_steps(count, outputs, on); });
      if (output_.image) {
        to_nchw(count, output_.c, static_cast<size_t>(output_.h) * output_.w, Arithmetic::kFloat32,
                session_->device, output_buffer_.as<void>(), y + first * out, stream);
      } else {
        copy(y + first * out, output_buffer_.as<void>(), out * count * sizeof(float),
             cudaMemcpyDeviceToDevice, stream);
      }
      check(cudaEventRecord(event(done_), real(stream)), "cudaEventRecord");
    }
  });
}

std::vector<StepReport> Network::profile(int n, int outputs) {
  return explained("a profile", [&] {
    struct Timer {
      Timer() { check(cudaEventCreateWithFlags(&event, cudaEventDefault), "cudaEventCreateWithFlags"); }
      Timer(Timer&& other) noexcept : event(std::exchange(other.event, nullptr)) {}
      ~Timer() {
        if (event != nullptr) cudaEventDestroy(event);
      }
      cudaEvent_t event = nullptr;
    };
    const Stream stream = session_->stream;
    std::vector<std::pair<Timer, Timer>> timers(steps_.size());
    std::vector<StepReport> reports;
    stage(n);
    follow(stream);
    launch_steps(n, outputs, stream, [&](const Step& s, const auto& again) {
      const auto& [from, to] = timers[reports.size()];
      check(cudaEventRecord(from.event, real(stream)), "cudaEventRecord");
      for (int i = 0; i < kProfiledRuns; ++i) again();
      check(cudaEventRecord(to.event, real(stream)), "cudaEventRecord");
      reports.push_back(report(s));
    });
    wait(stream);
    for (size_t i = 0; i < reports.size(); ++i) {
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, timers[i].first.event, timers[i].second.event),
            "cudaEventElapsedTime");
      reports[i].seconds = milliseconds * 1e-3 / kProfiledRuns;
    }
    return reports;
  });
}

StepReport Network::report(const Step& s) const {
  const char* const names[] = {"", "", "", "max pool", "concat", "activation", "to planes", "to pixels"};
  const char* const arithmetics[] = {"fp16", "tf32", "fp32"};
  StepReport r{
      s.layer, names[static_cast<int>(s.kind)], "", s.macs, 0, static_cast<std::int64_t>(s.weights.bytes()),
      0};
  if (!has_weights(s)) return r;
  r.arithmetic = arithmetics[static_cast<int>(arithmetic_)];
  const Plan plan = s.kind == FoldedLayer::Kind::kConv ? conv_plan(s.conv, arithmetic_, session_->device)
                    : s.kind == FoldedLayer::Kind::kUpsampleConv
                        ? upsample_conv_plan(s.upsample, arithmetic_, session_->device)
                        : conv_transpose_plan(s.transpose, arithmetic_, session_->device);
  const bool nine = s.kind == FoldedLayer::Kind::kUpsampleConv;
  r.method = nine ? std::string("nine products, ") + plan.method : plan.method;
  r.products = nine ? s.macs / 4 : s.macs;
  return r;
}

}  // namespace edgevae::cuda
