"""``edgevae interpolate``: both ends and the line between, as a sheet, a GIF and an MP4 that read back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgevae
from edgevae.animation import write_animation
from edgevae.cli import main
from edgevae.errors import LatentError, RecordError
from edgevae.interpolate import line
from edgevae.latent_of import latent_of
from edgevae.latents import read_latents


@pytest.fixture
def ends(tiny_model_path: Path, tmp_path: Path, rng: np.random.Generator) -> tuple[str, str]:
    """A row of a record, and a picture with its depth."""
    arguments = ["stream", "--camera", "synthetic", "--frames", "4", "--model", str(tiny_model_path), "-q"]
    assert main([*arguments, "--record", str(tmp_path / "z.h5")]) == 0
    cv2.imwrite(str(tmp_path / "c.png"), rng.integers(0, 256, (48, 64, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "d.png"), rng.integers(500, 5000, (48, 64), np.uint16))
    return f"{tmp_path / 'z.h5'}#2", f"{tmp_path / 'c.png'},{tmp_path / 'd.png'}"


def test_the_line_ends_at_both_ends(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 9)).astype(np.float32)
    z = line(a, b, 5)
    np.testing.assert_array_equal(z[0], a)
    np.testing.assert_array_equal(z[4], b)
    np.testing.assert_allclose(z[2], (a + b) / 2, atol=1e-6)
    assert z.dtype == np.float32
    for other, steps in ((b[:3], 5), (b, 1)):
        with pytest.raises(LatentError):
            line(a, other, steps)


def test_what_an_argument_names(ends: tuple[str, str], tiny_model_path: Path, tmp_path: Path) -> None:
    model = edgevae.load(tiny_model_path)
    row = latent_of(ends[0], model)
    np.testing.assert_array_equal(row.latent, read_latents(tmp_path / "z.h5").latent[2])
    assert row.name == "z.h5#2"
    rgb = np.ascontiguousarray(cv2.imread(str(tmp_path / "c.png"))[..., ::-1])
    depth = cv2.imread(str(tmp_path / "d.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(latent_of(ends[1], model).latent, model.encode(rgb, depth))
    np.testing.assert_array_equal(latent_of(str(tmp_path / "c.png"), model).latent, model.encode(rgb))
    with edgevae.open_source("synthetic:5") as source:
        frames = [source.read() for _ in range(4)]
    assert frames[3] is not None
    wanted = model.encode(frames[3].rgb, frames[3].depth)
    np.testing.assert_array_equal(latent_of("synthetic:5#3", model).latent, wanted)
    (tmp_path / "c.png").rename(tmp_path / "c#1.png")  # a # in a name that is there separates nothing
    np.testing.assert_array_equal(latent_of(str(tmp_path / "c#1.png"), model).latent, model.encode(rgb))


@pytest.mark.parametrize("steps", [2, 5, 8, 16])
def test_a_sheet(ends: tuple[str, str], tiny_model_path: Path, tmp_path: Path, steps: int) -> None:
    path = tmp_path / "out.png"
    arguments = [
        "interpolate",
        *ends,
        "-o",
        str(path),
        "--steps",
        str(steps),
        "--model",
        str(tiny_model_path),
    ]
    assert main(arguments) == 0
    sheet = cv2.imread(str(path))
    columns, rows = min(steps, 8), 1 if steps <= 8 else 2
    assert sheet.shape[1] >= columns * 128
    assert sheet.shape[0] >= rows * 2 * 128  # colour above depth
    assert main(arguments) == 2  # it is there already
    assert main([*arguments, "--overwrite"]) == 0


def test_a_gif(ends: tuple[str, str], tiny_model_path: Path, tmp_path: Path) -> None:
    if not hasattr(cv2, "imencodeanimation"):
        pytest.skip(f"OpenCV {cv2.__version__} writes no GIF")
    path = tmp_path / "out.gif"
    arguments = ["interpolate", *ends, "-o", str(path), "--steps", "6", "--fps", "10"]
    assert main([*arguments, "--model", str(tiny_model_path)]) == 0
    done, animation = cv2.imreadanimation(str(path))
    assert done
    assert len(animation.frames) == 6
    assert list(animation.durations) == [100] * 6
    assert np.abs(animation.frames[0].astype(int) - animation.frames[5]).mean() > 1
    assert not list(tmp_path.glob(".*"))


def test_an_mp4(ends: tuple[str, str], tiny_model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    arguments = ["interpolate", *ends, "-o", str(path), "--steps", "6", "--model", str(tiny_model_path)]
    assert main(arguments) == 0
    with edgevae.open_source(str(path)) as source:
        frames = list(source)
    assert len(frames) == 6
    assert source.fps == 8.0
    assert np.abs(frames[0].rgb.astype(int) - frames[5].rgb).mean() > 1
    assert not list(tmp_path.glob(".*"))


def test_an_mp4_that_does_not_fit_is_no_mp4(tmp_path: Path) -> None:
    code = """
import resource, sys
import numpy as np
from edgevae.animation import write_animation
from edgevae.errors import RecordError
from pathlib import Path
pictures = list(np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), np.uint8))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_animation(Path(sys.argv[1]), pictures, fps=5)
except RecordError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.mp4")], capture_output=True, text=True, timeout=60
    )
    assert "cannot write" in done.stdout
    assert done.stderr == ""
    assert "of 8 pictures" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_odd_size_keeps_its_last_row(tmp_path: Path) -> None:
    pictures = [np.full((33, 35, 3), 50 * i, np.uint8) for i in range(3)]
    write_animation(tmp_path / "a.mp4", pictures, fps=5)
    with edgevae.open_source(str(tmp_path / "a.mp4")) as source:
        frames = list(source)
    assert [frame.rgb.shape for frame in frames] == [(34, 36, 3)] * 3
    with pytest.raises(RecordError, match=r"wanted \.gif or \.mp4"):
        write_animation(tmp_path / "a.avi", pictures, fps=5)


@pytest.mark.parametrize(
    ("a", "options", "word"),
    [
        ("{tmp}/z.h5", [], "say which one"),
        ("{tmp}/z.h5#4", [], "no row 4; its rows are 0 to 3"),
        ("{tmp}/z.h5#x", [], "wanted RECORD#ROW"),
        ("{tmp}/none.h5#1", [], "none.h5"),
        ("{tmp}/none.png", [], "none.png"),
        ("{tmp}/c.png#1", [], "has 1 frame, wanted frame 1"),
        ("{tmp}/torn.png", [], "torn.png"),
        ("97", [], "97"),
        ("synthetic", ["-o", "{tmp}/x.webp"], "wanted .gif, .mp4 or .png"),
        ("synthetic", ["-o", "{tmp}"], "suffix"),
        ("synthetic", ["-o", "{tmp}/c.png"], "exists"),
        ("synthetic", ["--steps", "1"], "steps"),
        ("synthetic", ["--fps", "0"], "fps"),
        ("synthetic", ["--model", "{tmp}/none.safetensors"], "none.safetensors"),
    ],
)
def test_nonsense_is_one_sentence(
    ends: tuple[str, str],
    tiny_model_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    a: str,
    options: list[str],
    word: str,
) -> None:
    (tmp_path / "torn.png").write_bytes((tmp_path / "c.png").read_bytes()[:99])
    before = sorted(tmp_path.iterdir())
    words = ["interpolate", a, ends[1], "-o", "{tmp}/out.png", "--model", str(tiny_model_path), *options]
    capsys.readouterr()
    assert main([one.replace("{tmp}", str(tmp_path)) for one in words]) == 2
    complaint = capsys.readouterr().err
    assert word in complaint
    assert complaint.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_latents_of_another_model_are_refused(
    ends: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["interpolate", ends[0], "synthetic", "-o", str(tmp_path / "x.png")]) == 2
    assert "pass the model they were made with" in capsys.readouterr().err
