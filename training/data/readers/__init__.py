"""Readers: one class for each way pictures lie on disk. ``training.data.sets`` picks one by a set's kind."""

from __future__ import annotations

from .base import Entry, Picture, Reader
from .folders import ClassFolders, ImageFolder
from .frey import Frey
from .mnist import Mnist
from .nyu import NyuMat
from .pairs import Pairs
from .stream import Stream, Synthetic
from .tum import Tum

__all__ = [
    "ClassFolders",
    "Entry",
    "Frey",
    "ImageFolder",
    "Mnist",
    "NyuMat",
    "Pairs",
    "Picture",
    "Reader",
    "Stream",
    "Synthetic",
    "Tum",
]
