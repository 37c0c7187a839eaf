"""Variables of MATLAB v5 files, through SciPy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ..errors import SourceError


def load_v5(path: str | Path, *names: str) -> dict[str, Any]:
    """The variables ``names`` of a file, those of them that it has.

    Raises:
        SourceError: the file is missing, damaged or of another version, or SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise SourceError(f"{path} is a MATLAB v5 file; to read it: pip install scipy.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # over variables that nobody asked for
            content: dict[str, Any] = loadmat(path, appendmat=False, variable_names=list(names))
    except NotImplementedError as error:
        raise SourceError(f"{path} is a MATLAB v7.3 file, wanted v5.") from error
    except Exception as error:  # SciPy meets damage in many ways
        reason = str(error) or type(error).__name__
        raise SourceError(f"{path} cannot be read as a MATLAB v5 file ({reason}).") from error
    return {name: content[name] for name in names if name in content}
