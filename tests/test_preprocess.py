"""Frame packing and unpacking: against the slow reference, against plain numpy, and the encodings."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest

from edgevae import _core
from edgevae.errors import FrameError
from edgevae.preprocess import DepthEncoding, InputSpec, pack, pack_with_mask, withhold

LOG = DepthEncoding("log", 0.25, 80.0)
ENCODINGS = [
    DepthEncoding("linear", 0.3, 10.0),
    DepthEncoding("inverse", 0.3, 10.0, 0.0),
    LOG,
    DepthEncoding("minmax"),
    DepthEncoding("log", 0.25, 80.0, -1.5),  # no distance has the value of a hole
]


def frame(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    depth = rng.uniform(0.1, 12, (height, width)).astype(np.float32)
    depth[rng.random((height, width)) < 0.2] = 0
    return rgb, depth


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: e.encoding)
@pytest.mark.parametrize("color", ["fixed", "minmax"])
@pytest.mark.parametrize(
    ("height", "width"), [(48, 64), (33, 47), (1, 1), (32, 24), (5, 200), (480, 640)], ids=str
)
def test_fast_packing_equals_the_reference(
    isa: str, encoding: DepthEncoding, color: str, height: int, width: int, rng: np.random.Generator
) -> None:
    rgb, depth = frame(rng, height, width)
    depth.flat[::7] = np.nan
    depth.flat[::11] = np.inf
    depth.flat[::13] = -1
    spec = InputSpec(4, 32, 24, color, encoding)
    got, mask = pack_with_mask(rgb, depth, spec, isa=isa)
    wanted, wanted_mask = pack_with_mask(rgb, depth, spec, isa="reference")
    np.testing.assert_array_equal(mask, wanted_mask)
    # Shares and sums of up to 8 levels of 255 in float32: a few ulp of 2; min-max divides by the image's own
    # range, which may be narrow.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 if color == "fixed" else 2e-5)
    assert got[:3].min() >= -1.0001
    assert got[3][mask].min(initial=1) >= -1.0001
    assert (got[3][~mask] == encoding.no_reading).all()
    assert got.max() <= 1.0001


def test_colour_is_the_mean_of_the_area(isa: str, rng: np.random.Generator) -> None:
    rgb, _ = frame(rng, 60, 80)
    got, _ = pack_with_mask(rgb, None, InputSpec(3, 12, 20), isa=isa)
    mean = rgb.reshape(12, 5, 20, 4, 3).mean((1, 3)).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(got, mean, atol=1e-6)


def test_colour_equals_opencv_area_resize(rng: np.random.Generator) -> None:
    rgb, _ = frame(rng, 481, 643)
    got = pack(rgb, None, InputSpec(3, 128, 128))
    wanted = cv2.resize(rgb.astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA) / 127.5 - 1
    np.testing.assert_allclose(got.transpose(1, 2, 0), wanted, atol=1e-4)


def test_depth_is_the_centre_sample_and_never_mixed(isa: str) -> None:
    depth = np.zeros((90, 120), np.uint16)
    depth[:, ::2] = 1000
    depth[:, 1::2] = 5000
    rgb = np.zeros((90, 120, 3), np.uint8)
    x, mask = pack_with_mask(rgb, depth, InputSpec(4, 30, 40, depth=LOG), depth_scale=0.001, isa=isa)
    assert mask.all()
    np.testing.assert_allclose(
        LOG.to_metres(x[3]), np.broadcast_to([5.0, 1.0], (30, 20, 2)).reshape(30, 40), rtol=1e-5
    )


def test_depth_scale_and_dtype_agree(isa: str, rng: np.random.Generator) -> None:
    rgb, _ = frame(rng, 40, 40)
    units = rng.integers(0, 50_000, (40, 40)).astype(np.uint16)
    spec = InputSpec(4, 16, 16, depth=LOG)
    a, _ = pack_with_mask(rgb, units, spec, depth_scale=1 / 5000, isa=isa)
    b, _ = pack_with_mask(rgb, units.astype(np.float32) / 5000, spec, isa=isa)
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("encoding", [e for e in ENCODINGS if e.metric], ids=lambda e: e.encoding)
def test_metres_survive_the_round_trip(encoding: DepthEncoding) -> None:
    d = np.geomspace(encoding.min_m, encoding.max_m, 1000).astype(np.float32)
    np.testing.assert_allclose(encoding.to_metres(encoding.to_network(d)), d, rtol=3e-5)
    outside = encoding.to_metres(encoding.to_network(np.array([1e-3, 1e6])))
    np.testing.assert_allclose(sorted(outside), [encoding.min_m, encoding.max_m], rtol=1e-5)
    assert (encoding.to_network(np.array([0, -1, np.nan, np.inf])) == encoding.no_reading).all()


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: e.encoding)
def test_packing_agrees_with_the_python_encoding(
    isa: str, encoding: DepthEncoding, rng: np.random.Generator
) -> None:
    rgb, depth = frame(rng, 16, 16)
    x, _ = pack_with_mask(rgb, depth, InputSpec(4, 16, 16, depth=encoding), isa=isa)
    np.testing.assert_allclose(x[3], encoding.to_network(depth), atol=2e-6)


def test_strided_views_need_no_copy(isa: str, rng: np.random.Generator) -> None:
    rgb, depth = frame(rng, 50, 70)
    spec = InputSpec(4, 16, 16, depth=LOG)
    view, depth_view = rgb[3:45:2, 60:4:-2], depth[3:45:2, 60:4:-2]
    got, _ = pack_with_mask(view, depth_view, spec, isa=isa)
    wanted, _ = pack_with_mask(view.copy(), depth_view.copy(), spec, isa="reference")
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1)).transpose(1, 2, 0)  # samples far apart
    np.testing.assert_array_equal(pack(planes, depth, spec), pack(rgb, depth, spec))


def test_arrays_in_any_layout(isa: str, rng: np.random.Generator) -> None:
    rgb, depth = frame(rng, 20, 30)
    spec = InputSpec(4, 8, 8, depth=LOG)
    wanted, _ = pack_with_mask(rgb, depth, spec, isa=isa)
    for array in (rgb, depth):
        array.flags.writeable = False
    for color, metres in ((rgb, depth), (np.asfortranarray(rgb), np.asfortranarray(depth))):
        np.testing.assert_array_equal(pack_with_mask(color, metres, spec, isa=isa)[0], wanted)
    # One pixel, broadcast: every stride is zero.
    flat = np.broadcast_to(rgb[:1, :1], rgb.shape), np.broadcast_to(depth[:1, :1], depth.shape)
    copied = flat[0].copy(), flat[1].copy()
    got, wanted = (pack_with_mask(*arrays, spec, isa=isa)[0] for arrays in (flat, copied))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bgr_and_channels(isa: str, channels: int, rng: np.random.Generator) -> None:
    rgb, depth = frame(rng, 20, 30)
    spec = InputSpec(channels, 8, 8, depth=LOG if channels == 4 else None)
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    a, _ = _core.pack_frame(rgb, depth, 1.0, False, spec.native(), 8, 8, isa)
    b, _ = _core.pack_frame(bgr, depth, 1.0, True, spec.native(), 8, 8, isa)
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert a.shape == (channels, 8, 8)


@pytest.mark.parametrize("value", [0, np.nan, np.inf, -3])
def test_depth_without_any_reading(isa: str, value: float, rng: np.random.Generator) -> None:
    rgb, _ = frame(rng, 20, 30)
    for encoding in ENCODINGS:
        spec = InputSpec(4, 8, 8, depth=encoding)
        x, mask = pack_with_mask(rgb, np.full((20, 30), value, np.float32), spec, isa=isa)
        assert not mask.any()
        assert (x[3] == encoding.no_reading).all()
        without, _ = pack_with_mask(rgb, None, spec, isa=isa)
        np.testing.assert_array_equal(x, without)


FILLED = DepthEncoding("log", 0.25, 80.0, -1.5, fill=True)


def weights(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How alike neighbours of (h, w, 3) look: of a row (h, w - 1), of a column (h - 1, w)."""
    grey = (rgb / 127.5 - 1).mean(axis=2)
    along, down = (1 / (1 + (40 * np.diff(grey, axis=axis)) ** 2) for axis in (1, 0))
    return along, down


def mean_of(pairs: list[np.ndarray]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of places without a number
        return np.asarray(np.nanmean(pairs, axis=0))


def halves(x: np.ndarray, axis: int) -> list[np.ndarray]:
    """Every other one of (h, w) along an axis, and those between them, NaN where the last has none."""
    x = np.moveaxis(x, axis, 0)
    if len(x) % 2:
        x = np.concatenate([x, np.full_like(x[:1], np.nan)])
    return [np.moveaxis(part, 0, axis) for part in (x[::2], x[1::2])]


def filled(d: np.ndarray, along: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The NaNs of (h, w), as docs/model-file.md has it."""
    if not np.isnan(d).any():
        return d
    if d.size == 1:
        return np.zeros_like(d)
    half = filled(
        mean_of([part for rows in halves(d, 0) for part in halves(rows, 1)]),
        mean_of(halves(along[:, 1::2], 0)),
        mean_of(halves(down[1::2], 1)),
    )
    around = np.pad(half, 1, mode="edge")
    rows, columns = (np.arange(n) for n in d.shape)
    own = np.ix_(rows // 2 + 1, columns // 2 + 1)
    row, column = (at // 2 + 1 + np.where(at % 2, 1, -1) for at in (rows, columns))
    mixed = 9 * around[own] + 3 * around[np.ix_(rows // 2 + 1, column)]
    mixed += 3 * around[np.ix_(row, columns // 2 + 1)] + around[np.ix_(row, column)]
    f = np.where(np.isnan(d), mixed / 16, d)
    west, east = np.pad(along, [(0, 0), (1, 0)]), np.pad(along, [(0, 0), (0, 1)])
    north, south = np.pad(down, [(1, 0), (0, 0)]), np.pad(down, [(0, 1), (0, 0)])
    for turn in range(8):
        beside = np.pad(f, 1)
        pulled = west * beside[1:-1, :-2] + east * beside[1:-1, 2:]
        pulled += north * beside[:-2, 1:-1] + south * beside[2:, 1:-1]
        move = 1.8 * (pulled / (west + east + north + south) - f)
        f = f + np.where(np.isnan(d) & (np.add.outer(rows, columns) % 2 == turn % 2), move, 0)
    return f


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.98])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 47), (1, 1), (1, 9), (16, 130)], ids=str)
def test_holes_are_filled_along_the_colours_and_mirrored(
    isa: str, height: int, width: int, missing: float, rng: np.random.Generator
) -> None:
    rgb, depth = frame(rng, height, width)
    depth[rng.random(depth.shape) < missing] = 0
    x, mask = pack_with_mask(rgb, depth, InputSpec(4, height, width, depth=FILLED), isa=isa)
    plain = FILLED.to_network(depth)
    np.testing.assert_allclose(x[3][mask], plain[mask], atol=2e-6)
    f = np.clip(filled(np.where(mask, plain, np.nan).astype(np.float64), *weights(rgb)), -1, 1)
    wanted = 2 * FILLED.no_reading - f
    np.testing.assert_allclose(x[3][~mask], wanted[~mask], atol=2e-6)
    assert (x[3][~mask] < FILLED.no_reading).all()
    assert (x[3][mask] > FILLED.no_reading).all()


def test_a_hole_in_a_wall_is_wall(isa: str) -> None:
    depth = np.full((32, 32), 3.0, np.float32)
    depth[5:27, 3:30] = 0
    rgb = np.zeros((32, 32, 3), np.uint8)
    x, mask = pack_with_mask(rgb, depth, InputSpec(4, 32, 32, depth=FILLED), isa=isa)
    np.testing.assert_allclose(FILLED.to_metres(2 * FILLED.no_reading - x[3][~mask]), 3.0, rtol=1e-5)


def test_a_hole_ends_where_the_colour_does(isa: str) -> None:
    """Two walls, the near one dark, and no reading about the edge between them; then both of one colour."""
    depth = np.where(np.arange(32) < 13, 2.0, 6.0) * np.ones((32, 1))
    holed = depth.astype(np.float32)
    holed[:, 10:18] = 0

    def off(near: int, far: int) -> float:
        rgb = np.full((32, 32, 3), far, np.uint8)
        rgb[:, :13] = near
        x, _ = pack_with_mask(rgb, holed, InputSpec(4, 32, 32, depth=FILLED), isa=isa)
        got = FILLED.to_metres(2 * FILLED.no_reading - x[3])
        return float(np.abs(got / depth - 1)[:, 10:18].max())

    assert off(40, 200) < 0.2
    assert off(90, 90) > 0.4


def test_filling_comes_near_the_smallest_differences(rng: np.random.Generator) -> None:
    """Against the minimum itself, by linear equations; without colours it is far off."""
    size = 24
    y, x = np.mgrid[:size, :size] / size
    shade = (np.sin(5 * x) * np.cos(4 * y) > 0.3) * 0.7 + 0.1 * np.sin(9 * y)
    rgb = np.repeat((127.5 + 127 * np.clip(shade, -1, 1))[:, :, None], 3, axis=2).astype(np.uint8)
    depth = shade + 0.2 * x
    missing = np.kron(rng.random((6, 6)) < 0.5, np.ones((4, 4))).astype(bool)
    index = np.arange(size * size).reshape(size, size)
    laplacian = np.zeros((size * size, size * size))
    along, down = weights(rgb)
    for links, a, b in ((along, index[:, :-1], index[:, 1:]), (down, index[:-1], index[1:])):
        for weight, i, j in zip(links.flat, a.flat, b.flat, strict=True):
            laplacian[[i, j], [i, j]] += weight
            laplacian[[i, j], [j, i]] -= weight
    hole = missing.ravel()
    told = laplacian[np.ix_(hole, ~hole)] @ depth.ravel()[~hole]
    exact = np.linalg.solve(laplacian[np.ix_(hole, hole)], -told)

    def off(color: np.ndarray) -> float:
        planes = [*color.transpose(2, 0, 1) / 127.5 - 1, np.where(missing, np.nan, depth)]
        frames = np.stack(planes).astype(np.float32)[None]
        _core.fill_depth(frames, 0.0)
        return float(np.abs(-frames[0, 3][missing] - exact).mean())

    assert off(rgb) < 0.025
    assert off(np.zeros_like(rgb)) > 0.06


def test_without_any_reading_the_middle_of_the_range_is_filled_in(isa: str) -> None:
    spec = InputSpec(4, 8, 8, depth=FILLED)
    for depth in (None, np.zeros((20, 30), np.float32)):
        x, mask = pack_with_mask(np.zeros((20, 30, 3), np.uint8), depth, spec, isa=isa)
        assert not mask.any()
        assert (x[3] == 2 * FILLED.no_reading).all()


@pytest.mark.parametrize("encoding", [LOG, FILLED], ids=["plain", "filled"])
def test_what_is_withheld_is_as_if_it_had_not_been_read(
    encoding: DepthEncoding, rng: np.random.Generator
) -> None:
    spec = InputSpec(4, 24, 16, depth=encoding)
    pairs = [frame(rng, 24, 16) for _ in range(3)]
    missing = rng.random((3, 24, 16)) < 0.4
    missing[2] = True
    x = np.stack([pack(rgb, depth, spec) for rgb, depth in pairs])
    before = x.copy()
    wanted = [
        pack(rgb, np.where(gone, 0, depth).astype(np.float32), spec)
        for (rgb, depth), gone in zip(pairs, missing, strict=True)
    ]
    np.testing.assert_allclose(withhold(x, missing, spec), np.stack(wanted), atol=2e-6)
    np.testing.assert_array_equal(x, before)
    assert withhold(x, np.zeros_like(missing), spec) is x


def test_only_a_metric_encoding_with_a_place_for_the_mirror_can_be_filled() -> None:
    for encoding in (DepthEncoding("minmax", fill=True), DepthEncoding("log", 0.25, 80.0, fill=True)):
        with pytest.raises(ValueError, match="fill wants a metric depth encoding and no_reading below -1"):
            InputSpec(4, 8, 8, depth=encoding).native()


def test_into_an_array_of_the_caller(rng: np.random.Generator) -> None:
    rgb, depth = frame(rng, 20, 30)
    spec = InputSpec(4, 8, 8, depth=LOG)
    batch = np.full((2, 4, 8, 8), np.nan, np.float32)
    assert np.shares_memory(pack(rgb, depth, spec, out=batch[1]), batch)
    np.testing.assert_array_equal(batch[1], pack(rgb, depth, spec))


RGB = np.zeros((20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("rgb", "depth", "message"),
    [
        (RGB.astype(np.float32), None, "colour is float32"),
        (RGB[:, :, 0], None, r"colour is uint8 \(20, 30\)"),
        (RGB[:0], None, "colour is uint8"),
        ([[1, 2, 3]], None, "colour is a list"),
        (RGB, np.zeros((10, 30), np.uint16), "wanted the same size"),
        (RGB, np.zeros((20, 30)), "depth is float64"),
        (RGB, np.zeros((20, 30), ">u2"), "depth is >u2"),
        (RGB, np.zeros((20, 30), ">f4"), "depth is >f4"),
        (np.broadcast_to(RGB[:1, :1], (1, 70_000, 3)), None, "65536"),
        (RGB, np.zeros((20, 30, 1), np.uint16), "wanted the same size"),
        (RGB, "deep", "depth is a str"),
    ],
)
def test_wrong_frames_are_refused(rgb: np.ndarray, depth: np.ndarray, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        pack(rgb, depth, InputSpec(4, 8, 8, depth=LOG))


def test_a_depth_scale_that_means_nothing_is_refused() -> None:
    for scale in (0, -1, np.nan, np.inf):
        with pytest.raises(FrameError, match="depth_scale"):
            pack(RGB, np.zeros((20, 30), np.uint16), InputSpec(4, 8, 8, depth=LOG), depth_scale=scale)
