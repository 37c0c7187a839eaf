"""The posterior's deviation, fitted to how far latents move as depth goes away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_training_compare import HELD, SIZE, TRAIN, write_frames

import edgevae
import training
from edgevae import export, model_file
from edgevae.preprocess import FloatArray, withhold
from training import certainty
from training.data import FramesDataModule
from training.evaluate import coverage
from training.evaluate.depth import GIVEN, NONE
from training.runs import datamodule

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("one_torch_thread"),
]

LATENTS = 6


def made(folder: Path, augment: dict[str, float], **options: Any) -> tuple[Path, FramesDataModule]:
    """A model file with random weights, and walls to fit it on."""
    torch.manual_seed(0)
    net = training.models.build(
        "rgbd-vae",
        **{"width": 4, "latent_dim": LATENTS, "size": SIZE, "depth": {
            "encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.5
        }} | options,
    ).eval()  # fmt: skip
    path = folder / "net.safetensors"
    export.to_native(net, path)
    if not (folder / "walls").exists():
        write_frames(folder / "walls", 4 * TRAIN + HELD)
    section = {
        "sets": [{"kind": "pairs", "path": "walls", "name": "walls", "hold_out_last": HELD}],
        "root": str(folder), "cache_dir": str(folder / "cache"), "augment": augment,
    }  # fmt: skip
    return path, datamodule({"data": section}, folder / "config.yaml", net.input)


def posteriors(path: Path, x: FloatArray) -> dict[str, tuple[FloatArray, FloatArray]]:
    model = edgevae.load(path)
    found = {}
    for how, part in ((GIVEN, x), (NONE, withhold(x, np.ones_like(x[:, 3], np.bool_), model.spec.input))):
        z, std = model.posterior_tensor(part)
        found[how] = (z, std)
    return found


@pytest.mark.parametrize("head_width", [0, LATENTS + 4])
def test_the_deviation_grows_to_what_the_latents_move(
    head_width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certainty, "FRAMES", 256)
    path, data = made(tmp_path, {"drop_depth": 0.5}, head_width=head_width)
    document, tensors, _ = model_file.read(path)
    # Latents of random weights hardly move: widen them to 1, as those of a trained network, and narrow the
    # deviation.
    frames = data.trained("walls")
    x = np.stack([frames[i]["input"].numpy() for i in range(len(frames))])
    last = document["encoder"][-1]
    tensors[last["weight"]][:LATENTS] /= posteriors(path, x)[GIVEN][0].std(0)[:, None]
    tensors[last["bias"]][LATENTS:] = -4
    model_file.write(path, document, tensors)
    before = posteriors(path, x)
    assert certainty.fit_scale(document, tensors, data) == 256
    model_file.write(path, document, tensors)
    after = posteriors(path, x)

    for how in (GIVEN, NONE):
        np.testing.assert_allclose(after[how][0], before[how][0], rtol=1e-4, atol=1e-4)
    narrow, fitted = (coverage.of_latents(each)[0] for each in (before, after))
    assert narrow.spread is not None
    assert fitted.spread is not None
    assert narrow.spread > 3
    assert 0.7 < fitted.spread < 1.4
    assert fitted.observed[2] > 0.85
    grown = {how: np.median(after[how][1] / before[how][1]) for how in (GIVEN, NONE)}
    assert grown[NONE] > 4 * grown[GIVEN]


def test_directions_that_no_mean_needs_tell_what_is_wanted() -> None:
    """Twelve numbers between two layers, eight for means; what is wanted lies in none of them."""
    torch.manual_seed(0)
    rows = torch.randn(2000, 40)
    first = certainty._Linear(torch.randn(12, 40), torch.randn(12))
    last = certainty._Linear(torch.randn(16, 12), torch.randn(16))
    tells = torch.linalg.svd(first.weight)[2][12:15]  # three directions that the first layer does not see
    wanted = rows @ tells.T @ torch.randn(3, 8) + 5
    changed = certainty._give_away([first, last], 8, rows, wanted)
    assert [each.weight.shape for each in changed] == [(12, 40), (16, 12)]
    before, after = (certainty._through(layers, rows) for layers in ([first, last], changed))
    torch.testing.assert_close(after[:, :8], before[:, :8], rtol=1e-4, atol=1e-3)
    for layer, share in ((first, 0.02), (changed[0], 0.98)):
        between = torch.nn.functional.pad(layer(rows), (0, 1), value=1.0)
        left = wanted - between @ torch.linalg.lstsq(between, wanted).solution
        assert 1 - float(left.var() / wanted.var()) == pytest.approx(share, abs=0.03)

    narrow = certainty._Linear(last.weight[:, :8], last.bias)
    kept = [certainty._Linear(first.weight[:8], first.bias[:8]), narrow]
    assert certainty._give_away(kept, 8, rows, wanted) == kept


def test_what_cannot_be_fitted_stays(tmp_path: Path) -> None:
    for augment in ({"mirror": 0.5}, {"drop_depth": 0.5}):
        path, data = made(tmp_path, augment)
        document, tensors, _ = model_file.read(path)
        kept = {name: array.copy() for name, array in tensors.items()}
        if augment.get("drop_depth"):
            document["posterior"] = None
        assert certainty.fit_scale(document, tensors, data) == 0
        assert all((tensors[name] == kept[name]).all() for name in kept)
        path.unlink()
