// The engine of network_cuda.h for Python, and tensors on the device by DLPack and __cuda_array_interface__.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>

#include "bindings.h"
#include "cuda_check.h"
#include "dlpack.h"
#include "half.h"
#include "network_cuda.h"

namespace edgevae::cuda {

Arithmetic arithmetic_of(const std::string& name) {
  if (name == "fp16") return Arithmetic::kFloat16;
  if (name == "tf32") return Arithmetic::kTf32;
  if (name == "fp32") return Arithmetic::kFloat32;
  throw error("precision is '" + name + "', wanted fp16, tf32 or fp32.");
}

namespace {

// Python counts streams as __cuda_array_interface__ does: 1 is the legacy one, which is 0, too.
Stream stream_of(std::uintptr_t number) { return number == 1 ? nullptr : reinterpret_cast<Stream>(number); }
std::uintptr_t number_of(Stream stream) {
  return stream == nullptr ? 1 : reinterpret_cast<std::uintptr_t>(stream);
}

std::string device_text(int index) { return "cuda:" + std::to_string(index); }

// A tensor on a device that somebody else owns.
struct View {
  const void* data;
  int device;
  std::vector<std::int64_t> shape;
  std::string dtype;
  bool dense;
  std::shared_ptr<void> owner;
};

bool is_dense(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides) {
  std::int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

std::string dtype_text(DLDataType t) {
  const char* const codes[] = {"int", "uint", "float"};
  std::string text = (t.code < 3 ? codes[t.code] : t.code == 4 ? "bfloat" : "type ") + std::to_string(t.bits);
  return t.lanes == 1 ? text : text + "x" + std::to_string(t.lanes);
}

View view_of_dlpack(const py::capsule& capsule) {
  if (capsule.name() == nullptr || std::string(capsule.name()) != "dltensor")
    throw error("the DLPack capsule has been taken already, wanted a fresh one.");
  auto* managed = capsule.get_pointer<DLManagedTensor>();
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  std::shared_ptr<void> owner(managed, [](void* p) {
    auto* m = static_cast<DLManagedTensor*>(p);
    if (m->deleter != nullptr) m->deleter(m);
  });
  const DLTensor& t = managed->dl_tensor;
  if (t.device.device_type != kDLCUDA && t.device.device_type != kDLCUDAManaged)
    throw error("the tensor is not on a CUDA device.");
  View v{static_cast<const char*>(t.data) + t.byte_offset,
         t.device.device_id,
         {},
         dtype_text(t.dtype),
         true,
         std::move(owner)};
  v.shape.assign(t.shape, t.shape + t.ndim);
  if (t.strides != nullptr) v.dense = is_dense(v.shape, {t.strides, t.strides + t.ndim});
  return v;
}

View view_of_interface(const py::dict& d) {
  View v{};
  v.data = reinterpret_cast<const void*>(py::cast<std::uintptr_t>(py::cast<py::tuple>(d["data"])[0]));
  v.shape = py::cast<std::vector<std::int64_t>>(d["shape"]);
  v.dtype = py::cast<std::string>(py::str(py::dtype::from_args(d["typestr"])));
  v.dense = true;
  if (d.contains("strides") && !d["strides"].is_none()) {
    auto strides = py::cast<std::vector<std::int64_t>>(d["strides"]);
    const std::int64_t size = py::dtype::from_args(d["typestr"]).itemsize();
    for (auto& s : strides) s = s % size == 0 ? s / size : -1;
    v.dense = is_dense(v.shape, strides);
  }
  cudaPointerAttributes attributes{};
  if (v.data != nullptr) {
    check(cudaPointerGetAttributes(&attributes, v.data), "cudaPointerGetAttributes");
    if (attributes.type != cudaMemoryTypeDevice) throw error("the tensor is not on a CUDA device.");
  }
  v.device = attributes.device;
  return v;
}

// A network on a device, for PyNetwork.
class CudaEngine : public Network {
 public:
  CudaEngine(const std::vector<Layer>& layers, Shape input, int condition,
             const std::shared_ptr<Session>& session, const std::string& precision)
      : Network(layers, input, condition, arithmetic_of(precision), session) {}

  std::string name() const { return "sm_" + std::to_string(session().device.compute); }
  void ready() const { session().check_process(); }
  std::unique_lock<std::mutex> lock() { return std::unique_lock(session().mutex); }

  // The input is in place since run(); larger batches are profiled on their first slice.
  std::vector<StepReport> profile(int n, int outputs, const float*) {
    return Network::profile(std::min(n, slice()), outputs);
  }
};

class PyCudaNetwork : public PyNetwork<CudaEngine> {
 public:
  using PyNetwork::PyNetwork;

  // x (N, ...) and condition (N, k) float32 on this device, in the order of the stream.
  std::shared_ptr<Array> run_on_device(const View& x, const std::optional<View>& condition,
                                       std::optional<int> outputs, std::uintptr_t stream) {
    const Shape out = network_.output();
    const int want = wanted_outputs(outputs), k = network_.condition();
    check_view(x, shape_list(network_.input()), "input");
    const std::int64_t n = x.shape[0];
    if (!condition && k != 0) throw error("the model wants a condition (N, " + std::to_string(k) + ").");
    if (condition) {
      if (k == 0) throw error("the model takes no condition.");
      check_view(*condition, {k}, "condition");
      if (condition->shape[0] != n)
        throw error("condition has " + std::to_string(condition->shape[0]) + " rows, the input " +
                    std::to_string(n) + ".");
    }
    std::vector<std::int64_t> shape{n};
    if (out.image) {
      shape.insert(shape.end(), {out.c, out.h, out.w});
    } else {
      shape.push_back(want);
    }
    network_.ready();
    Unlocked unlocked;
    const auto lock = network_.lock();
    auto y = std::make_shared<Array>(network_.shared_session(), std::move(shape), stream_of(stream));
    network_.run_on_device(n, want, static_cast<const float*>(x.data),
                           condition ? static_cast<const float*>(condition->data) : nullptr, y->data(),
                           stream_of(stream));
    return y;
  }

 private:
  void check_view(const View& v, const std::vector<int>& wanted, const std::string& what) const {
    const int here = network_.session().device.index;
    if (v.device != here) {
      throw error(what + " is on " + device_text(v.device) + ", this model on " + device_text(here) +
                  "; move one to the other.");
    }
    bool fits = v.shape.size() == wanted.size() + 1 && v.dtype == "float32";
    for (size_t i = 0; fits && i < wanted.size(); ++i) fits = v.shape[i + 1] == wanted[i];
    const auto text = [](const auto& lengths, std::string t) {
      for (const auto n : lengths) t += (t.back() == '(' ? "" : ", ") + std::to_string(n);
      return t + ")";
    };
    if (!fits)
      throw error(what + " is " + v.dtype + " " + text(v.shape, "(") + ", wanted float32 " +
                  text(wanted, "(N") + ".");
    if (!v.dense)
      throw error(what + " has gaps between its numbers or another order, wanted it dense: .contiguous().");
  }
};

// fold_convolution's step on a device. Images are addresses of device memory, as cuda_kernels.h wants it.
class PyCudaConvolution {
 public:
  PyCudaConvolution(const py::list& layers, const py::dict& tensors, const std::vector<int>& input,
                    std::shared_ptr<Session> session, const std::string& precision)
      : session_(std::move(session)), arithmetic_(arithmetic_of(precision)) {
    session_->check_process();
    const OnDevice on(*session_);
    shapes_ = fold_convolution(layers, tensors, input, [this](const FoldedLayer& step) {
      activation_ = step.activation;
      if (step.kind == FoldedLayer::Kind::kConv) {
        conv_ = conv_of(step);
        check_range(step, kLargestHalf);
        upload(step, pack_conv(conv_, step.weights, arithmetic_));
      } else {
        upsample_ =
            UpsampleConvShape{1, step.in.h, step.in.w, step.in.c, step.out.c, step.layer->padding_mode};
        check_range(step, kLargestHalf / 9);
        upload(step, pack_upsample_conv(*upsample_, step.weights, arithmetic_));
      }
    });
  }

  size_t workspace_bytes(std::int64_t n) const {
    if (upsample_) return upsample_conv_workspace(with_batch(*upsample_, n), arithmetic_, session_->device);
    return conv_workspace(with_batch(conv_, n), arithmetic_, session_->device);
  }

  // x (n, h, w, c) to y with workspace_bytes(n) of workspace, in the order of the stream.
  void run(std::int64_t n, std::uintptr_t x, std::uintptr_t y, std::uintptr_t workspace,
           std::uintptr_t stream_number) const {
    session_->check_process();
    const auto* from = reinterpret_cast<const void*>(x);
    auto *to = reinterpret_cast<void*>(y), *space = reinterpret_cast<void*>(workspace);
    const Stream stream = stream_of(stream_number);
    const Epilogue epilogue{bias_.as<float>(), activation_};
    const Unlocked unlocked;
    const OnDevice on(*session_);
    if (space != nullptr)
      check(cudaMemsetAsync(space, 0, kCounterBytes, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
    if (upsample_) {
      upsample_conv(with_batch(*upsample_, n), arithmetic_, session_->device, from, weights_.as<void>(),
                    epilogue, to, space, stream);
    } else {
      conv(with_batch(conv_, n), arithmetic_, session_->device, from, weights_.as<void>(), epilogue, to,
           space, stream);
    }
  }

 private:
  template <class AnyShape>
  AnyShape with_batch(AnyShape s, std::int64_t n) const {
    if (n > most_images(shapes_[0], shapes_[1]))
      throw error("a batch of " + std::to_string(n) + " images is too large; split it.");
    s.n = static_cast<int>(n);
    return s;
  }

  void check_range(const FoldedLayer& step, float largest) const {
    size_t count = 1;
    for (int n : step.layer->weight.shape) count *= static_cast<size_t>(n);
    const auto fits = [=](float w) { return std::abs(w) <= largest; };
    if (arithmetic_ == Arithmetic::kFloat16 && !std::all_of(step.weights, step.weights + count, fits))
      throw error("the convolution has weights beyond the range of fp16; give it float32.");
  }

  void upload(const FoldedLayer& step, const Bytes& packed) {
    try {
      weights_ = Memory(Place::kDevice, packed.size());
      bias_ = Memory(Place::kDevice, step.bias.size() * sizeof(float));
      check(cudaMemcpy(weights_.as<void>(), packed.data(), packed.size(), cudaMemcpyHostToDevice),
            "cudaMemcpy");
      check(cudaMemcpy(bias_.as<void>(), step.bias.data(), bias_.bytes(), cudaMemcpyHostToDevice),
            "cudaMemcpy");
    } catch (const Error& e) {
      throw Error("packed weights cannot be put on " + device_text(session_->device.index) + " (" + e.what() +
                      "); free memory there, and call once before a graph is captured.",
                  e.code);
    }
  }

  std::shared_ptr<Session> session_;
  Arithmetic arithmetic_;
  std::array<Shape, 2> shapes_;
  ConvShape conv_{};
  std::optional<UpsampleConvShape> upsample_;  // else it is conv_
  Activation activation_;
  Memory weights_, bias_;
};

// What DLPack needs to know of an array that it keeps alive.
struct Exported {
  DLManagedTensor managed;
  std::shared_ptr<Array> array;
  std::vector<std::int64_t> shape;
};

py::capsule dlpack_of(const std::shared_ptr<Array>& array) {
  auto exported = std::make_unique<Exported>();
  exported->array = array;
  exported->shape = array->shape();
  DLTensor& t = exported->managed.dl_tensor;
  t = {array->data(),
       {kDLCUDA, array->session().device.index},
       static_cast<int32_t>(exported->shape.size()),
       {2, 32, 1},
       exported->shape.data(),
       nullptr,
       0};
  exported->managed.manager_ctx = exported.get();
  exported->managed.deleter = [](DLManagedTensor* m) { delete static_cast<Exported*>(m->manager_ctx); };
  py::capsule capsule(&exported->managed, "dltensor", [](PyObject* c) {
    if (!PyCapsule_IsValid(c, "dltensor")) return;  // its taker deletes it
    auto* m = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(c, "dltensor"));
    m->deleter(m);
  });
  exported.release();
  return capsule;
}

py::tuple shape_of(const Array& array) { return py::tuple(py::cast(array.shape())); }

void bind_array(py::module_& m) {
  py::class_<Array, std::shared_ptr<Array>>(m, "CudaArray")
      .def(py::init([](const std::shared_ptr<Session>& session, const FloatArray& from) {
             std::vector<std::int64_t> shape(from.shape(), from.shape() + from.ndim());
             const float* numbers = from.data();
             Unlocked unlocked;
             auto array = std::make_shared<Array>(session, std::move(shape), session->stream);
             array->write(numbers);
             return array;
           }),
           py::arg("session"), py::arg("array"))
      .def_property_readonly("shape", &shape_of)
      .def_property_readonly("dtype", [](const Array&) { return py::dtype::of<float>(); })
      .def_property_readonly("device", [](const Array& a) { return device_text(a.session().device.index); })
      .def("numpy",
           [](const Array& a) {
             FloatArray copy(std::vector<py::ssize_t>(a.shape().begin(), a.shape().end()));
             float* to = copy.mutable_data();
             Unlocked unlocked;
             a.read(to);
             return copy;
           })
      .def("__dlpack_device__",
           [](const Array& a) { return py::make_tuple(int{kDLCUDA}, a.session().device.index); })
      .def(
          "__dlpack__",
          [](const std::shared_ptr<Array>& a, const py::object& stream, const py::object&,
             const py::object& device, const py::object& copied) {
            if (!device.is_none() && !device.equal(py::make_tuple(int{kDLCUDA}, a->session().device.index)))
              throw py::buffer_error("the array stays on its device; use .numpy() for one in host memory.");
            if (!copied.is_none() && py::cast<bool>(copied))
              throw py::buffer_error("the array is shared, not copied; copy what you make of it.");
            const auto number = stream.is_none() ? std::intptr_t{1} : py::cast<std::intptr_t>(stream);
            if (number != -1) a->give_to(stream_of(static_cast<std::uintptr_t>(number)));
            return dlpack_of(a);
          },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def_property_readonly("__cuda_array_interface__", [](const Array& a) {
        py::dict d;
        d["shape"] = shape_of(a);
        d["typestr"] = "<f4";
        d["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(a.data()), false);
        d["strides"] = py::none();
        d["stream"] = number_of(a.made_on());
        d["version"] = 3;
        return d;
      });
}

}  // namespace

void bind(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& e) {
      py::set_error(py::module_::import("edgevae.errors").attr("DeviceError"), e.what());
    }
  });
  m.def("cuda_devices", [] {
    py::list list;
    for (const DeviceInfo& info : devices()) {
      py::dict d;
      d["name"] = info.name;
      d["compute"] = std::to_string(info.compute / 10) + "." + std::to_string(info.compute % 10);
      d["sms"] = info.sms;
      d["memory_bytes"] = info.memory_bytes;
      list.append(d);
    }
    return list;
  });
  py::class_<Session, std::shared_ptr<Session>>(m, "CudaSession")
      .def(py::init<int>(), py::arg("index"))
      .def_property_readonly("index", [](const Session& s) { return s.device.index; });
  py::class_<View>(m, "CudaView")
      .def_static("from_dlpack", &view_of_dlpack, py::arg("capsule"))
      .def_static("from_interface", &view_of_interface, py::arg("interface"))
      .def_readonly("shape", &View::shape)
      .def_readonly("device", &View::device);
  bind_array(m);
  py::class_<PyCudaNetwork> network(m, "CudaNetwork");
  network
      .def(py::init<const py::list&, const py::dict&, const std::vector<int>&, int,
                    const std::shared_ptr<Session>&, const std::string&>(),
           py::arg("layers"), py::arg("tensors"), py::arg("input_shape"), py::arg("condition"),
           py::arg("session").none(false), py::arg("precision") = "fp16")
      .def("run_on_device", &PyCudaNetwork::run_on_device, py::arg("x"), py::arg("condition") = py::none(),
           py::arg("outputs") = py::none(), py::arg("stream") = 1);
  bind_methods(network);
  bind_kernels(m);
  py::class_<PyCudaConvolution>(m, "CudaConvolution")
      .def(py::init<const py::list&, const py::dict&, const std::vector<int>&, std::shared_ptr<Session>,
                    const std::string&>(),
           py::arg("layers"), py::arg("tensors"), py::arg("input_shape"), py::arg("session").none(false),
           py::arg("precision"))
      .def("workspace_bytes", &PyCudaConvolution::workspace_bytes, py::arg("n"))
      .def("run", &PyCudaConvolution::run, py::arg("n"), py::arg("x"), py::arg("y"), py::arg("workspace"),
           py::arg("stream"));
#if defined(EDGEVAE_CUDA_EMULATED)
  m.attr("cuda_build") = "emulated";
  m.def(
      "fail_cuda_call",
      [](const std::string& name, int nth, int code, bool forever) {
        cuda_emulator::fail_call(name.c_str(), nth, static_cast<cudaError_t>(code), forever);
      },
      py::arg("name"), py::arg("nth"), py::arg("code"), py::arg("forever") = false);
  m.def("heal_cuda_calls", &cuda_emulator::succeed_again);
#else
  m.attr("cuda_build") =
      std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
#endif
}

}  // namespace edgevae::cuda
