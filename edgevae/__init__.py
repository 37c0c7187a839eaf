"""edgevae: RGB-D frames to compact latents and back, in milliseconds, without PyTorch.

>>> import edgevae
>>> model = edgevae.load()
>>> z = model.encode(rgb, depth)      # uint8 (H, W, 3), uint16 or float32 (H, W) -> float32 (latent_dim,)
>>> out = model.decode(z)             # out.rgb uint8 (h, w, 3), out.depth float32 metres (h, w)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .errors import (
    DeviceError,
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

if TYPE_CHECKING:
    from . import _core as _core
    from . import export as export
    from .frame import Frame as Frame
    from .frame import Intrinsics as Intrinsics
    from .model import Decoded as Decoded
    from .model import Encoded as Encoded
    from .model import Model as Model
    from .model import ModelSpec as ModelSpec
    from .model import load as load
    from .sources import open_source as open_source
    from .torch_fuse import fuse as fuse

__version__ = "0.1.0"

__all__ = [
    "Decoded",
    "DeviceError",
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

# Where each of the others is. It is imported when it is first asked for: it brings NumPy and more along, and
# ``edgevae`` on the command line has signals to look after before.
_MODULES = {
    **dict.fromkeys(("Frame", "Intrinsics"), "frame"),
    **dict.fromkeys(("Decoded", "Encoded", "Model", "ModelSpec", "load"), "model"),
    "fuse": "torch_fuse",  # not in __all__: it brings torch along
    "open_source": "sources",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in ("export", "frame", "model"):
        return importlib.import_module(f".{name}", __name__)
    if name == "_core":  # being imported, or run from a source tree that was never built
        try:
            return importlib.import_module("._core", __name__)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"edgevae's compiled module is missing ({error}). Run 'pip install .' (or 'pip install -e .' "
                "to work inside the source tree)."
            ) from None
    raise AttributeError(f"module 'edgevae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
