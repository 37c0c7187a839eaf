"""A checkpoint of a training run, read back as a model with its provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgevae.errors import ModelFileError

from . import models

KEY = "edgevae"  # what a checkpoint holds beside Lightning's own state
PREFIX = "net."  # of the model's weights in Lightning's state_dict


def describe(net: models.VAE, provenance: dict[str, Any]) -> dict[str, Any]:
    """What to store under ``KEY`` so that ``load`` can build the model again."""
    return {"name": net.name, "options": net.options, "provenance": provenance}


def read(path: str | Path) -> dict[str, Any]:
    """The raw checkpoint, tensors on the CPU. Nothing in the file is executed (``weights_only``).

    Raises:
        ModelFileError: the file is missing, damaged, or no checkpoint of this package.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelFileError(
            f"checkpoint {path} does not exist; wanted the .ckpt file of a training run."
        ) from error
    except Exception as error:  # bytes that are no pickle can end in nearly any exception
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ModelFileError(
            f"{path} cannot be read as a checkpoint ({reason}); wanted the .ckpt file of a training run."
        ) from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint or "state_dict" not in checkpoint:
        raise ModelFileError(
            f"{path} is no checkpoint of edgevae's training; "
            "wanted a .ckpt file that 'python -m training fit' wrote."
        )
    return checkpoint


def load(path: str | Path) -> models.VAE:
    """The model of a checkpoint in eval mode, its ``provenance`` filled.

    With weight averaging in the run these are the averaged weights.

    Raises:
        ModelFileError: the file is missing, damaged, foreign, or its weights do not fit its model.
    """
    checkpoint = read(path)
    about = checkpoint[KEY]
    net = models.build(about["name"], **about["options"])
    weights = {k[len(PREFIX) :]: v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFileError(
            f"the weights in {path} do not fit {about['name']!r} with options {about['options']}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    net.provenance = about["provenance"]
    return net.eval()
