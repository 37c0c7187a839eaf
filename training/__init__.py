"""Training of edgevae's models in PyTorch and Lightning; nothing in ``edgevae`` imports this package."""

from __future__ import annotations

from . import checkpoint, models

__all__ = ["checkpoint", "models"]
