"""What the provenance of a model file may say of what the model is for, and how good it was found to be."""

from __future__ import annotations

from typing import Any

WORDS = ("title", "intended_use", "limits")  # the last is a list
MEASURED = ("evaluation", "speed")  # of this very file


def unmeasured(provenance: dict[str, Any]) -> dict[str, Any]:
    """Without what was measured, for a file that is made from the one that it was measured of."""
    return {key: value for key, value in provenance.items() if key not in MEASURED}
