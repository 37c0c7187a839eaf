"""Every model of the registry as ONNX; in a file of its own because PyTorch's exporter takes its time."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import SMALL, batch

import training
from edgevae import export

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module", autouse=True)
def _operators_parsed_once() -> Iterator[None]:
    """The exporter parses the sources of all its operators in each call, which takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module("torch.onnx._internal.exporter._registration")
        registry = module.ONNXRegistry
        patch.setattr(registry, "from_torchlib", staticmethod(functools.cache(registry.from_torchlib)))
        yield


@pytest.mark.parametrize("name", training.models.REGISTRY)
def test_onnx(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = training.models.build(name, **SMALL[name]).eval()
    report = export.to_onnx(net, tmp_path / "m.onnx", frames=batch(net, 3)[0].numpy())
    # float32 sums of a few hundred terms in another order, with a factor of ten to spare
    assert max(report.latent_error, report.decoded_error) < 1e-5
    encoder, decoder = (
        onnxruntime.InferenceSession(str(tmp_path / f"m.{half}.onnx")) for half in ("encoder", "decoder")
    )
    for count in (1, 3):  # the batch is free
        x, condition = batch(net, count)
        given = {} if condition is None else {"condition": condition.numpy()}
        (mean,) = encoder.run(["mean"], {"x": x.numpy(), **given})
        (y,) = decoder.run(["x"], {"z": mean, **given})
        with torch.no_grad():
            out = net(x, condition)
        np.testing.assert_allclose(mean, out.mean.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(y, out.y.numpy(), rtol=0, atol=1e-5)
