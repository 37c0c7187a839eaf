"""The table of docs/cuda.md: what each layer of the RGB-D VAE at width 64 costs on an H200, by count.

python docs/count_cuda.py        # of a build with CUDA, the emulated one too
"""

from __future__ import annotations

import math

from edgevae import _core
from edgevae.bench.report import table

SMS = 132
BYTES_PER_US, PRODUCTS_PER_US = (
    4.3e6,
    395e6,
)  # memory, and half-precision tensor cores: two operations a product
CONVS = [(128, 4, 64), (64, 64, 128), (32, 128, 256), (16, 256, 512), (8, 512, 512)]  # size in, channels
UPSAMPLES = [(4, 512, 512), (8, 512, 256), (16, 256, 128), (32, 128, 64), (64, 64, 4)]
LINEARS = {"encode": (8192, 400), "decode": (400, 8192)}  # the mean alone, and the decoder's first layer


def row(name: str, batch: int, plan: tuple, products: int, weights: int, numbers: int) -> list[str]:
    method, pixels, channels, splits, blocks = plan
    size = 2 * (weights + batch * numbers)
    bound_us = max(size / BYTES_PER_US, products / PRODUCTS_PER_US)
    return [
        name,
        str(batch),
        f"{method}, {pixels}x{channels}",
        str(splits),
        str(blocks),
        str(math.ceil(blocks / SMS)),
        f"{products / 1e6:.1f}",
        f"{size / 1e6:.2f}",
        f"{bound_us:.2f}",
    ]


def rows() -> list[list[str]]:
    kernels = _core.CudaKernels(_core.CudaSession(0), sms=SMS)
    found = [["layer", "batch", "method, pixels x channels of a block", "parts of k", "blocks", "rounds",
              "M products", "MB", "at least us"]]  # fmt: skip
    for batch in (1, 256):
        for size, n_in, n_out in CONVS:
            half = size // 2
            plan = kernels.conv_plan(batch, size, size, n_in, n_out, 4, 2, 1, "fp16")
            found.append(
                row(
                    f"conv 4x4 {n_in}-{n_out} at {size}x{size}",
                    batch,
                    plan,
                    batch * 16 * n_in * n_out * half * half,
                    16 * n_in * n_out,
                    n_in * size * size + n_out * half * half,
                )
            )
        for operation, (n_in, n_out) in LINEARS.items():
            plan = kernels.conv_plan(batch, 1, 1, n_in, n_out, 1, 1, 0, "fp16")
            name = f"linear {n_in}-{n_out} ({operation})"
            found.append(row(name, batch, plan, batch * n_in * n_out, n_in * n_out, n_in + n_out))
        for size, n_in, n_out in UPSAMPLES:
            plan = kernels.upsample_conv_plan(batch, size, size, n_in, n_out, "fp16")
            found.append(
                row(
                    f"upsample-conv {n_in}-{n_out} at {size}x{size}",
                    batch,
                    plan,
                    batch * 9 * n_in * n_out * size * size,
                    9 * n_in * n_out,
                    (n_in + 4 * n_out) * size * size,
                )
            )
    return found


if __name__ == "__main__":
    print(table(rows()))
