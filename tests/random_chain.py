"""Random networks for the engine, each from one number, and how far a kernel set is from the reference on it.

python tests/random_chain.py SEED ISA       prints the network and its error
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevae import _core

Layer = dict[str, Any]

# Whole vectors of every set, one more, less than one, several and a bit; and small models' narrow layers.
CHANNELS = (1, 2, 3, 5, 8, 12, 16, 17, 20, 33, 36, 64, 100)
LARGEST = 40_000  # floats of one activation
EPSILON = 2.0**-24


@dataclass(frozen=True)
class Chain:
    layers: list[Layer]
    tensors: dict[str, np.ndarray]
    shape: list[int]
    batch: int
    condition: int
    threads: int
    precision: str

    def run(self, isa: str, *arrays: np.ndarray, threads: int = 1, absolute: bool = False) -> np.ndarray:
        """The network on x and perhaps a condition. `absolute`: the network that bounds its magnitudes."""
        layers, tensors = self.layers, self.tensors
        if absolute:
            # On numbers that are not negative relu changes nothing, and softplus(x) is at least x and ln 2.
            above = {"relu": "relu", "leaky_relu": "relu"}
            layers = [
                {**layer, "kind": above.get(layer["kind"], "softplus")} if "kind" in layer else layer
                for layer in layers
            ]
            tensors = {name: np.abs(tensor) for name, tensor in tensors.items()}
            arrays = tuple(np.abs(array) for array in arrays)
        pool = _core.Pool(threads)
        network = _core.Network(layers, tensors, self.shape, self.condition, pool, isa, self.precision)
        return network.run(*arrays)


def chain(seed: int) -> Chain:
    """A network of one to seven layers that fit each other."""
    rng = np.random.default_rng(seed)

    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    condition = pick(0, 0, 3)
    shape = [int(n) for n in (pick(*CHANNELS), *rng.integers(1, 15, 2))]
    if rng.random() < 0.2:
        shape = [int(rng.integers(1, 200))]
    halves = rng.random() < 0.25  # begins as the main model does, which the engine may compute in its own way
    if halves:
        shape = [int(pick(4, 16, 17, 33)), *(int(4 * n) for n in rng.integers(4, 7, 2))]
    built = Chain([], {}, shape, int(pick(1, 1, 2, 5)), condition, pick(1, 3), pick("exact", "fp32"))
    now, wanted = shape, rng.integers(1, 8)
    while len(built.layers) < wanted:
        layer, tensors = _layer(rng, pick, now, condition, len(built.layers), halves and now is shape)
        try:
            after = _core.infer_shapes([layer], tensors, now, condition)[0]
        except ValueError:
            continue  # a kernel larger than the image, or the like
        if np.prod(after) <= LARGEST:
            built.layers.append(layer)
            built.tensors.update(tensors)
            now = after
    return built


def _layer(
    rng: np.random.Generator, pick: Any, shape: list[int], condition: int, index: int, halve: bool
) -> tuple[Layer, dict[str, np.ndarray]]:
    """A layer for `shape`, which it may not fit, with its tensors."""
    tensors: dict[str, np.ndarray] = {}

    def weights(fan_in: int, *size: int, outputs: int) -> Layer:
        weight = (rng.standard_normal(size) / np.sqrt(fan_in)).astype(np.float32)
        if rng.random() < 0.3:  # halves, which the engine may keep as such
            weight = weight.astype(np.float16).astype(np.float32)
        tensors[f"{index}.w"] = weight
        if rng.random() < 0.3:
            return {"weight": f"{index}.w", "bias": None}
        tensors[f"{index}.b"] = rng.standard_normal(outputs).astype(np.float32)
        return {"weight": f"{index}.w", "bias": f"{index}.b"}

    channels, out = shape[0], int(pick(*CHANNELS))
    kernel = [int(k) for k in rng.integers(1, 6, 2)]
    if rng.random() < 0.6:
        kernel[1] = kernel[0]
    window = {"stride": int(pick(1, 1, 2, 2, 3)), "padding": int(rng.integers(0, min(kernel)))}
    mode = pick("zeros", "replicate")
    count = int(np.prod(shape))
    image = len(shape) == 3
    op = pick("conv2d", "conv2d", "upsample", "transposed", "max_pool", "activation", "activation", "reshape")
    if not image:
        op = pick("linear", "linear", "activation", "reshape", *["concat"] * (2 if condition else 0))
    if halve:
        op, kernel, window = "conv2d", [4, 4], {"stride": 2, "padding": int(pick(1, 1, 1, 2, 3))}
    if op == "conv2d":
        w = weights(channels * kernel[0] * kernel[1], out, channels, *kernel, outputs=out)
        return {"op": op, **w, **window, "padding_mode": mode}, tensors
    if op == "upsample":
        w = weights(9 * channels, out, channels, 3, 3, outputs=out)
        return {"op": "upsample_conv2d", **w, "padding_mode": mode}, tensors
    if op == "transposed":
        w = weights(4 * channels, channels, out, *kernel, outputs=out)
        extra = int(rng.integers(0, window["stride"]))
        return {"op": "conv_transpose2d", **w, **window, "output_padding": extra}, tensors
    if op == "max_pool":
        return {"op": "max_pool2d", "kernel": kernel[0], "stride": window["stride"]}, tensors
    if op == "linear":
        outputs = int(pick(*CHANNELS, int(rng.integers(1, 1000))))
        return {"op": "linear", **weights(count, outputs, count, outputs=outputs)}, tensors
    if op == "activation":
        kind = pick("relu", "leaky_relu", "tanh", "sigmoid", "softplus")
        return {"op": op, "kind": kind, **({"slope": 0.2} if kind == "leaky_relu" else {})}, tensors
    if op == "concat":
        return {"op": "concat_condition", "size": condition}, tensors
    if image and rng.random() < 0.6:
        return {"op": "reshape", "shape": [count]}, tensors
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    first = int(pick(*divisors))
    second = int(pick(*(n for n in divisors if count // first % n == 0)))
    return {"op": "reshape", "shape": [first, second, count // first // second]}, tensors


def tolerance(built: Chain) -> float:
    """How far two float32 runs may be apart, in parts of the magnitude.

    A layer of k products adds 4 sqrt(k) 2^-24 of the sum of magnitudes (16 where sums of weights and
    differences of pixels stand for products), and an activation 4e-7; what came before is carried on, since
    the magnitudes are taken through the same weights and no activation has a slope above one.
    """
    total = 4 * EPSILON
    for layer in built.layers:
        if "weight" in layer:
            shape = built.tensors[layer["weight"]].shape
            axis = 1 if layer["op"] == "conv_transpose2d" else 0
            total += 16 * np.sqrt(np.prod(shape) / shape[axis] + 1) * EPSILON
        elif layer["op"] == "activation":
            total += 4e-7 / np.log(2)
    return float(total)


def error(seed: int, isa: str) -> float:
    """The largest difference between `isa` and the reference on chain `seed`, in parts of what is allowed."""
    built = chain(seed)
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((built.batch, *built.shape), np.float32)]
    if built.condition:
        arrays.append(rng.standard_normal((built.batch, built.condition), np.float32))
    got = built.run(isa, *arrays, threads=built.threads)
    shapes = _core.infer_shapes(built.layers, built.tensors, built.shape, built.condition)
    assert got.shape == (built.batch, *shapes[-1])
    wanted = built.run("reference", *arrays)
    magnitude = built.run("reference", *arrays, absolute=True)
    with np.errstate(invalid="ignore"):
        parts = np.abs(got - wanted) / (tolerance(built) * magnitude + 1e-30)
    return float(np.max(np.where(np.isnan(parts), np.inf, parts)))


if __name__ == "__main__":
    found = chain(int(sys.argv[1]))
    for layer in found.layers:
        print(json.dumps(layer), *(found.tensors[layer["weight"]].shape if "weight" in layer else ()))
    print(f"input {found.shape}, batch {found.batch}, threads {found.threads}, {found.precision}")
    print(f"error is {error(int(sys.argv[1]), sys.argv[2]):.3g} times its bound")
