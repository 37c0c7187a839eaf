"""A model file in floating point to one with int8 layers, kept only if it is as good.

``quantize_layers.py`` chooses the numbers on three of four frames. The written file is loaded, run beside the
float model on all of them, and gets its name only within ``MIN_COSINE`` and ``MAX_LOSS_DB``. Where it loses
more, the inputs of the layer that loses most stay floating-point numbers, and then those of the next one. No
PyTorch: this runs on the edge machine, on what its own camera sees.
"""

from __future__ import annotations

import copy
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from . import _core, model_file
from .cards import unmeasured
from .errors import FrameError, ModelFileError, QuantizeError
from .files import replacing
from .frame import Frame
from .model import Model, load
from .preprocess import FloatArray, InputSpec, pack_with_mask, withhold
from .quantize_layers import RoundedChain, quantize_chain, steps
from .sources.base import Source
from .words import counted
from .zoo import path_of

FRAMES = 64  # taken from a source unless told otherwise
FEWEST = 8  # six to calibrate on, two held out
HELD_OUT = 4  # every fourth frame is only measured on
SPACING = 10  # of the frames from a source of unknown length: neighbours look alike
MOST_CORRUPT = 100  # frames that a source may fail to give

MIN_COSINE = 0.999  # of every frame's latent with the float model's
MAX_LOSS_DB = 0.1  # PSNR that pictures may lose, mean over the frames

CALIBRATION_BYTES = 256 << 20  # of the largest layer's output; of larger pictures fewer are calibrated on

# Mean square error in [-1, 1] of showing a picture in 8 bits; no decoded picture counts as better than that.
SHOWN = (2 / 255) ** 2 / 12


@dataclass(frozen=True)
class Loss:
    """How far the int8 model is from the float model on some frames.

    Attributes:
        frames: how many.
        latent_cosine_min, latent_cosine_mean: between the latents of the two.
        decode_db: PSNR that the int8 decoder loses on the float model's latents, mean over the frames.
        round_trip_db: PSNR that the int8 encoder and decoder lose together, mean over the frames.
    """

    frames: int
    latent_cosine_min: float
    latent_cosine_mean: float
    decode_db: float
    round_trip_db: float

    def __str__(self) -> str:
        return (
            f"latent cosine at least {self.latent_cosine_min:.5f}, mean {self.latent_cosine_mean:.5f}; "
            f"PSNR lost {self.decode_db:.3f} dB decoding, {self.round_trip_db:.3f} dB in a round trip"
        )


@dataclass(frozen=True)
class QuantizeReport:
    """What was written, and what it costs.

    Attributes:
        path: the int8 file.
        bytes, source_bytes: its size, and that of the file it was made from.
        calibrated: the loss on the frames that its numbers were chosen on.
        held_out: the loss on the others.
        float_inputs: layers that would have lost too much on integers: "encoder[3]".
    """

    path: str
    bytes: int
    source_bytes: int
    calibrated: Loss
    held_out: Loss
    float_inputs: list[str]

    def __str__(self) -> str:
        left = f"\n{', '.join(self.float_inputs)} on floating-point inputs" if self.float_inputs else ""
        return (
            f"{self.path}: {self.bytes / 1e6:.1f} MB, made from {self.source_bytes / 1e6:.1f} MB\n"
            f"{self.held_out.frames} frames held out: {self.held_out}\n"
            f"{self.calibrated.frames} frames calibrated on: {self.calibrated}{left}"
        )


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    calibrate: str | Sequence[str],
    *,
    frames: int = FRAMES,
    depth: str | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> QuantizeReport:
    """What ``edgevae quantize`` does: :func:`quantize_file` on frames spread over a source, or over several.

    Args:
        calibrate, depth: a source of frames, as ``edgevae.open_source`` takes them, or more of them.
        frames: how many to take in all, of each source the same number.

    Other arguments and errors are those of :func:`quantize_file`; a source may raise SourceError.
    """
    from .sources import open_source

    uris = [calibrate] if isinstance(calibrate, str) else list(calibrate)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_source(uri, depth=depth)) for uri in uris]
        # What stands between // and @ is a password.
        named = ", ".join(re.sub(r"//[^/@]*@", "//", uri) for uri in uris)
        each = -(-frames // len(uris))
        taken = itertools.chain.from_iterable(spread(one, each) for one in opened)
        return quantize_file(source, target, taken, calibration=named, threads=threads, quiet=quiet)


def quantize_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    frames: Iterable[Frame],
    *,
    calibration: str = "frames of the caller",
    threads: int | None = None,
    quiet: bool = True,
) -> QuantizeReport:
    """Write ``source`` as an int8 model file, unless that loses more than ``MIN_COSINE`` and ``MAX_LOSS_DB``.

    Args:
        source: a model file stored as fp32 or fp16.
        target: the file to write; one that exists is replaced.
        frames: at least ``FEWEST`` of the scenes that the model will see; every fourth is held out.
        calibration: what the frames are, for the provenance.
        threads: of the engine, as ``edgevae.load`` takes them.
        quiet: draw no progress bar.

    Raises:
        ModelFileError: ``source`` cannot be read, or ``target`` cannot be written.
        FrameError: a frame has the wrong dtype, shape or size.
        QuantizeError: the model has nothing to quantize, the frames are too few, or the loss is too large;
            nothing is written.
    """
    source, target = path_of(source), Path(target)
    document, tensors, digest = model_file.read(source)
    _check_model(source, document)
    _check_target(source, target)
    exact = load(source, device="cpu", threads=threads, precision="fp32")
    x, valid = _packed(frames, exact.spec.input, calibration)
    held_out = np.arange(len(x)) % HELD_OUT == HELD_OUT - 1

    kept = {name: tensors[name] for name in model_file.known_tensors(document)}
    chains = _chains(document, vary(x[~held_out], exact.spec.input), tensors, exact)
    float_inputs: dict[str, list[int]] = {chain: [] for chain in chains}
    rounded = {
        chain: _rounded(chain, document, tensors, chains, float_inputs, exact, quiet) for chain in chains
    }
    try:
        with replacing(target) as temporary:
            while True:
                made = _document(document, rounded)
                made["provenance"]["quantized"] = {
                    "from_sha256": digest,
                    "calibration": calibration,
                    "frames": int((~held_out).sum()),
                    "frames_held_out": int(held_out.sum()),
                    "float_inputs": _named(float_inputs),
                }
                named = kept | {name: t for chain in rounded.values() for name, t in chain.tensors.items()}
                _write(temporary, target, made, named)
                model = load(temporary, device="cpu", threads=threads)
                losses = [_loss(exact, model, x[some], valid[some]) for some in (~held_out, held_out)]
                chain = _blamed(losses)
                if chain is None or not rounded[chain].turns:
                    break
                turns = rounded[chain].turns
                float_inputs[chain].append(max(turns, key=lambda index: turns[index]))
                rounded[chain] = _rounded(chain, document, tensors, chains, float_inputs, exact, quiet)
            for loss, frames_are in zip(
                losses, ("it was calibrated on", "held out of calibration"), strict=True
            ):
                _check_loss(loss, frames_are)
            figures = {f"int8_{name}": value for name, value in asdict(losses[1]).items() if name != "frames"}
            made["provenance"].setdefault("metrics", {}).update(figures)
            _write(temporary, target, made, named)
    except OSError as error:
        raise ModelFileError(f"{target} cannot be written: {error.strerror or error}.") from error
    size, source_size = target.stat().st_size, source.stat().st_size
    return QuantizeReport(str(target), size, source_size, losses[0], losses[1], _named(float_inputs))


def spread(source: Source, count: int) -> Iterator[Frame]:
    """``count`` frames from all over a source, or as many as it has; corrupt ones are passed over.

    Of a source without an end every ``SPACING``-th is taken.

    Raises:
        SourceError: nothing more can be read.
        FrameError: more than ``MOST_CORRUPT`` frames are unusable.
    """
    spacing = SPACING if source.length is None else max(1, source.length // count)
    taken = corrupt = 0
    for number in itertools.count():
        try:
            frame = source.read()
        except FrameError:
            corrupt += 1
            if corrupt > MOST_CORRUPT:
                raise
            continue
        if frame is None or taken == count:
            return
        if (number - corrupt) % spacing == 0:
            taken += 1
            yield frame


def vary(x: FloatArray, spec: InputSpec) -> FloatArray:
    """Packed frames (N, C, h, w), and as many more that reach further than the scene at hand: (2 N, C, h, w).

    Ranges are chosen on both, as the model will see other light, other colours and missing depth.
    """
    varied = x.copy()
    colors = min(spec.channels, 3)
    varied[0::3, :colors] *= -1  # the negative
    if spec.depth is not None:
        varied[1::3] = withhold(varied[1::3], np.ones_like(varied[1::3, 3], np.bool_), spec)
    varied[1::3, :colors] = varied[1::3, np.roll(np.arange(colors), 1)]
    varied[2::3] = varied[2::3, :, ::-1]  # upside down, in turn at dusk and in glaring light
    for start, gain in ((2, 0.4), (5, 2.5)):
        varied[start::6, :colors] = np.clip((varied[start::6, :colors] + 1) * np.float32(gain) - 1, -1, 1)
    return np.concatenate([x, varied])


# --- checks before any work --------------------------------------------------------------------


def _check_model(path: Path, document: Mapping[str, Any]) -> None:
    if document["precision"] == "int8":
        raise QuantizeError(f"{path} is an int8 file, wanted the fp32 or fp16 file that it was made from.")
    if document["condition_dim"]:
        raise QuantizeError(
            f"{path} takes a condition of {document['condition_dim']} numbers, which frames do not carry; "
            "wanted a model without."
        )
    if not any("weight" in layer for chain in ("encoder", "decoder") for layer in document[chain]):
        raise QuantizeError(f"{path} has no layer with weights, so there is nothing to quantize.")


def _check_target(source: Path, target: Path) -> None:
    if target.is_dir():
        raise ModelFileError(f"{target} is a folder, wanted the name of the file to write.")
    if not os.access(target.parent, os.W_OK):
        raise ModelFileError(f"{target.parent} is not a folder that can be written, wanted an existing one.")
    if target.exists() and os.path.samefile(source, target):
        raise QuantizeError(f"{target} is the float model itself, wanted another name for the int8 file.")


def _packed(
    frames: Iterable[Frame], spec: InputSpec, calibration: str
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Network inputs (N, C, h, w), and which of their numbers count: all but depth without reading."""
    packed, valid = [], []
    for frame in frames:
        x, reading = pack_with_mask(frame.rgb, frame.depth, spec, depth_scale=frame.depth_scale)
        means = np.ones(x.shape, np.bool_)
        if spec.channels == 4:
            means[3] = reading
        packed.append(x)
        valid.append(means)
    if len(packed) < FEWEST:
        raise QuantizeError(
            f"{calibration}: {counted(len(packed), 'frame')}, wanted at least {FEWEST} to calibrate and "
            f"measure on; {FRAMES} or more give better ranges."
        )
    return np.stack(packed), np.stack(valid)


# --- the work ----------------------------------------------------------------------------------


def _chains(
    document: Mapping[str, Any], x: FloatArray, tensors: Mapping[str, FloatArray], exact: Model
) -> dict[str, FloatArray]:
    """What encoder and decoder are calibrated on, of ``x`` (N, C, h, w)."""
    size = exact.spec.input
    starts = {"encoder": (size.channels, size.height, size.width), "decoder": (exact.spec.latent_dim,)}
    largest = max(
        int(np.prod(shape))
        for chain, start in starts.items()
        for shape in (start, *model_file.layer_shapes(document[chain], tensors, start, 0))
    )
    count = max(4, CALIBRATION_BYTES // (4 * largest))
    x = x[:: -(-len(x) // count)]
    return {"encoder": x, "decoder": exact.encode_tensor(x)}


def _rounded(
    chain: str,
    document: Mapping[str, Any],
    tensors: Mapping[str, FloatArray],
    chains: Mapping[str, FloatArray],
    float_inputs: Mapping[str, Sequence[int]],
    exact: Model,
    quiet: bool,
) -> RoundedChain:
    """One of the int8 model's chains."""
    layers = document[chain]
    hidden = quiet or not sys.stdout.isatty()
    with Progress(console=Console(), transient=True, disable=hidden) as bar:
        task = bar.add_task(f"quantizing the {chain}", total=steps(layers))
        return quantize_chain(
            chain,
            layers,
            tensors,
            chains[chain],
            _core.Pool(exact.threads),
            lambda: bar.advance(task),
            outputs=exact.spec.latent_dim if chain == "encoder" else None,
            float_inputs=float_inputs[chain],
        )


def _document(document: Mapping[str, Any], rounded: Mapping[str, RoundedChain]) -> dict[str, Any]:
    """That of the int8 model."""
    made = {**copy.deepcopy(dict(document)), "precision": "int8"}
    made |= {chain: found.layers for chain, found in rounded.items()}
    made["provenance"] = unmeasured(made["provenance"])
    return made


def _named(layers: Mapping[str, Sequence[int]]) -> list[str]:
    return [f"{chain}[{index}]" for chain, indices in layers.items() for index in sorted(indices)]


def _blamed(losses: Sequence[Loss]) -> str | None:
    """Which chain loses too much; None if neither does."""
    if any(not loss.latent_cosine_min >= MIN_COSINE for loss in losses):
        return "encoder"
    if any(not loss.decode_db <= MAX_LOSS_DB for loss in losses):
        return "decoder"
    return "encoder" if any(not loss.round_trip_db <= MAX_LOSS_DB for loss in losses) else None


def _write(
    temporary: Path, target: Path, document: dict[str, Any], tensors: Mapping[str, npt.NDArray[Any]]
) -> None:
    try:
        model_file.write(temporary, document, tensors)
    except ModelFileError as error:
        raise ModelFileError(str(error).replace(str(temporary), str(target))) from None


def _loss(exact: Model, model: Model, x: FloatArray, valid: npt.NDArray[np.bool_]) -> Loss:
    """``model`` against ``exact`` on ``x`` (N, C, h, w), one frame at a time as a stream does."""
    cosines: list[float] = []
    decode_db: list[float] = []
    round_trip_db: list[float] = []
    for image, mask in zip(x, valid, strict=True):
        wanted, got = (each.encode_tensor(image[None]) for each in (exact, model))
        cosines.append(_cosine(got[0], wanted[0]))
        best = _square_error(exact.decode_tensor(wanted)[0], image, mask)
        for losses, z in ((decode_db, wanted), (round_trip_db, got)):
            losses.append(10 * np.log10(_square_error(model.decode_tensor(z)[0], image, mask) / best))
    return Loss(
        frames=len(x),
        latent_cosine_min=float(np.min(cosines)),
        latent_cosine_mean=float(np.mean(cosines)),
        decode_db=float(np.mean(decode_db)),
        round_trip_db=float(np.mean(round_trip_db)),
    )


def _cosine(a: FloatArray, b: FloatArray) -> float:
    """Between two vectors; 1 for two that are zero, as they agree."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a64) * np.linalg.norm(b64)
    return float(a64 @ b64 / lengths) if lengths != 0 else float(np.array_equal(a64, b64))


def _square_error(image: FloatArray, wanted: FloatArray, mask: npt.NDArray[np.bool_]) -> float:
    """Mean over the numbers that mean something, and no less than ``SHOWN``."""
    return max(float(np.mean(np.square(image - wanted, dtype=np.float64)[mask])), SHOWN)


def _check_loss(loss: Loss, frames: str) -> None:
    """Refuse a loss that is too large; NaN is."""
    failed = []
    if not loss.latent_cosine_min >= MIN_COSINE:
        failed.append(
            f"a latent's cosine with the float model's is {loss.latent_cosine_min:.4f}, "
            f"wanted at least {MIN_COSINE}"
        )
    for what, lost_db in (("decoded pictures", loss.decode_db), ("round trips", loss.round_trip_db)):
        if not lost_db <= MAX_LOSS_DB:
            failed.append(f"{what} lose {lost_db:.2f} dB of PSNR, wanted at most {MAX_LOSS_DB} dB")
    if failed:
        raise QuantizeError(
            f"int8 loses too much on the {loss.frames} frames {frames}: {'; '.join(failed)}; no file was "
            "kept. Try more frames (--frames) of the scenes that the model will see, or stay with fp16."
        )
