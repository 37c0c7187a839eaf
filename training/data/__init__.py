"""Frames for training: readers of formats on disk, cache of decoded images, augmentation, data module."""

from __future__ import annotations

from .module import FramesDataModule
from .sets import SetOptions, open_set

__all__ = ["FramesDataModule", "SetOptions", "open_set"]
