"""Pictures for training: readers of formats on disk, cache of decoded images, augmentation, data module."""

from __future__ import annotations

from .augment import AugmentOptions
from .cache import open_set
from .module import FramesDataModule
from .sets import SetOptions

__all__ = ["AugmentOptions", "FramesDataModule", "SetOptions", "open_set"]
