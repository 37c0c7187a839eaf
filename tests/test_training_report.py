"""``python -m training report``: what it writes for each kind of run, and for runs that lack something."""

from __future__ import annotations

import base64
import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure

from edgevae.errors import EdgevaeError
from edgevae.files import write_whole
from edgevae.pictures import png
from edgevae.preprocess import InputSpec
from training import checkpoint, models, report
from training.figures import style
from training.figures.sheets import sheet
from training.report import ways
from training.report.material import ANIMATIONS, PICTURES

CACHE = Path()  # of frames; the same ones for all tests


@pytest.fixture(scope="module", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    global CACHE
    CACHE = tmp_path_factory.mktemp("cache")


pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_torch_thread"),
]  # jsonargparse warns of its own

ALWAYS = {
    "loss_curve",
    "reconstructions",
    "generated_samples",
    "latent_variations",
    "latent_space_2d",
    "interpolation",
    "interpolation_parents",
    "kl_per_latent",
    "validation_by_epoch",
}
DEPTH = {"depth_errors", "point_cloud"}
LIGHT_RUN = ["--images", "2", "--steps", "3"]


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn, which takes most of a report's time; other tests draw them all."""
    blank = png(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))

    def sketch(draw: Callable[[], Figure], theme: str = style.LIGHT) -> bytes:
        if theme == style.LIGHT:
            with matplotlib.rc_context(style.settings(theme)):  # type: ignore[arg-type]
                draw()
        return blank

    monkeypatch.setattr(style, "png", sketch)


def write_mnist(root: Path, count: int = 12) -> None:
    rng = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        for name, values in (
            ("images-idx3", rng.integers(0, 256, (count, 28, 28), np.uint8)),
            ("labels-idx1", (np.arange(count) % 3).astype(np.uint8)),
        ):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            root.mkdir(parents=True, exist_ok=True)
            (root / f"{prefix}-{name}-ubyte").write_bytes(head + values.tobytes())


DRIVES = {
    "kind": "synthetic",
    "name": "drives",
    "seeds": [0, 1],
    "frames": 3,
    "stride": 5,
    "height": 48,
    "hold_out": ["*"],
}
DIGITS = {"kind": "mnist", "path": "mnist", "name": "digits", "licence": "CC BY-SA 3.0", "hold_out": ["test"]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "rgbd": ("rgbd-vae", {"width": 2, "latent_dim": 5, "size": 32}),
    "relative": ("rgbd-vae", {"width": 2, "latent_dim": 3, "size": 32, "depth": {"encoding": "minmax"}}),
    "plane": ("transition-vae", {"channels": 4, "size": 32, "latent_dim": 2}),
    "color": ("rgbd-vae", {"width": 2, "latent_dim": 3, "size": 32, "channels": 3}),
    "one": ("fc-vae", {"channels": 1, "size": 28, "hidden": [8], "latent_dim": 1}),
    "grey": ("beta-vae", {}),
    "conditional": ("conditional-vae", {"condition_dim": 3}),
    "autoencoder": ("conv-autoencoder", {"channels": 3, "size": 36}),
}


def make_run(folder: Path, kind: str, epochs: tuple[int, ...] = (1, 2), **terms: Any) -> Path:
    """A run as ``fit`` leaves it, but for its random weights."""
    name, options = MODELS[kind]
    digits = kind in ("one", "grey", "conditional")
    root = folder.parent / "data"
    if digits:
        write_mnist(root / "mnist")
    run = folder
    (run / "checkpoints").mkdir(parents=True)
    data = {
        "sets": [DIGITS if digits else DRIVES],
        "root": str(root),
        "cache_dir": str(CACHE),
        "workers": 0,
    }
    loss = {"likelihood": "mse" if kind == "autoencoder" else "gaussian"}
    config = {"model": {"model": name, "options": options, "loss": loss}, "data": data}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for seed, which in enumerate(("best", "last", *(f"epoch-{epoch:04d}" for epoch in epochs))):
        torch.manual_seed(seed)
        save(run / "checkpoints" / f"{which}.ckpt", models.build(name, **options).eval())
    net = models.build(name, **options)
    columns = ["train/loss", "val/loss", "train/nll", "val/nll", "val/mse_per_image", "val/set/mse_per_image"]
    columns += ["train/kl", "val/kl", "train/kl_weight", "val/active_units"] if net.posterior else []
    rows = [["epoch", "step", *columns]]
    rows += [[str(e), str(9 * e), *(f"{terms.get(column, 100 / e)}" for column in columns)] for e in (1, 2)]
    (run / "metrics.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    for epoch in (1, 2):
        draw_sheet(run, net.input, epoch)
    return run


def save(path: Path, net: models.VAE, **about: Any) -> None:
    provenance = {
        "data": [{"name": "rooms <&>", "scenes": ["hall", "attic"], "licence": "CC BY 4.0", "pairs": 1234}],
        "command": "python -m training fit --config x.yaml",
        "seed": 7,
        "created": "2026-11-21",
        "epochs": 2,
        "training_minutes": 3.5,
    } | about
    content = {"state_dict": net.state_dict(prefix="net."), "epoch": 1}
    torch.save(content | {checkpoint.KEY: checkpoint.describe(net, provenance)}, path)


def draw_sheet(run: Path, spec: InputSpec, epoch: int) -> None:
    x = np.random.default_rng(epoch).uniform(-1, 1, (3, spec.channels, spec.height, spec.width))
    picture = sheet(
        x.astype(np.float32), x.astype(np.float32), np.ones((3, spec.height, spec.width), bool), spec
    )
    (run / "pictures").mkdir(exist_ok=True)
    write_whole(run / "pictures" / f"set-epoch-{epoch:04d}.png", png(picture))


def written(folder: Path) -> set[str]:
    return {path.stem if path.suffix == ".png" else path.name for path in folder.iterdir()}


def text_of(folder: Path) -> str:
    """The page without its pictures."""
    return re.sub(r"data:[a-z/]+;base64,[^\"]*", "", (folder / "report.html").read_text())


def words(folder: Path) -> str:
    page = re.sub(r"<style>.*?</style>", "", text_of(folder), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


@pytest.mark.parametrize(
    ("kind", "more", "less"),
    [
        ("rgbd", DEPTH | {"latent_space_epochs"}, set()),
        ("relative", {"depth_errors", "latent_space_epochs"}, set()),
        ("plane", DEPTH | {"latent_plane", "latent_space_epochs"}, set()),
        ("color", {"latent_space_epochs"}, set()),
        ("one", set(), set()),
        ("grey", {"latent_space_epochs"}, set()),
        ("conditional", {"latent_plane", "latent_space_epochs"}, set()),
        ("autoencoder", {"latent_space_epochs"}, {"generated_samples", "kl_per_latent"}),
    ],
)
def test_every_kind_of_run_has_its_pictures(
    kind: str,
    more: set[str],
    less: set[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sketched: None,
) -> None:
    run = make_run(tmp_path / "run", kind)
    assert report.main([str(run), *LIGHT_RUN]) == 0
    assert "report.html" in capsys.readouterr().out
    folder = run / "report"
    assert written(folder) == (ALWAYS | more | {*ANIMATIONS, "report.html"}) - less
    page = (folder / "report.html").read_text()
    # Nothing is fetched: every source is in the page, and links stay in it.
    sources = re.findall(r'(?:src|srcset)="([^"]{0,30})', page)
    assert len(sources) == 2 * len(list(folder.glob("*.png"))) + 1
    assert all(source.startswith("data:image/") for source in sources)
    links, anchors = re.findall(r'href="([^"]*)"', page), re.findall(r'id="([^"]*)"', page)
    assert links == [f"#{anchor}" for anchor in anchors]
    assert not re.search(r"https?:|@import|url\(|<script|<link", text_of(folder))
    assert "prefers-color-scheme: dark" in page
    said = words(folder)
    for fact in ("rooms <&>", "CC BY 4.0", "1,234", "python -m training fit --config x.yaml", "3.5 min"):
        assert fact in said, fact
    assert ("no prior to sample from" in said) == (kind == "autoencoder")
    assert ("without metres" in said) == (kind == "relative")


def test_pictures_are_drawn_for_both_kinds_of_paper(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "color", epochs=())
    report.write(run, images=2, steps=3)
    for path in (run / "report").glob("*.png"):
        picture = cv2.imread(str(path))
        assert picture is not None, path
        assert picture.std() > 0, f"{path} is blank"
        assert (picture[0, 0] == 255).all(), f"{path} is not on white paper"
    page = (run / "report" / "report.html").read_text()
    dark = [base64.b64decode(found) for found in re.findall(r'srcset="[^,]*,([^"]*)"', page)]
    assert len(dark) == len(list((run / "report").glob("*.png")))
    for content in dark:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture[0, 0].max() < 40


def test_a_run_without_kept_checkpoints_has_a_map_without_history(tmp_path: Path, sketched: None) -> None:
    run = make_run(tmp_path / "run", "color", epochs=())
    report.write(run, images=1, steps=2)
    assert "latent_space_epochs" not in written(run / "report")
    assert "the run kept no checkpoints of its epochs. run.keep_every" in words(run / "report")


def test_nan_in_a_column(tmp_path: Path, sketched: None) -> None:
    run = make_run(tmp_path / "run", "color", **{"val/loss": "nan", "val/kl": "inf"})
    report.write(run, images=1, steps=2)
    assert "nan" in words(run / "report")
    assert "loss_curve" in written(run / "report")


def test_data_that_is_gone_costs_what_needs_it(tmp_path: Path, sketched: None) -> None:
    run = make_run(tmp_path / "run", "grey")
    shutil.rmtree(tmp_path / "data")
    report.write(run)
    wanted = {"loss_curve", "generated_samples", "latent_variations", "validation_by_epoch", "report.html"}
    assert written(run / "report") == wanted
    said = words(run / "report")
    assert "Held-out frames cannot be read" in said
    assert "EDGEVAE_DATA" in said
    assert said.count("(not in this report)") == 4


def test_without_checkpoints_there_is_the_course_of_the_run(tmp_path: Path, sketched: None) -> None:
    run = make_run(tmp_path / "run", "grey")
    shutil.rmtree(run / "checkpoints")
    report.write(run)
    assert written(run / "report") == {"loss_curve", "report.html"}
    assert "has no checkpoint" in words(run / "report")


def test_a_damaged_best_gives_way_to_the_last(tmp_path: Path, sketched: None) -> None:
    run = make_run(tmp_path / "run", "color", epochs=(1, 2, 3))
    for name in ("best", "epoch-0002"):
        (run / "checkpoints" / f"{name}.ckpt").write_bytes(b"nonsense")
    other = models.build("rgbd-vae", width=2, latent_dim=4, size=32, channels=3)
    save(run / "checkpoints" / "epoch-0003.ckpt", other)
    report.write(run, images=1, steps=2)
    said = words(run / "report")
    assert "best.ckpt cannot be read as a checkpoint" in said
    assert "checkpoint 'last'" in said
    assert "The checkpoint of epoch 2 is left out" in said
    assert "The checkpoint of epoch 3 is of another model" in said


def test_a_model_that_diverged(tmp_path: Path, sketched: None) -> None:
    run = make_run(tmp_path / "run", "color")
    net = models.build("rgbd-vae", **MODELS["color"][1])
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    save(run / "checkpoints" / "best.ckpt", net)
    report.write(run, images=1, steps=2)
    assert "its training has diverged" in words(run / "report")


def test_pictures_that_are_damaged_or_of_another_model(tmp_path: Path, sketched: None) -> None:
    run = make_run(tmp_path / "run", "color")
    (run / "pictures" / "set-epoch-0001.png").write_bytes(b"nonsense")
    draw_sheet(run, InputSpec(1, 20, 20), 2)
    report.write(run, images=1, steps=2)
    assert "damaged, or of another model" in words(run / "report")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere does not exist"),
        ([__file__], "is no folder"),
        (["{tmp}"], "holds no config.yaml"),
        (["{run}", "--steps", "1"], "at least 1 image and 2 steps"),
        (["{run}", "--images", "0"], "at least 1 image and 2 steps"),
        (["{run}", "--epochs", "1", "5"], "kept no checkpoint of epoch 5, it kept those of 1, 2"),
        (["{run}", "--checkpoint", "7"], "epoch-0007.ckpt does not exist"),
        (["{run}", "--checkpoint", "wrost"], "wrost.ckpt does not exist"),
        (["{run}", "-o", "{run}/config.yaml"], "cannot write"),
        (["{empty}"], "neither metrics.csv nor a checkpoint"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    run = make_run(tmp_path / "runs" / "color", "color")
    bare = tmp_path / "empty"
    bare.mkdir()
    shutil.copy(run / "config.yaml", bare)
    places = {"tmp": str(tmp_path), "run": str(run), "empty": str(bare)}
    with pytest.raises(EdgevaeError) as caught:
        report.main([argument.format(**places) for argument in arguments])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_output_beside_other_files(tmp_path: Path, sketched: None) -> None:
    """Files of others stay; pictures of an earlier report go."""
    run, folder = make_run(tmp_path / "run", "color"), tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "latent_plane.png").write_text("of an earlier report")
    with pytest.raises(
        EdgevaeError, match=r"latent_plane\.png exists; choose another name or pass --overwrite"
    ):
        report.main([str(run), "-o", str(folder)])
    page = report.write(run, folder, overwrite=True, images=1, steps=2)
    assert page == folder / "report.html"
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "latent_plane.png").exists()
    assert not (run / "report").exists()


def test_the_same_report_is_the_same_bytes(tmp_path: Path, sketched: None) -> None:
    run = make_run(tmp_path / "run", "color")
    first = report.write(run, tmp_path / "a", images=1, steps=2).read_bytes()
    assert report.write(run, tmp_path / "b", images=1, steps=2).read_bytes() == first


def test_an_interrupted_report_leaves_the_earlier_one(
    tmp_path: Path, sketched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", "color")
    report.write(run, images=1, steps=2)
    before = {path.name: path.read_bytes() for path in (run / "report").iterdir()}

    def interrupted(*arguments: Any, **options: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "page", interrupted)  # when all pictures are made
    with pytest.raises(KeyboardInterrupt):
        report.write(run, images=2, steps=3)
    assert {path.name: path.read_bytes() for path in (run / "report").iterdir()} == before
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "pictures",
        "report",
    }


def test_ways_join_different_groups() -> None:
    class Held:
        groups = np.array([0] * 9 + [1])

        def __len__(self) -> int:
            return 10

    held: Any = Held()
    pairs = ways.parents(held)
    assert len(pairs) == 4
    assert all(held.groups[a] != held.groups[b] for a, b in pairs)
    assert pairs == ways.parents(held)


def test_animations_have_all_steps(tmp_path: Path, sketched: None) -> None:
    run = make_run(tmp_path / "run", "color")
    report.write(run, images=1, steps=20)
    for name in ANIMATIONS:
        reader = cv2.VideoCapture(str(run / "report" / name), cv2.CAP_FFMPEG)
        count = 0
        while reader.read()[0]:
            count += 1
        assert count == 20 * 2 - 2 + 6, name  # there and back, resting at both ends
    assert "20 steps, of which 16 are shown" in words(run / "report")


def test_large_pictures_are_embedded_smaller(tmp_path: Path) -> None:
    from training.report.page import picture

    noise = np.random.default_rng(0).integers(0, 255, (400, 500, 3), np.uint8)
    small, large = png(noise[:20, :20]), png(noise)
    page = picture(large, small, "a < b", "c & d")
    kinds = re.findall(r"data:image/(\w+);base64,([^\"]*)", page)
    assert [kind for kind, _ in kinds] == ["png", "webp"]
    got = cv2.imdecode(np.frombuffer(base64.b64decode(kinds[1][1]), np.uint8), cv2.IMREAD_COLOR)
    assert got is not None
    assert got.shape == (400, 500, 3)
    assert 'width="347"' in page
    assert "a &lt; b" in page
    assert "c &amp; d" in page


def test_every_picture_has_a_name_of_its_own() -> None:
    assert len(set(PICTURES)) == len(PICTURES)
    assert {"loss_curve", "reconstructions", "generated_samples", "latent_variations", "latent_space_2d"} <= {
        *PICTURES
    }
