"""Typed errors. Each message says what was got, what was wanted and what to do next."""

from __future__ import annotations


class EdgevaeError(ValueError):
    """Base of every error a user can cause; the command line prints it and exits with code 2."""


class ModelFileError(EdgevaeError):
    """A model file that is missing, truncated, foreign, or contradicts itself."""


class FrameError(EdgevaeError):
    """A frame whose arrays have the wrong dtype, shape or size."""


class LatentError(EdgevaeError):
    """A latent of the wrong length or dtype."""


class DeviceError(EdgevaeError):
    """A CUDA device that is not there, has no memory left, or failed; the model and the process go on."""


class SourceError(EdgevaeError):
    """A camera, file or folder that cannot be opened or read."""


class SourceLost(SourceError):
    """The device is gone for now and is being looked for; reading again may bring frames."""


class RecordError(EdgevaeError):
    """A record, picture folder or report that cannot be written or read back."""


class RowError(RecordError):
    """One row that a record cannot hold; the rows after it can be written."""


class ExportError(EdgevaeError):
    """A module that cannot be expressed in the model file, or an export that fails its parity check."""


class QuantizeError(EdgevaeError):
    """A model that cannot be quantized, too few frames to do it with, or too large a loss of quality."""
