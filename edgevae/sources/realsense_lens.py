"""A RealSense camera's intrinsics in OpenCV's terms."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..frame import Intrinsics

_FIT_LIMIT_PX = 0.5  # a lens that OpenCV's model follows no closer is one it cannot describe


def intrinsics(rs: Any, native: Any) -> Intrinsics | None:
    """A camera of the SDK in OpenCV's terms; None where OpenCV's lens model comes no closer than 0.5 px."""
    distortion = _distortion(rs, native)
    if distortion is None:
        return None
    return Intrinsics(
        float(native.fx),
        float(native.fy),
        float(native.ppx),
        float(native.ppy),
        int(native.width),
        int(native.height),
        distortion,
    )


def _distortion(rs: Any, native: Any) -> tuple[float, ...] | None:
    """k1, k2, p1, p2, k3. Brown-Conrady is OpenCV's own model; others are fitted to the SDK's projection.

    The fit is linear: OpenCV's distorted point is the ideal one plus the coefficients times known terms.
    """
    coefficients = tuple(float(c) for c in native.coeffs)
    if native.model == rs.distortion.none or not any(coefficients):
        return ()
    if native.model == rs.distortion.brown_conrady:
        return coefficients[:5]
    u, v = np.meshgrid(np.linspace(0, native.width - 1, 15), np.linspace(0, native.height - 1, 11))
    x, y = ((u - native.ppx) / native.fx).ravel(), ((v - native.ppy) / native.fy).ravel()
    seen = np.array(
        [rs.rs2_project_point_to_pixel(native, [float(a), float(b), 1.0]) for a, b in zip(x, y, strict=True)]
    )
    scale = np.array([native.fx, native.fy])
    shift = (seen - [native.ppx, native.ppy]) / scale - np.stack([x, y], 1)
    r2 = x * x + y * y
    terms_x = np.stack([x * r2, x * r2**2, 2 * x * y, r2 + 2 * x * x, x * r2**3], 1)
    terms_y = np.stack([y * r2, y * r2**2, r2 + 2 * y * y, 2 * x * y, y * r2**3], 1)
    terms = np.stack([terms_x, terms_y], 1)  # (points, 2, 5)
    fit, *_ = np.linalg.lstsq(terms.reshape(-1, 5), shift.reshape(-1), rcond=None)
    error_px = np.abs((terms @ fit - shift) * scale).max()
    return tuple(float(c) for c in fit) if error_px <= _FIT_LIMIT_PX else None
