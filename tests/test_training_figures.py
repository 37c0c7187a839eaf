"""The figures of training, on made arrays: what they show, and that no word is cut off."""

from __future__ import annotations

import math
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edgevae.mapping.views import View
from edgevae.preprocess import DepthEncoding, InputSpec
from training.figures import (
    depth,
    epochs,
    grid,
    images,
    interpolation,
    latent_map,
    loss,
    points,
    sheets,
    style,
    units,
)
from training.figures.grid import Block, Row
from training.figures.latent_map import Map

LONG = "a class with a name that nobody would ever give to anything at all"
RNG = np.random.default_rng(0)
LOG = InputSpec(4, 12, 16, depth=DepthEncoding("log", 0.25, 80.0))
MINMAX = InputSpec(4, 12, 16, depth=DepthEncoding("minmax"))


def drawn(draw: Callable[[], Figure]) -> Figure:
    """The figure, once all that is drawn was found to lie within it."""
    with matplotlib.rc_context(style.settings(style.LIGHT)):  # type: ignore[arg-type]
        figure = draw()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        box = figure.get_tightbbox(canvas.get_renderer())
        wide, high = figure.get_size_inches()
        inside = box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= wide + 0.01 and box.y1 <= high + 0.01
        assert inside, f"{box} in {wide} x {high}"
    return figure


def table(epochs_: int = 12, **columns: Callable[[int], float]) -> list[dict[str, float]]:
    terms = {"train/loss": lambda e: 200 / e, "val/loss": lambda e: 210 / e, "train/kl": lambda e: float(e)}
    made: dict[str, Callable[[int], float]] = terms | {
        "val/kl": lambda e: e + 1.0,
        "train/kl_weight": lambda e: 1.0,
    }
    made |= {name.replace("__", "/"): column for name, column in columns.items()}
    return [{"epoch": float(e)} | {k: f(e) for k, f in made.items()} for e in range(1, epochs_ + 1)]


def lines(figure: Figure, title: str) -> dict[str, list[tuple[float, float]]]:
    axes = next(axes for axes in figure.axes if axes.get_title(loc="left") == title)
    handles, labels = axes.get_legend_handles_labels()
    return {
        label: [(float(x), float(y)) for x, y in handle.get_xydata()]
        for handle, label in zip(handles, labels, strict=True)
    }


def squares(count: int, size: tuple[int, int] = (12, 16)) -> list[np.ndarray]:
    return [np.full((*size, 3), 20 * (i % 12), np.uint8) for i in range(count)]


# Every figure, as a run of each kind would have it
CASES: dict[str, Callable[[], Figure]] = {
    "loss": lambda: loss.loss_curve(table(train__sigma_color=lambda e: 0.5 / e), 7),
    "loss of one epoch": lambda: loss.loss_curve(table(1), 1),
    "loss without KL": lambda: loss.loss_curve(
        [{"epoch": 1.0, "train/loss": 3.0, "val/loss": 4.0}], None, "squared error per image"
    ),
    "loss with NaN": lambda: loss.loss_curve(table(val__loss=lambda e: math.nan if 4 < e < 8 else 1.0 * e)),
    "negative loss": lambda: loss.loss_curve(table(train__nll=lambda e: -1e5 * e)),
    "maps": lambda: latent_map.latent_maps(
        [[Map("PCA", RNG.normal(size=(50, 2)), "PC 1", "PC 2"), Map("t-SNE", RNG.normal(size=(50, 2)))]],
        np.arange(50) % 3,
        ["one", LONG, "$x_1^"],
    ),
    "maps of many scenes": lambda: latent_map.latent_maps(
        [[Map(f"epoch {i}", RNG.normal(size=(200, 2)), "z1", "z2", (-1, 1, -1, 1)) for i in range(4)]],
        np.arange(200) % 70,
        [f"{LONG} {i}" for i in range(70)],
    ),
    "maps of one point": lambda: latent_map.latent_maps(
        [[Map("PCA", np.zeros((5, 2)), "PC 1", "PC 2")]], np.zeros(5, np.int64), ["all"]
    ),
    "line": lambda: latent_map.latent_line(RNG.normal(size=(40, 1)), np.arange(40) % 2, ["_a", LONG]),
    "plane": lambda: latent_map.latent_plane(
        {"": np.zeros((25, 12, 16, 3), np.uint8)}, np.linspace(-2, 2, 5), np.linspace(0, 1, 5)
    ),
    "planes": lambda: latent_map.latent_plane(
        {"colour": np.zeros((12, 30, 6, 3), np.uint8), "depth": np.zeros((12, 30, 6, 3), np.uint8)},
        np.linspace(-2, 2, 4),
        np.linspace(1e5, 2e5, 3),
    ),
    "grid": lambda: grid.grid(
        [Block([Row(LONG, squares(8), ["4.5"] * 8), Row("", squares(3))], LONG + LONG, [LONG] * 8)]
    ),
    "grid of one": lambda: grid.grid([Block([Row("", squares(1))], LONG)]),
    "grid of tall pictures": lambda: grid.grid([Block([Row("z1", squares(40, (400, 3)))])]),
    "2 latents": lambda: units.kl_per_latent([0.2, 3.0], [0.0, 1.0]),
    "400 latents": lambda: units.kl_per_latent(RNG.gamma(1, size=400), RNG.gamma(0.02, size=400)),
    "dead latents": lambda: units.kl_per_latent(np.zeros(60), np.zeros(60)),
    "depth": lambda: depth.depth_errors([pair(), pair(), pair()], metric=True),
    "depth of one frame": lambda: depth.depth_errors([pair(LONG[:20])], metric=True),
    "depth without readings": lambda: depth.depth_errors([pair(reading=False)], metric=True),
    "relative depth": lambda: depth.depth_errors([pair()] * 8, metric=False),
    "ways": lambda: interpolation.parent_shares([np.linspace(0, 1, 16)] * 4, ["4 to 9", LONG[:30], "a", "b"]),
}


def pair(name: str = "kitchen", *, reading: bool = True) -> depth.DepthPair:
    measured = np.linspace(0.5, 0.9, 192, dtype=np.float32).reshape(12, 16)
    measured[:3] = np.nan
    if not reading:
        measured[:] = np.nan
    color = np.zeros((12, 16, 3), np.uint8)
    return depth.DepthPair(color, color, measured, np.full((12, 16), 0.75, np.float32), name)


@pytest.mark.parametrize("name", CASES)
def test_no_word_is_cut_off(name: str) -> None:
    drawn(CASES[name])


@pytest.mark.parametrize("name", ["2 latents", "grid"])
def test_the_same_figure_is_the_same_bytes(name: str) -> None:
    first, second = style.png(CASES[name]), style.png(CASES[name])
    assert first == second
    assert first.startswith(b"\x89PNG")
    assert style.png(CASES[name], style.DARK) != first


def test_drawing_leaves_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    style.png(CASES["grid"], style.DARK)
    assert dict(matplotlib.rcParams) == before


def test_a_name_in_another_script_is_drawn() -> None:
    style.png(lambda: grid.grid([Block([Row("猫 🐈", squares(2))])]))


# The loss


def test_terms_of_the_loss_have_panels() -> None:
    figure = drawn(lambda: loss.loss_curve(table(train__sigma_depth=lambda e: 0.1), 3))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    wanted = ["Loss", "KL term", "Weight of the KL term", "Sigma of the likelihood"]
    assert [title for title in titles if title] == wanted
    found = lines(figure, "Loss")
    assert found["training"][:2] == [(1.0, 200.0), (2.0, 100.0)]
    assert found["validation"][0] == (1.0, 210.0)


def test_a_value_that_is_not_finite_is_a_gap_and_an_absent_one_is_none() -> None:
    rows = table(9, val__loss=lambda e: math.nan if e == 5 else 1.0 * e)
    for row in rows[::3]:
        del row["train/loss"]
    figure = drawn(lambda: loss.loss_curve(rows))
    axes = next(axes for axes in figure.axes if axes.get_title(loc="left") == "Loss")
    stretches = [[x for x, _ in line.get_xydata()] for line in axes.get_lines()]
    assert stretches == [[2, 3, 5, 6, 8, 9], [1, 2, 3, 4], [6, 7, 8, 9]]
    assert axes.get_xlabel() == "epoch; validation: 1 not finite"


def test_an_epoch_that_was_run_again_counts_once() -> None:
    rows = [*table(4), {"epoch": 3.0, "train/loss": 7.0, "val/loss": 8.0}]
    assert lines(drawn(lambda: loss.loss_curve(rows)), "Loss")["training"] == [
        (1, 200),
        (2, 100),
        (3, 7),
        (4, 50),
    ]


def test_errors_of_several_sets_have_names() -> None:
    columns = {f"val{name}__mse_per_image": lambda e: 3.0 * e for name in ("", "__nyu", "__drives")}
    found = lines(drawn(lambda: loss.loss_curve(table(**columns))), "Squared error, validation")
    assert list(found) == ["all images", "nyu", "drives"]


@pytest.mark.parametrize("rows", [[], [{"epoch": 1.0}], [{"epoch": 1.0, "train/loss": math.nan}]])
def test_no_loss_no_curve(rows: list[dict[str, float]]) -> None:
    assert not loss.drawable(rows)
    with pytest.raises(ValueError, match="no term of a loss"):
        loss.loss_curve(rows)


# Pictures


def test_network_values_become_colours() -> None:
    x = np.array([-1.0, 0.0, 1.0, 3.0, np.nan], np.float32).reshape(1, 1, 5)
    assert images.colour(x)[0, :, 0].tolist() == [0, 128, 255, 255, 0]
    rgbd = np.stack([np.full((2, 2), value, np.float32) for value in (-1, 0, 1, 0)])
    assert images.colour(rgbd)[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("size", "height", "wanted"),
    [
        ((28, 20), 144, (140, 100)),
        ((128, 128), 144, (128, 128)),
        ((1024, 512), 96, (96, 48)),
        ((3, 4), 2, (2, 3)),
    ],
)
def test_pictures_grow_by_whole_pixels_and_shrink_by_averages(
    size: tuple[int, int], height: int, wanted: tuple[int, int]
) -> None:
    picture = RNG.integers(0, 255, (*size, 3), np.uint8)
    got = images.resized(picture, height)
    assert got.shape[:2] == wanted
    if wanted[0] % size[0] == 0:
        times = wanted[0] // size[0]
        np.testing.assert_array_equal(got[::times, ::times], picture)


def test_a_grid_shows_its_pixels_as_they_are() -> None:
    picture = RNG.integers(0, 255, (100, 80, 3), np.uint8)
    figure = drawn(lambda: grid.grid([Block([Row("x", [None, picture])])]))
    canvas = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    windows = np.lib.stride_tricks.sliding_window_view(canvas, (1, 80, 3))[:, :, 0, 0]
    places = np.argwhere((windows == picture[0]).all((-1, -2)))
    assert len(places) == 1
    top, left = places[0]
    np.testing.assert_array_equal(canvas[top : top + 100, left : left + 80], picture)


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture"):
        grid.grid([Block([Row("x", [None])])])


def test_words_are_shortened_to_fit() -> None:
    assert style.fitted("short", 9, 400) == "short"
    cut = style.fitted(LONG, 9, 100)
    assert cut.endswith("…")
    assert style.text_width(cut, 9) <= 100 < style.text_width(LONG, 9)
    assert style.fitted(LONG, 9, 0) == "…"


@pytest.mark.parametrize("spec", [LOG, MINMAX, InputSpec(3, 12, 16), InputSpec(1, 600, 20)])
def test_sheets_of_several_epochs_come_apart_again(spec: InputSpec) -> None:
    shape = (5, spec.channels, spec.height, spec.width)
    target = RNG.uniform(-1, 1, shape).astype(np.float32)
    valid = RNG.random((5, spec.height, spec.width)) > 0.2
    made = {
        epoch: sheets.sheet(target, RNG.uniform(-1, 1, shape).astype(np.float32), valid, spec)
        for epoch in (3, 20)
    }
    block = epochs.by_epoch(made, spec, "rooms", 3)
    assert block is not None
    kinds = 1 if spec.depth is None else 2
    assert len(block.rows) == 3 * kinds
    assert [row.label for row in block.rows[:3]] == [
        "original" if kinds == 1 else "colour, original",
        "epoch 3",
        "epoch 20",
    ]
    w = made[3].shape[1] // 5
    np.testing.assert_array_equal(block.rows[0].tiles[1], sheets.bounded(images.colour(target[2])))
    np.testing.assert_array_equal(
        block.rows[2].tiles[2],
        made[20][w and made[20].shape[0] // (2 * kinds) :][: made[20].shape[0] // (2 * kinds), 4 * w :],
    )


def test_sheets_of_another_model_are_not_cut() -> None:
    assert epochs.by_epoch({1: np.zeros((24, 16, 3), np.uint8)}, LOG, "rooms", 8) is None
    other = {1: np.zeros((24, 16, 3), np.uint8), 2: np.zeros((24, 32, 3), np.uint8)}
    assert epochs.by_epoch(other, InputSpec(3, 12, 16), "rooms", 8) is None


# Latents


def test_tsne_keeps_neighbours_and_repeats() -> None:
    latents = np.concatenate([RNG.normal(5 * i, 0.1, (15, 6)) for i in range(3)]).astype(np.float32)
    first = latent_map.tsne(latents)
    np.testing.assert_array_equal(first, latent_map.tsne(latents))
    again = latent_map.tsne(latents, first)
    for map_ in (first, again):
        middles = np.array([map_[15 * i : 15 * i + 15].mean(0) for i in range(3)])
        nearest = np.linalg.norm(map_[:, None] - middles, axis=2).argmin(1)
        np.testing.assert_array_equal(nearest, np.repeat(np.arange(3), 15))


def test_common_limits_hold_all_maps() -> None:
    left, right, bottom, top = latent_map.common_limits(
        [np.array([[0, 0], [1, 2]]), np.array([[-3, 1], [0, 5]])]
    )
    assert left < -2.9
    assert right > 0.9
    assert bottom < 0.1
    assert top > 4.9
    assert latent_map.common_limits([np.zeros((4, 2))]) == pytest.approx((-1e-3, 1e-3, -1e-3, 1e-3))


def test_a_plane_has_its_first_latent_to_the_right_and_its_second_upwards() -> None:
    tiles = np.zeros((6, 2, 2, 3), np.uint8)
    tiles[2] = 200  # z1 the largest, z2 the smallest
    figure = drawn(lambda: latent_map.latent_plane({"": tiles}, np.arange(3.0), np.arange(2.0)))
    picture = figure.axes[0].get_images()[0].get_array()
    assert picture is not None
    assert (picture[2:, 4:] == 200).all()
    assert picture[:2].max() == 0
    assert figure.axes[0].get_images()[0].get_extent() == [-0.5, 2.5, -0.5, 1.5]


def test_latents_are_sorted_and_counted() -> None:
    figure = drawn(lambda: units.kl_per_latent([0.1, 3.0, 1.0], [0.001, 0.5, 0.02]))
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "2 of 3 latents are active; 4.1 nats in all"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "0"]


# Ways and depth


def test_shares_of_a_way() -> None:
    way = np.linspace(0, 1, 5)[:, None, None, None] * np.ones((1, 3, 4, 4))
    np.testing.assert_allclose(interpolation.shares(way), [0, 0.25, 0.5, 0.75, 1])
    dominated = np.where(np.arange(5)[:, None, None, None] < 4, 0.0, 1.0) * np.ones((1, 3, 4, 4))
    np.testing.assert_allclose(interpolation.shares(dominated), [0, 0, 0, 0, 1])
    np.testing.assert_allclose(interpolation.shares(np.zeros((3, 1, 2, 2))), [0, 0.5, 1])


def test_an_animation_goes_there_and_back() -> None:
    ways = [squares(5), squares(5)]
    frames = interpolation.moving(ways, height=24)
    assert {frame.shape for frame in frames} == {(24, 2 * 32 + 8, 3)}
    seen = [int(frame[0, 0, 0]) // 20 for frame in frames]
    assert seen == [0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4, 3, 2, 1]
    assert len(interpolation.moving([squares(2)], height=24)) == 8


def test_errors_of_depth() -> None:
    one = pair()
    error = one.error(True)
    assert np.isnan(error[:3]).all()
    np.testing.assert_allclose(error[5], np.abs(0.75 - one.measured[5]) / one.measured[5], rtol=1e-6)
    np.testing.assert_allclose(one.error(False)[5], np.abs(0.75 - one.measured[5]), rtol=1e-6)


def plate(depth_m: float, color: tuple[int, int, int]) -> View:
    rgb = np.broadcast_to(np.array(color, np.uint8), (40, 40, 3)).copy()
    return View(rgb, np.full((40, 40), depth_m, np.float32), points.assumed_camera(40, 40))


def test_points_stand_before_those_behind_them() -> None:
    near, far = plate(2.0, (255, 0, 0)), plate(4.0, (0, 0, 255))
    near.depth_m[:, 10:] = 0
    rgb = np.where(near.depth_m[..., None] > 0, near.rgb, far.rgb)
    both = View(rgb, np.where(near.depth_m > 0, near.depth_m, far.depth_m), near.camera)
    for side in points.SIDES:
        picture = points.render(both, side, both)
        assert picture.shape == (240, 320, 3)
        assert (picture == (255, 0, 0)).all(-1).sum() > 500
        assert (picture == (0, 0, 255)).all(-1).sum() > 500
    # From the left the near edge hides none of itself; alone it covers what it covered before
    alone = points.render(near, points.SIDES[0], both)
    assert ((alone == (255, 0, 0)).all(-1) <= (points.render(both, points.SIDES[0], both)[..., 0] > 0)).all()


def test_nothing_to_see() -> None:
    empty = plate(0.0, (9, 9, 9))
    assert (points.render(empty, points.SIDES[0], empty) == points.GROUND).all()
    assert (points.render(empty, points.SIDES[0], plate(2.0, (9, 9, 9))) == points.GROUND).all()
