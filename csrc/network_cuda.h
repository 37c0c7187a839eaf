// A network of the model file on a CUDA device, as network.h is one on the processor.
//
// Weights are uploaded once. Memory is planned for a batch size and then stays. The first run of a batch size
// launches its steps one by one and is then captured as a graph, which every later run replays: at batch 1
// launching a dozen kernels would cost more than the kernels. int8 weights become numbers of the model's
// arithmetic when they are loaded.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda_kernels.h"
#include "folding.h"

namespace edgevae::cuda {

struct DeviceInfo {
  std::string name;
  int compute;  // capability, 90 for 9.0
  int sms;
  std::size_t memory_bytes;
};

// Every device of this machine. Throws Error with a sentence where there is no driver or no device.
std::vector<DeviceInfo> devices();

// Memory of the device, or of the host at addresses the device can copy from while the processor works on.
enum class Place { kDevice, kPinned };
class Memory {
 public:
  Memory() = default;
  Memory(Place place, size_t bytes);  // throws Error
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    Memory(std::move(other)).swap(*this);
    return *this;
  }
  ~Memory();

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void swap(Memory& other) noexcept {
    std::swap(place_, other.place_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  Place place_ = Place::kDevice;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// A device as one model uses it: a stream of its own, one job at a time.
class Session {
 public:
  explicit Session(int index);
  ~Session();
  Session(const Session&) = delete;

  const Device device;
  const Stream stream;
  const Stream pool;  // a cudaMemPool_t: memory of arrays that callers get
  std::mutex mutex;

  // Throws Error in a process that was forked from the one that made this: CUDA does not work there.
  void check_process() const;

 private:
  const int process_;
};

// While it lives, the device is this thread's current one.
class OnDevice {
 public:
  explicit OnDevice(int index);
  explicit OnDevice(const Session& session) : OnDevice(session.device.index) {}
  ~OnDevice();

 private:
  int before_ = 0;
};

// Floats on a device that outlive the call that made them. They are freed in the order of the streams that
// they were made on and given to, which therefore have to outlive them.
class Array {
 public:
  Array(std::shared_ptr<Session> session, std::vector<std::int64_t> shape, Stream made_on);
  ~Array();
  Array(const Array&) = delete;

  float* data() const { return data_; }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  std::int64_t count() const;
  const Session& session() const { return *session_; }
  Stream made_on() const { return made_on_; }

  // Work that `stream` gets from now on finds the numbers written.
  void give_to(Stream stream);

  // Copies to and from the host; both wait.
  void read(float* to) const;
  void write(const float* from);

 private:
  const std::shared_ptr<Session> session_;
  const std::vector<std::int64_t> shape_;
  const Stream made_on_;
  std::vector<Stream> given_to_;
  float* data_ = nullptr;
};

// What of a network a graph does, and every number that is baked into it.
using GraphKey = std::vector<std::int64_t>;

class Network {
 public:
  Network(const std::vector<Layer>& layers, Shape input, int condition, Arithmetic,
          std::shared_ptr<Session> session);
  ~Network();

  Shape input() const { return input_; }
  Shape output() const { return output_; }
  int condition() const { return condition_; }
  std::int64_t macs() const { return macs_; }  // multiplications by definition, one image
  std::int64_t weight_bytes() const { return weight_bytes_; }
  Session& session() const { return *session_; }
  const std::shared_ptr<Session>& shared_session() const { return session_; }
  bool ends_in_linear() const;

  // All of these want the session's mutex held and throw Error. `outputs`, at most output().c, limits what a
  // final linear layer computes. A batch of any size goes through in slices.

  // x (n, c, h, w) and condition (n, k) to y (n, c, h, w) or (n, outputs), all in host memory.
  void run(std::int64_t n, int outputs, const float* x, const float* condition, float* y);

  // One camera frame to y (outputs,). Returns the seconds until it was on its way to the device, and those
  // that followed.
  std::array<double, 2> encode_frame(const FramePack& frame, int outputs, float* y);

  // As frame_pack.h's unpacking: z (n, c) to rgb (n, h, w, 3) and depth (n, h, w), null for none.
  void decode_frames(std::int64_t n, const float* z, const float* condition, const InputEncoding&,
                     std::uint8_t* rgb, float* depth);

  // As run, all in device memory, in the order of `stream`; does not wait.
  void run_on_device(std::int64_t n, int outputs, const float* x, const float* condition, float* y,
                     Stream stream);

  // What each step does, and how long it takes on the input that is there: the mean of several runs in a row,
  // so that launching them does not count. n of at most slice().
  std::vector<StepReport> profile(int n, int outputs);

  int slice() const;  // images that go through at once, at most

 private:
  struct Step {
    FoldedLayer::Kind kind;
    size_t layer;
    ConvShape conv{};
    ConvTransposeShape transpose{};
    UpsampleConvShape upsample{};
    MaxPoolShape pool{};
    Shape shape{};  // the input
    Activation activation{};
    Memory weights, bias;
    std::int64_t macs = 0;
  };

  void add(const FoldedLayer&);
  void upload_weights(Step&, const FoldedLayer&, const Bytes& packed);
  std::vector<float> plain_weights(const FoldedLayer&) const;
  void check_range(const FoldedLayer&, const std::vector<float>& weights, float largest) const;

  StepReport report(const Step&) const;
  void set_batch(Step&, int n, int outputs);
  bool has_weights(const Step& s) const { return s.weights.bytes() > 0; }
  size_t workspace(const Step&) const;
  void launch(const Step&, const void* x, void* y, bool floats, Stream stream);
  template <class After>
  void launch_steps(int n, int outputs, Stream stream, After after);
  void launch_steps(int n, int outputs, Stream stream);

  void reserve(int n);  // device memory of a batch
  void stage(int n);    // and what host arrays go through
  void forget_graphs();
  void stage_frame(const FramePack&);
  // `work` on the first n images: launched the first time, a graph from then on. It needs `space` bytes of
  // workspace beside what its steps need.
  void replay(const GraphKey&, int n, int outputs, size_t space, Stream stream,
              const std::function<void(Stream)>& work);
  void make_room(size_t space);  // in the workspace
  void follow(Stream stream);    // has it wait for what another one still does here
  void upload_input(int n, bool with_condition, Stream stream);

  template <class Work>
  auto explained(const std::string& what, Work work) -> decltype(work());

  Shape input_, output_;
  int condition_;
  Arithmetic arithmetic_;
  std::shared_ptr<Session> session_;
  std::vector<Step> steps_;
  std::int64_t macs_ = 0, weight_bytes_ = 0, largest_ = 0;

  int reserved_ = 0, staged_ = 0;
  Memory input_buffer_, conditions_, output_buffer_, workspace_;
  std::array<Memory, 2> buffers_;
  Memory planes_in_, planes_out_, pinned_in_, pinned_out_;
  Memory frame_, pinned_frame_;
  std::map<GraphKey, std::shared_ptr<void>> graphs_;  // of cudaGraphExec_t
  Stream last_stream_ = nullptr;
  Stream done_ = nullptr;  // a cudaEvent_t: the end of the last run that nobody waited for
};

}  // namespace edgevae::cuda
