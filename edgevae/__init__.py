"""edgevae: RGB-D frames to compact latents and back, in milliseconds, without PyTorch.

>>> import edgevae
>>> model = edgevae.load()
>>> z = model.encode(rgb, depth)      # uint8 (H, W, 3), uint16 or float32 (H, W) -> float32 (latent_dim,)
>>> out = model.decode(z)             # out.rgb uint8 (h, w, 3), out.depth float32 metres (h, w)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

try:
    from . import _core as _core
except ModuleNotFoundError as error:  # run from a source tree that was never built
    raise ImportError(
        f"edgevae's compiled module is missing ({error}). Run 'pip install .' (or 'pip install -e .' to work "
        "inside the source tree)."
    ) from None

from .errors import (
    EdgevaeError,
    ExportError,
    FrameError,
    LatentError,
    ModelFileError,
    QuantizeError,
    RecordError,
    SourceError,
    SourceLost,
)
from .frame import Frame, Intrinsics
from .model import Decoded, Encoded, Model, ModelSpec, load

if TYPE_CHECKING:
    from . import export as export
    from .sources import open_source as open_source

__all__ = [
    "Decoded",
    "EdgevaeError",
    "Encoded",
    "ExportError",
    "Frame",
    "FrameError",
    "Intrinsics",
    "LatentError",
    "Model",
    "ModelFileError",
    "ModelSpec",
    "QuantizeError",
    "RecordError",
    "SourceError",
    "SourceLost",
    "__version__",
    "export",
    "load",
    "open_source",
]


def __getattr__(name: str) -> object:
    # Sources and export bring their own dependencies: they load when they are first asked for.
    if name == "open_source":
        return importlib.import_module(".sources", __name__).open_source
    if name == "export":
        return importlib.import_module(".export", __name__)
    raise AttributeError(f"module 'edgevae' has no attribute {name!r}")
