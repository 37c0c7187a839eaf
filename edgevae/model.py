"""A loaded model: frames to latents and latents to frames on the native engine."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from . import _core, known, model_file
from .device_tensors import DeviceTensor, place_of, stream_of, view_of
from .engines import CpuEngine, CudaEngine, Engine, Tensors, check_device
from .errors import EdgevaeError, FrameError, LatentError, ModelFileError
from .frame import Frame
from .preprocess import FloatArray, InputSpec, checked_arrays, pack
from .zoo import path_of

_CALIBRATE = "wanted a file that 'python -m training calibrate MODEL --sets CONFIG -o FILE' wrote."


class Encoded(NamedTuple):
    """One frame's latent, and what it took."""

    latent: FloatArray
    preprocess_ms: float
    encode_ms: float


class Decoded(NamedTuple):
    """Colour uint8 (h, w, 3) and depth float32 metres (h, w); a batch has a leading N.

    ``depth`` is relative, in [0, 1], for a model with "minmax" depth, and None for one without depth.
    """

    rgb: npt.NDArray[np.uint8]
    depth: FloatArray | None


@dataclass(frozen=True)
class ModelSpec:
    """What a model file says of itself (docs/model-file.md), and what follows from its layers.

    ``macs_encode`` and ``macs_decode`` count the multiplications of one image by the layers' definition;
    the engine needs fewer.
    """

    name: str
    input: InputSpec
    latent_dim: int
    condition_dim: int
    posterior: dict[str, Any] | None
    precision: str
    parameters: int
    macs_encode: int
    macs_decode: int
    path: str
    sha256: str
    provenance: dict[str, Any] = field(repr=False)
    encoder: list[dict[str, Any]] = field(repr=False)
    decoder: list[dict[str, Any]] = field(repr=False)


class Model:
    """An encoder and a decoder on an engine, ready to run. Made by :func:`load`.

    Safe to share between threads: calls on one model queue up. Memory is fixed after the first call of a
    batch size.

    Attributes:
        spec: what the model file says of itself.
        errors, seen: what it knows of its limits, behind :meth:`depth_bounds` and :meth:`novelty`; None where
            the file does not say.
    """

    def __init__(
        self, document: dict[str, Any], tensors: Tensors, path: str, sha256: str, engine: Engine
    ) -> None:
        size = InputSpec.from_document(document)
        self.engine = engine
        condition, latent = document["condition_dim"], document["latent_dim"]
        image = (size.channels, size.height, size.width)
        self._encoder = engine.network(document["encoder"], tensors, image, condition)
        self._decoder = engine.network(document["decoder"], tensors, (latent,), condition)
        encoder, decoder = self._encoder.properties(), self._decoder.properties()
        self.chosen_because: str | None = None  # of device="auto": what was compared, and how long it took
        self._native_input = size.native()
        self.errors, self.seen = known.of_document(document, tensors)
        layered = set(tensors) - set(model_file.known_tensors(document))
        self.spec = ModelSpec(
            name=document["name"],
            input=size,
            latent_dim=document["latent_dim"],
            condition_dim=condition,
            posterior=document["posterior"],
            precision=document["precision"],
            parameters=sum(int(tensors[name].size) for name in layered),
            macs_encode=encoder["macs"],
            macs_decode=decoder["macs"],
            path=path,
            sha256=sha256,
            provenance=document.get("provenance", {}),
            encoder=document["encoder"],
            decoder=document["decoder"],
        )

    def __repr__(self) -> str:
        s = self.spec
        return (
            f"<edgevae.Model {s.name!r}: {s.input.channels}x{s.input.height}x{s.input.width} -> "
            f"{s.latent_dim}, {self.engine}>"
        )

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:0"."""
        return self.engine.device

    @property
    def isa(self) -> str:
        """The kernels: an instruction set such as "avx2", or an architecture such as "sm_90"."""
        return self.engine.isa

    @property
    def threads(self) -> int:
        """Of the processor, the calling one included."""
        return self.engine.threads

    def encode(
        self,
        rgb: npt.NDArray[np.uint8],
        depth: npt.NDArray[Any] | None = None,
        *,
        condition: npt.ArrayLike | None = None,
        depth_scale: float = 0.001,
    ) -> FloatArray:
        """The posterior mean of one frame or a batch.

        Args:
            rgb: uint8 (H, W, 3) or (N, H, W, 3), R G B, of any size.
            depth: uint16 in units of ``depth_scale`` metres, or float32 metres, (H, W) or (N, H, W),
                registered to colour; 0, NaN and infinity mean no reading. None: no depth at all.
            condition: of a conditional model, (k,) for all frames or (N, k), one a frame; a class is one-hot.
            depth_scale: metres per unit of a uint16 depth (millimetres unless told otherwise).

        Returns:
            float32 (latent_dim,) or (N, latent_dim).

        Raises:
            FrameError: wrong dtype, shape or size.
            EdgevaeError: no condition where the model wants one, another shape, or one it does not take.
        """
        return self._heads(rgb, depth, condition, depth_scale, self.spec.latent_dim)

    def posterior(
        self,
        rgb: npt.NDArray[np.uint8],
        depth: npt.NDArray[Any] | None = None,
        *,
        condition: npt.ArrayLike | None = None,
        depth_scale: float = 0.001,
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the posterior, each shaped as :meth:`encode` returns.

        Raises:
            FrameError: wrong dtype, shape or size.
            EdgevaeError: the model is a plain autoencoder and has no posterior, or as :meth:`encode`.
        """
        self._check_posterior()
        return self._split(self._heads(rgb, depth, condition, depth_scale, 2 * self.spec.latent_dim))

    def encode_frame(self, frame: Frame) -> Encoded:
        """The posterior mean of a :class:`Frame`, with the time each stage took.

        Raises:
            FrameError: the frame's arrays were replaced by wrong ones after it was made.
            EdgevaeError: the model wants a condition.
        """
        self._conditions(None, 1)
        rgb, depth, scale = checked_arrays(frame.rgb, frame.depth, frame.depth_scale)
        z, packing_s, running_s = self._encoder.encode_frame(
            rgb, depth, scale, False, self._native_input, self.spec.latent_dim
        )
        return Encoded(z, packing_s * 1e3, running_s * 1e3)

    def decode(self, z: npt.NDArray[np.float32], *, condition: npt.ArrayLike | None = None) -> Decoded:
        """Frames from latents (latent_dim,) or (N, latent_dim), at the network's size.

        Args:
            z: the latents.
            condition: of a conditional model, (k,) for all latents or (N, k), one a latent.

        Raises:
            LatentError: wrong length, or numbers that are not finite.
            EdgevaeError: no condition where the model wants one, another shape, or one it does not take.
        """
        z = self._check_latent(z)
        if not np.isfinite(z).all():
            raise LatentError("the latent holds NaN or infinity; nothing can be decoded from it.")
        batch = z if z.ndim == 2 else z[None]
        conditions = self._conditions(condition, len(batch))
        try:
            rgb, depth = self._decoder.decode_frames(batch, conditions, self._native_input)
        except ValueError as error:
            raise LatentError(str(error)) from None
        if z.ndim == 2:
            return Decoded(rgb, depth)
        return Decoded(rgb[0], None if depth is None else depth[0])

    def depth_bounds(
        self, depth_m: npt.ArrayLike, *, coverage: float = 0.9, given: npt.ArrayLike = True
    ) -> tuple[FloatArray, FloatArray]:
        """Between which distances things are that :meth:`decode` put at ``depth_m``.

        Of frames held out from training, ``coverage`` of all pixels were in between. What the file knows is
        one width for all depth that was given and one for all that was not, in the encoding of the model.

        Args:
            depth_m: decoded metres, any shape.
            coverage: share of the pixels, above 0 and below 1.
            given: whether the encoder had a reading there; one truth value, or one a pixel.

        Returns:
            The nearest and the farthest distance in metres, float32 of the shape of ``depth_m``.

        Raises:
            EdgevaeError: the file does not know its errors, its depth is not metric, or ``coverage`` is none.
        """
        depth = self.spec.input.depth
        if depth is None or not depth.metric:
            raise EdgevaeError(f"{self.spec.name} decodes no metres, so there are no bounds in metres.")
        if self.errors is None:
            raise EdgevaeError(f"{self.spec.path} does not know its errors; {_CALIBRATE}")
        if not 0 < coverage < 1:
            raise EdgevaeError(f"coverage is {coverage!r}, wanted a share above 0 and below 1, such as 0.9.")
        return self.errors.depth_bounds(depth_m, depth, coverage, given)

    def novelty(
        self,
        rgb: npt.NDArray[np.uint8],
        depth: npt.NDArray[Any] | None = None,
        *,
        condition: npt.ArrayLike | None = None,
        depth_scale: float = 0.001,
    ) -> FloatArray:
        """How new a frame is to this model: 0 like what it was trained on, 100 like nothing of it.

        A percentile: of other frames of the recordings that the model was trained on, so many in 100 were
        nearer to a training frame. Scenes it has never seen are mostly above 95. Arguments are those of
        :meth:`encode`.

        Returns:
            float32 () for one frame, (N,) for a batch.

        Raises:
            EdgevaeError: the file does not know what it was trained on, or as :meth:`encode`.
        """
        if self.seen is None:
            raise EdgevaeError(f"{self.spec.path} does not know what is new to it; {_CALIBRATE}")
        z = self.encode(rgb, depth, condition=condition, depth_scale=depth_scale)
        batch = np.atleast_2d(z)
        seen = np.zeros(len(batch), np.bool_)
        if depth is not None and self.spec.input.depth is not None:
            maps = depth.reshape(len(batch), -1)
            seen = np.asarray((np.isfinite(maps) & (maps > 0)).any(axis=1))
        return self.seen.scores(batch, seen).reshape(z.shape[:-1])

    @overload
    def encode_tensor(
        self, x: DeviceTensor, condition: DeviceTensor | None = None, *, stream: object = None
    ) -> _core.CudaArray: ...
    @overload
    def encode_tensor(
        self, x: npt.NDArray[np.float32], condition: npt.ArrayLike | None = None
    ) -> FloatArray: ...
    def encode_tensor(self, x: Any, condition: Any = None, *, stream: object = None) -> Any:
        """The posterior mean of (N, C, h, w) in the network's range: (N, latent_dim).

        A tensor on the model's device is read in place, and so is the condition beside it, (N, k); what
        comes back is on that device too, has DLPack and ``__cuda_array_interface__``, and may not be there
        yet: work is done in the order of ``stream`` (:func:`edgevae.device_tensors.stream_of`). Memory is
        freed in that order, too, so the stream has to outlive the array. ``.numpy()`` waits and copies.

        Raises:
            FrameError: another shape than the network's, another device, dtype or order of numbers.
            DeviceError: the device failed, or has no memory left.
        """
        return self.encode_heads(x, condition, self.spec.latent_dim, stream=stream)

    def posterior_tensor(
        self, x: npt.NDArray[np.float32], condition: npt.ArrayLike | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation (N, latent_dim) of (N, C, h, w) in the network's range.

        Raises:
            FrameError: another shape than the network's.
            EdgevaeError: as :meth:`posterior`.
        """
        self._check_posterior()
        return self._split(self.encode_heads(x, condition))

    def encode_heads(
        self, x: Any, condition: Any = None, outputs: int | None = None, *, stream: object = None
    ) -> Any:
        """What the encoder's last layer gives, means then raw scales; the first ``outputs`` of them.

        Raises:
            FrameError: another shape than the network's, or no numbers.
            EdgevaeError: the condition, as :meth:`encode`.
        """
        try:
            if place_of(x) != "cpu":
                return self._on_device(self._encoder, x, condition, outputs, stream)
            array = np.asarray(x)
            if array.dtype.kind in "fiu":
                conditions = self._conditions(condition, len(np.atleast_1d(array)))
                return self._encoder.run(array.astype(np.float32, copy=False), conditions, outputs)
            got = f"{array.dtype} {array.shape}"
        except EdgevaeError:  # is a ValueError, too
            raise
        except ValueError as error:
            raise FrameError(str(error)) from None
        size = self.spec.input
        raise FrameError(f"input is {got}, wanted float32 (N, {size.channels}, {size.height}, {size.width}).")

    @overload
    def decode_tensor(
        self, z: DeviceTensor, condition: DeviceTensor | None = None, *, stream: object = None
    ) -> _core.CudaArray: ...
    @overload
    def decode_tensor(
        self, z: npt.NDArray[np.float32], condition: npt.ArrayLike | None = None
    ) -> FloatArray: ...
    def decode_tensor(self, z: Any, condition: Any = None, *, stream: object = None) -> Any:
        """(N, latent_dim) to (N, C, h, w) in the network's range; on the device as :meth:`encode_tensor`.

        Raises:
            LatentError: another shape than (N, latent_dim), another device, dtype or order of numbers.
            EdgevaeError: the condition, as :meth:`decode`.
            DeviceError: the device failed, or has no memory left.
        """
        try:
            if place_of(z) != "cpu":
                return self._on_device(self._decoder, z, condition, None, stream)
            z = np.atleast_2d(self._check_latent(z))
            return self._decoder.run(z, self._conditions(condition, len(z)))
        except EdgevaeError:
            raise
        except ValueError as error:
            raise LatentError(str(error)) from None

    def to_device(self, array: npt.ArrayLike) -> _core.CudaArray:
        """A float32 copy of an array on the model's device, for the methods that take tensors.

        Raises:
            EdgevaeError: the model runs on the processor.
            DeviceError: the device failed, or has no memory left.
        """
        if not isinstance(self.engine, CudaEngine):
            raise EdgevaeError("this model runs on the processor; load it with device='cuda'.")
        return _core.CudaArray(self.engine.session, np.asarray(array, np.float32))

    def _on_device(
        self, network: Any, x: Any, condition: Any, outputs: int | None, stream: object
    ) -> _core.CudaArray:
        if self.device == "cpu":
            raise ValueError(
                f"the tensor is on {place_of(x)}, this model runs on the processor; move the tensor with "
                ".cpu(), or load the model with device='cuda'."
            )
        if condition is None:
            self._conditions(None, 1)
        elif place_of(condition) == "cpu":
            raise EdgevaeError(
                f"the condition is in host memory, the tensor on {place_of(x)}; wanted both there."
            )
        number = stream_of(x, stream)
        view = view_of(x, number)
        conditions = None if condition is None else view_of(condition, number)
        y: _core.CudaArray = network.run_on_device(view, conditions, outputs, number)
        return y

    def pack(
        self, rgb: npt.NDArray[np.uint8], depth: npt.NDArray[Any] | None = None, *, depth_scale: float = 0.001
    ) -> FloatArray:
        """Preprocessing alone: float32 (C, h, w) as :meth:`encode_tensor` takes it."""
        return pack(rgb, depth, self.spec.input, depth_scale=depth_scale)

    def _heads(
        self,
        rgb: npt.NDArray[np.uint8],
        depth: npt.NDArray[Any] | None,
        condition: npt.ArrayLike | None,
        depth_scale: float,
        outputs: int,
    ) -> FloatArray:
        if isinstance(rgb, np.ndarray) and rgb.ndim == 4:
            if depth is not None and (not isinstance(depth, np.ndarray) or len(depth) != len(rgb)):
                got = len(depth) if isinstance(depth, np.ndarray) else type(depth).__name__
                raise FrameError(f"{len(rgb)} colour images came with depth for {got}; wanted as many.")
            conditions = self._conditions(condition, len(rgb))
            if len(rgb) == 0:
                return np.zeros((0, outputs), np.float32)
            packed = [
                self.pack(image, None if depth is None else depth[i], depth_scale=depth_scale)
                for i, image in enumerate(rgb)
            ]
            return self._encoder.run(np.stack(packed), conditions, outputs)
        conditions = self._conditions(condition, 1)
        rgb, depth, depth_scale = checked_arrays(rgb, depth, depth_scale)
        head: FloatArray
        if conditions is None:
            head, _, _ = self._encoder.encode_frame(
                rgb, depth, depth_scale, False, self._native_input, outputs
            )
        else:
            x = self.pack(rgb, depth, depth_scale=depth_scale)
            head = self._encoder.run(x[None], conditions, outputs)[0]
        return head

    def _check_posterior(self) -> None:
        if self.spec.posterior is None:
            raise EdgevaeError(f"{self.spec.name} has no posterior (a plain autoencoder); use encode().")

    def _split(self, heads: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of what the encoder's last layer gives."""
        assert self.spec.posterior is not None
        mean, raw = np.split(heads, 2, axis=-1)
        epsilon = self.spec.posterior["epsilon"]
        wide = raw.astype(np.float64)
        std = np.logaddexp(0, wide) if self.spec.posterior["scale"] == "softplus" else np.exp(wide / 2)
        return np.ascontiguousarray(mean), (std + epsilon).astype(np.float32)

    def _conditions(self, condition: npt.ArrayLike | None, count: int) -> FloatArray | None:
        """The condition of each of ``count`` rows, (count, k); None for a model without."""
        name, wanted = self.spec.name, self.spec.condition_dim
        if condition is None:
            if wanted == 0:
                return None
            raise EdgevaeError(
                f"{name} wants a condition of {wanted} numbers, which neither frames nor latents carry; "
                "give it to encode, posterior or decode in Python: condition=..."
            )
        if wanted == 0:
            raise EdgevaeError(f"{name} takes no condition; wanted condition=None.")
        if place_of(condition) != "cpu":
            raise EdgevaeError(
                f"the condition is on {place_of(condition)}, the rest in host memory; wanted both there."
            )
        try:
            array = np.asarray(condition)
            got = f"{array.dtype} {array.shape}"
        except ValueError:
            array, got = np.asarray(None), "rows of different lengths"
        if array.dtype.kind not in "fiub" or array.shape not in ((wanted,), (count, wanted)):
            raise EdgevaeError(
                f"condition is {got}, wanted float32 ({wanted},) or ({count}, {wanted}) for {name}."
            )
        if not np.isfinite(array).all():
            raise EdgevaeError("the condition holds NaN or infinity, wanted finite numbers.")
        return np.ascontiguousarray(np.broadcast_to(array, (count, wanted)), np.float32)

    def _check_latent(self, z: object) -> FloatArray:
        wanted = self.spec.latent_dim
        if place_of(z) != "cpu":
            raise LatentError(
                f"the latent is on {place_of(z)}, wanted it in host memory; move it, or use decode_tensor()."
            )
        array = np.asarray(z)
        if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or array.shape[-1] != wanted:
            raise LatentError(
                f"latent is {array.dtype} {array.shape}, "
                f"wanted float32 ({wanted},) or (N, {wanted}) for {self.spec.name}."
            )
        return np.ascontiguousarray(array, np.float32)


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    isa: str = "",
) -> Model:
    """Load a model file and make it ready to run.

    Args:
        path: a model file, or the name of a model in the package: "full" or "edge"; None for "full".
        device: "cpu"; "cuda" or "cuda:1" for an NVIDIA GPU; "auto" for the first GPU if it works and encodes
            faster than the processor, which is measured once a process for each model file and setting
            (a dozen encodes and the time CUDA takes to start; ``model.chosen_because`` says how long it was).
            Whoever states threads or an instruction set means the processor.
        threads: of the processor's engine, the calling one included; None for one a core, at most 8.
        precision: on the processor, how weights are kept in memory: None as fp16 where that changes
            nothing (a file stored as fp16), "fp32" never, "fp16" always: half the memory to read, latents
            within cosine 0.99999; arithmetic is float32. On a GPU, what is multiplied: None and "fp16"
            half-precision numbers on tensor cores, "tf32", "fp32"; sums are float32.
        isa: instruction set; empty for the environment variable EDGEVAE_ISA, or the machine's best.

    Raises:
        ModelFileError: the file cannot be read or contradicts itself.
        DeviceError: no such device, no driver for it, no memory left on it, or no CUDA in this build.
        EdgevaeError: an argument has a value this version does not know.
    """
    check_device(device)
    path = path_of(path)
    engine: Engine
    if device.startswith("cuda"):
        engine = CudaEngine(device, precision)
        return _model(path, engine)
    engine = CpuEngine(threads, isa, precision)
    if device == "cpu" or not _core.cuda_build or threads is not None or isa:
        return _model(path, engine)
    return _faster(path, engine, precision)


_FASTER: dict[tuple[object, ...], tuple[str, str]] = {}  # the device that won, and the story
_COMPARED_CALLS = 5


def _model(path: Path, engine: Engine) -> Model:
    document, tensors, sha256 = model_file.read(path)
    try:
        return Model(document, tensors, str(path), sha256, engine)
    except EdgevaeError:
        raise
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from None


def _faster(path: Path, processor: CpuEngine, precision: str | None) -> Model:
    """The model on the first GPU, if it works and is faster there."""
    began_s = time.perf_counter()
    model = _model(path, processor)
    key = (model.spec.sha256, str(processor), precision)
    if key not in _FASTER:
        try:
            rival = _model(path, CudaEngine("cuda", precision))
            cpu_ms, cuda_ms = _encode_ms(model), _encode_ms(rival)
            device = rival.device if cuda_ms < cpu_ms else "cpu"
            story = f"{rival.device} encodes in {cuda_ms:.3f} ms, cpu in {cpu_ms:.3f} ms"
        except EdgevaeError as error:
            device, story = "cpu", str(error)
        _FASTER[key] = device, f"{story.rstrip('.')}; comparing took {time.perf_counter() - began_s:.2f} s"
    device, story = _FASTER[key]
    if device != "cpu":
        model = _model(path, CudaEngine(device, precision))
    model.chosen_because = story
    return model


def _encode_ms(model: Model) -> float:
    spec = model.spec
    x = np.zeros((1, spec.input.channels, spec.input.height, spec.input.width), np.float32)
    condition = np.zeros(spec.condition_dim, np.float32) if spec.condition_dim else None
    times = []
    for _ in range(2 + _COMPARED_CALLS):  # the first plans memory, and the second has all of it at hand
        began_s = time.perf_counter()
        model.encode_tensor(x, condition)
        times.append(time.perf_counter() - began_s)
    return 1e3 * statistics.median(times[2:])
