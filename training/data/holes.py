"""Holes as depth cameras have them, drawn into what the encoder gets: at steps, on surfaces, by distance.

A stereo or structured-light camera measures from two places. What only one of them sees has no depth: a strip
beside everything that stands before something else, on the farther side of the step, as wide as the two
disparities differ, and a band along one border. Nor has what returns too little or too much light, and what
is nearer or farther than the camera was built for.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edgevae.preprocess import InputSpec

Bool = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

WIDEST = 0.06  # of a strip, as a part of the width
BAND = 0.08  # of the band along a border, likewise
STEP = (0.05, 0.2)  # the smallest part of the distance that makes a step
KIND = 0.7  # probability of each kind of hole in a frame that gets any


def holes(image: Floats, valid: Bool, spec: InputSpec, rng: np.random.Generator) -> Bool:
    """Holes at steps, on dark and shiny surfaces, and speckle, bool (h, w), together or some of them.

    Args:
        image: what the network would get, (C, h, w).
        valid: where its depth is a reading, (h, w).
        spec: of the network, with depth.
        rng: of the frame.
    """
    kinds = rng.random(3) < KIND
    missing = np.zeros(valid.shape, np.bool_)
    if kinds[0]:
        missing |= _shadows(_distances(image, spec), valid, rng)
    if kinds[1]:
        missing |= _surfaces(image[: min(3, spec.channels)].mean(0), rng)
    if kinds[2]:
        share, grains = rng.uniform(0.005, 0.06), rng.uniform(0, 0.02)
        clouds = _clouds(valid.shape, 3, rng)
        missing |= clouds > np.quantile(clouds, 1 - share)
        missing |= rng.random(valid.shape, np.float32) < grains
    return missing


def beyond(image: Floats, valid: Bool, spec: InputSpec, rng: np.random.Generator) -> Bool:
    """Where depth is nearer or farther than a range drawn for this frame, bool (h, w).

    The range ends at quantiles of the frame's own readings, so that it cuts rooms and streets alike: up to a
    fifth at the near end, up to six tenths at the far one.
    """
    near, far = rng.uniform(0, 0.2), rng.uniform(0.4, 1)
    which = rng.integers(3)  # near, far, both
    if not valid.any():
        return np.zeros(valid.shape, np.bool_)
    distance = _distances(image, spec)
    low, high = np.quantile(distance[valid], (near, far))
    return np.asarray((distance < low) & (which != 1) | (distance > high) & (which != 0))


def _distances(image: Floats, spec: InputSpec) -> Floats:
    """Depth (h, w) in metres; of relative depth as if the image reached from 0.5 to 1.5 m."""
    assert spec.depth is not None
    return spec.depth.to_metres(image[3]) + np.float32(0 if spec.depth.metric else 0.5)


def _shadows(distance: Floats, valid: Bool, rng: np.random.Generator) -> Bool:
    """Strips on the farther side of steps, all on one side of what casts them, and a band along a border."""
    smallest, widest = rng.uniform(*STEP), rng.uniform(0.01, WIDEST) * distance.shape[1]
    band, side = rng.uniform(-BAND, BAND) * distance.shape[1], rng.random() < 0.5
    if side:  # the same with left and right exchanged
        distance, valid = distance[:, ::-1], valid[:, ::-1]
    missing = np.zeros(distance.shape, np.bool_)
    # Disparity goes with 1 / distance; relative to what the nearer surface has it is 1 - near / far.
    both = valid[:, :-1] & valid[:, 1:]
    part = np.where(both, 1 - distance[:, 1:] / distance[:, :-1], 0)  # > 0: the left one is farther
    part[part < smallest] = 0
    for reach in range(max(1, round(widest))):
        width = part.shape[1] - reach
        missing[:, :width] |= part[:, reach:] * widest > reach
    missing[:, : max(0, round(band))] = True
    return missing[:, ::-1] if side else missing


def _surfaces(light: Floats, rng: np.random.Generator) -> Bool:
    """The darkest and the brightest of a picture (h, w), in patches."""
    dark, bright = np.quantile(light, (rng.uniform(0, 0.2), 1 - rng.uniform(0, 0.1)))
    return np.asarray(((light < dark) | (light > bright)) & (_clouds(light.shape, 12, rng) > -0.3))


def _clouds(shape: tuple[int, ...], size: int, rng: np.random.Generator) -> Floats:
    """Smooth noise about 0 with features of some ``size`` pixels."""
    coarse = rng.standard_normal([n // size + 2 for n in shape], np.float32)
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
