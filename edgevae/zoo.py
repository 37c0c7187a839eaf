"""The models in the package, by name.

``edgevae.load("edge")``, ``--model edge`` and ``edgevae info edge`` take these names where they take files.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ModelFileError

FOLDER = Path(__file__).parent / "models"
DEFAULT = "full"
_SUFFIX = ".safetensors"


def shipped() -> list[str]:
    """Names of the models in the package, the default first."""
    names = (path.name.removesuffix(_SUFFIX) for path in FOLDER.glob(f"*{_SUFFIX}"))
    return sorted(names, key=lambda name: (name != DEFAULT, name))


def path_of(model: str | os.PathLike[str] | None) -> Path:
    """The file of a model that is given by its path, by the name of a shipped one, or as None: the default.

    A shipped name wins over a file of that name, whose absolute path is the file.

    Raises:
        ModelFileError: a bare name that is neither.
    """
    name = DEFAULT if model is None else os.fspath(model)
    if name in shipped():
        return FOLDER / (name + _SUFFIX)
    path = Path(name)
    if os.sep not in name and not path.suffix and not path.exists():
        raise ModelFileError(
            f"{name!r} is neither a file nor a shipped model; wanted one of {', '.join(shipped())}, or the "
            "path of a model file."
        )
    return path
