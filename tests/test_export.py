"""Exports: what is written computes what the PyTorch module computes, or nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevae
from edgevae import Frame, export, model_file
from edgevae.errors import EdgevaeError, ExportError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edgevae import torch_layers, torch_model  # noqa: E402

LATENT = 5
SHAPE = (4, 12, 16)


class Net(nn.Module):
    """The smallest module that can be exported: two chains and a document."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module | None = None, **document: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder if decoder is not None else plain_decoder()
        self.changes = document

    def document(self) -> dict[str, Any]:
        return {
            "name": "net",
            "input": {"channels": SHAPE[0], "height": SHAPE[1], "width": SHAPE[2]},
            "latent_dim": LATENT,
            "condition_dim": 0,
            "posterior": {"scale": "softplus", "epsilon": 1e-5},
            "color": {"encoding": "fixed"},
            "depth": {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.0},
            "provenance": {"data": [{"name": "made up"}]},
        } | self.changes


def plain_encoder(*middle: nn.Module) -> nn.Sequential:
    return settle(nn.Sequential(*middle, nn.Flatten(), nn.LazyLinear(2 * LATENT)))


def plain_decoder(*middle: nn.Module) -> nn.Sequential:
    size = int(np.prod(SHAPE))
    return settle(nn.Sequential(nn.Linear(LATENT, size), nn.Unflatten(1, SHAPE), *middle), (1, LATENT))


def settle(chain: nn.Sequential, shape: tuple[int, ...] = (1, *SHAPE)) -> nn.Sequential:
    """Random weights for lazy layers, and BatchNorm statistics as a training would leave them."""
    chain.eval()(torch.zeros(shape))
    for module in chain.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.3, 3)
            if module.affine:
                nn.init.uniform_(module.weight, 0.3, 2)
                nn.init.normal_(module.bias)
    return chain


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (count, *SHAPE)).astype(np.float32)


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


# --- native ------------------------------------------------------------------------------------

EVERY_LAYER: dict[str, Callable[[], Net]] = {
    "linear": lambda: Net(plain_encoder()),
    "conv zeros": lambda: Net(plain_encoder(nn.Conv2d(4, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.LeakyReLU(0.2))),
    "conv replicate": lambda: Net(plain_encoder(nn.Conv2d(4, 3, 3, padding=1, padding_mode="replicate"))),
    "conv rectangle": lambda: Net(plain_encoder(nn.Conv2d(4, 3, (3, 5), padding=1, bias=False), nn.ReLU())),
    "conv same": lambda: Net(plain_encoder(nn.Conv2d(4, 3, 5, padding="same"), nn.Tanh())),
    "conv valid": lambda: Net(plain_encoder(nn.Conv2d(4, 3, 2, padding="valid"), nn.Sigmoid())),
    "norm without bias": lambda: Net(plain_encoder(nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3))),
    "norm not affine": lambda: Net(plain_encoder(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, affine=False))),
    "norm twice": lambda: Net(plain_encoder(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3))),
    "norm of vectors": lambda: Net(
        plain_encoder(nn.Flatten(), nn.LazyLinear(9, bias=False), nn.BatchNorm1d(9), nn.Softplus())
    ),
    "to [0, 1]": lambda: Net(plain_encoder(nn.Flatten(), torch_layers.ToUnit(), nn.LazyLinear(9), nn.ReLU())),
    "to [0, 1] without bias": lambda: Net(
        plain_encoder(torch_layers.ToUnit(), nn.Flatten(), nn.LazyLinear(9, bias=False), nn.BatchNorm1d(9))
    ),
    "pool": lambda: Net(plain_encoder(nn.MaxPool2d(2), nn.MaxPool2d(3, 1))),
    "nested, dropout": lambda: Net(
        plain_encoder(
            nn.Sequential(nn.Conv2d(4, 3, 3), nn.Dropout(0.5), nn.Sequential(nn.BatchNorm2d(3))),
            nn.Identity(),
            nn.Dropout2d(0.5),
        )
    ),
    "head of a convolution": lambda: Net(
        settle(nn.Sequential(nn.Conv2d(4, 2 * LATENT, SHAPE[1:], bias=False), nn.Flatten()))
    ),
    "no posterior": lambda: Net(
        settle(nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(SHAPE)), LATENT))), posterior=None
    ),
    "upsample": lambda: Net(
        plain_encoder(),
        settle(
            nn.Sequential(
                nn.Linear(LATENT, 7 * 3 * 4),
                nn.Unflatten(1, (7, 3, 4)),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(7, 5, 3, padding=1, padding_mode="replicate", bias=False),
                nn.BatchNorm2d(5),
                nn.LeakyReLU(0.2),
                nn.UpsamplingNearest2d(scale_factor=2),
                nn.Conv2d(5, 4, 3, padding=1),
                nn.Tanh(),
            ),
            (1, LATENT),
        ),
    ),
    "transposed": lambda: Net(
        plain_encoder(),
        settle(
            nn.Sequential(
                nn.Linear(LATENT, 7 * 3 * 4),
                nn.Unflatten(1, (7, 3, 4)),
                nn.ConvTranspose2d(7, 5, 3, 2, 1, output_padding=1, bias=False),
                nn.BatchNorm2d(5),
                nn.ReLU(),
                nn.ConvTranspose2d(5, 4, 2, 2),
                nn.Sigmoid(),
            ),
            (1, LATENT),
        ),
    ),
}


@pytest.mark.parametrize("make", EVERY_LAYER.values(), ids=EVERY_LAYER.keys())
def test_native_computes_what_the_module_computes(make: Callable[[], Net], tmp_path: Path) -> None:
    net = make().eval()
    path = tmp_path / "m.safetensors"
    report = export.to_native(net, path, frames=images())
    assert os.listdir(tmp_path) == ["m.safetensors"]
    assert report.bytes == path.stat().st_size
    assert report.frames == 3
    assert report.latent_error < 1e-5
    assert report.decoded_error < 1e-5

    # Not by the report's own arithmetic: the module in float64 against the engine and the interpreter.
    x, z = images(2), np.random.default_rng(2).standard_normal((2, LATENT)).astype(np.float32)
    model, interpreter = edgevae.load(path, threads=1), torch_model.load(path)
    with torch.no_grad():
        heads = interpreter.encoder(torch.from_numpy(x)).numpy()
        decoded = interpreter.decode(torch.from_numpy(z)).numpy()
        net.double()
        wanted_heads = net.encoder(torch.from_numpy(x).double()).numpy()
        wanted_decoded = net.decoder(torch.from_numpy(z).double()).numpy()
    scale = np.abs(wanted_heads).max()
    # float32 sums of at most a few hundred terms: 1e-6 of the largest value, with a factor of ten to spare
    np.testing.assert_allclose(model.encode_heads(x), wanted_heads, atol=1e-5 * scale, rtol=0)
    np.testing.assert_allclose(heads, wanted_heads, atol=1e-5 * scale, rtol=0)
    np.testing.assert_allclose(model.decode_tensor(z), wanted_decoded, atol=1e-5, rtol=0)
    np.testing.assert_allclose(decoded, wanted_decoded, atol=1e-5, rtol=0)


def conditional_net() -> Net:
    """Three classes beside the latent, and in the encoder behind a linear layer."""
    concat, size = torch_layers.ConcatCondition(3), int(np.prod(SHAPE))
    encoder = [nn.Flatten(), nn.Linear(size, 6), nn.ReLU(), concat, nn.Linear(6 + 3, 2 * LATENT)]
    decoder = [concat, nn.Linear(LATENT + 3, size), nn.Unflatten(1, SHAPE), nn.Tanh()]
    return Net(torch_layers.Chain(*encoder), torch_layers.Chain(*decoder), condition_dim=3)


def test_conditions_are_part_of_the_parity_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export.to_native(conditional_net(), tmp_path / "good", frames=images())
    walk = torch_layers.walk

    def wrong(name: str, module: nn.Module, *example: Any) -> Any:
        layers, tensors = walk(name, module, *example)
        if name == "decoder":  # right for the first class, wrong for the others
            tensors["decoder.1.weight"][:, LATENT + 1] += 0.1
        return layers, tensors

    monkeypatch.setattr(torch_layers, "walk", wrong)
    with pytest.raises(ExportError, match="disagrees"):
        export.to_native(conditional_net(), tmp_path / "m", frames=images())
    assert os.listdir(tmp_path) == ["good"]


def test_a_conditional_model_that_cannot_hand_its_condition_on(tmp_path: Path) -> None:
    net = conditional_net()
    net.decoder = nn.Sequential(*net.decoder)
    for write in (export.to_native, export.to_torchscript, export.to_onnx):
        with pytest.raises(ExportError, match=r"nn.Sequential, which takes no condition; wanted .*Chain"):
            write(net, tmp_path / "m", frames=images())
    unused = Net(plain_encoder(), torch_layers.Chain(*plain_decoder()), condition_dim=3)
    unused.encoder = torch_layers.Chain(*unused.encoder)
    with pytest.raises(ExportError, match="no layer is concat_condition"):
        export.to_native(unused, tmp_path / "m", frames=images())
    assert os.listdir(tmp_path) == []


def test_batchnorm_is_folded_in_float64(tmp_path: Path) -> None:
    conv, norm = nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
    chain = settle(nn.Sequential(conv, norm))
    layers, tensors = torch_layers.walk("encoder", chain, torch.zeros(1, *SHAPE))
    assert layers == [
        {
            "op": "conv2d",
            "weight": "encoder.0.weight",
            "bias": "encoder.0.bias",
            "stride": 1,
            "padding": 0,
            "padding_mode": "zeros",
        }
    ]
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = conv.weight.double() * gain[:, None, None, None]
    bias = (conv.bias.double() - norm.running_mean.double()) * gain + norm.bias.double()
    np.testing.assert_array_equal(tensors["encoder.0.weight"], weight.detach().float().numpy())
    np.testing.assert_array_equal(tensors["encoder.0.bias"], bias.detach().float().numpy())


def test_the_module_stays_as_it_was(tmp_path: Path) -> None:
    net = EVERY_LAYER["conv zeros"]()
    net.train().double()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    export.to_native(net, tmp_path / "m", frames=images())
    assert net.training
    assert net.encoder[1].training
    assert all(parameter.requires_grad for parameter in net.parameters())
    for key, value in net.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])


def test_fp16_halves_the_file_and_says_what_it_costs(tmp_path: Path) -> None:
    net = EVERY_LAYER["upsample"]()
    whole = export.to_native(net, tmp_path / "32", frames=images())
    half = export.to_native(net, tmp_path / "16", precision="fp16", frames=images())
    assert half.bytes < 0.6 * whole.bytes
    assert 1e-5 < half.latent_error < export.LIMITS["fp16"].latent  # rounded, and not by much
    assert half.decoded_error < export.LIMITS["fp16"].decoded
    assert edgevae.load(tmp_path / "16").spec.precision == "fp16"


def test_fp16_that_cannot_hold_a_weight(tmp_path: Path) -> None:
    net = Net(plain_encoder())
    nn.init.constant_(net.encoder[1].bias, 1e6)
    with pytest.raises(ExportError) as error:
        export.to_native(net, tmp_path / "m", precision="fp16", frames=images())
    assert f"{tmp_path / 'm'} " in str(error.value)
    assert "fp32" in str(error.value)
    assert os.listdir(tmp_path) == []


class OwnConv(nn.Conv2d):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


class OwnLayer(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + 1


# What cannot be expressed, and the words that name it.
FOREIGN: dict[str, tuple[Callable[[], nn.Sequential], tuple[str, ...]]] = {
    "gelu": (lambda: plain_encoder(nn.GELU()), ("layer encoder.0 (GELU)", "LeakyReLU")),
    "own layer": (lambda: plain_encoder(nn.ReLU(), OwnLayer()), ("layer encoder.1 (OwnLayer)",)),
    "own convolution": (lambda: plain_encoder(OwnConv(4, 4, 3)), ("(OwnConv)",)),
    "average": (lambda: plain_encoder(nn.AvgPool2d(2)), ("(AvgPool2d)",)),
    "groups": (lambda: plain_encoder(nn.Conv2d(4, 4, 3, groups=2)), ("encoder.0", "groups 2")),
    "dilation": (lambda: plain_encoder(nn.Conv2d(4, 4, 3, dilation=2)), ("dilation (2, 2)",)),
    "reflect": (lambda: plain_encoder(nn.Conv2d(4, 4, 3, padding_mode="reflect", padding=1)), ("'reflect'",)),
    "stride": (lambda: plain_encoder(nn.Conv2d(4, 4, 3, stride=(2, 1))), ("stride (2, 1)",)),
    "padding": (lambda: plain_encoder(nn.Conv2d(4, 4, 3, padding=(1, 0))), ("padding (1, 0)",)),
    "same rectangle": (lambda: plain_encoder(nn.Conv2d(4, 4, (3, 5), padding="same")), ("'same'",)),
    "transposed groups": (lambda: plain_encoder(nn.ConvTranspose2d(4, 4, 2, groups=4)), ("groups 4",)),
    "bilinear": (
        lambda: plain_encoder(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 4, 3, padding=1)),
        ("'bilinear'",),
    ),
    "threefold": (
        lambda: plain_encoder(nn.Upsample(scale_factor=3), nn.Conv2d(4, 4, 3, padding=1)),
        ("scale_factor 3",),
    ),
    "upsample 5x5": (
        lambda: plain_encoder(nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 5, padding=2)),
        ("layer encoder.0 (Upsample)", "kernel 5x5", "3x3"),
    ),
    "upsample alone": (
        lambda: plain_encoder(nn.Upsample(scale_factor=2), nn.ReLU()),
        ("layer encoder.0 (Upsample)", "layer encoder.1 (ReLU)"),
    ),
    "upsample last": (
        lambda: settle(nn.Sequential(nn.Conv2d(4, 2, 3), nn.Upsample(scale_factor=2))),
        ("layer encoder.1 (Upsample)", "last layer"),
    ),
    "norm first": (lambda: plain_encoder(nn.BatchNorm2d(4)), ("layer encoder.0 (BatchNorm2d)", "fold")),
    "norm after relu": (
        lambda: plain_encoder(nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(), nn.BatchNorm2d(3))),
        ("layer encoder.0.2 (BatchNorm2d)",),
    ),
    "norm of the batch": (
        lambda: plain_encoder(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)),
        ("track_running_stats",),
    ),
    "pool padding": (lambda: plain_encoder(nn.MaxPool2d(2, padding=1)), ("(MaxPool2d)", "padding 1")),
    "pool ceil": (lambda: plain_encoder(nn.MaxPool2d(5, ceil_mode=True)), ("ceil_mode True",)),
    "pool rectangle": (lambda: plain_encoder(nn.MaxPool2d((2, 3))), ("kernel_size (2, 3)",)),
    "softplus beta": (lambda: plain_encoder(nn.Softplus(beta=2)), ("beta 2",)),
    "softplus threshold": (lambda: plain_encoder(nn.Softplus(threshold=1)), ("threshold 1",)),
    "[0, 1] for a ReLU": (
        lambda: plain_encoder(torch_layers.ToUnit(), nn.ReLU()),
        ("encoder.0 (ToUnit)", "encoder.1 (ReLU)", "wanted Linear"),
    ),
    "[0, 1] for nothing": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 2 * LATENT), torch_layers.ToUnit()),
        ("encoder.2 (ToUnit)", "no linear layer after it"),
    ),
    "flatten in part": (lambda: plain_encoder(nn.Flatten(2)), ("layer encoder.0 (Flatten)", "(1, 4, 192)")),
    "another size": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 2 * LATENT)),
        ("layer encoder.1 (Linear)", "does not take (1, 768)"),
    ),
    "another head": (
        lambda: settle(nn.Sequential(nn.Flatten(), nn.Linear(768, 2 * LATENT + 1))),
        ("encoder ends in 11", "wanted 10"),
    ),
}


@pytest.mark.parametrize(("make", "parts"), FOREIGN.values(), ids=FOREIGN.keys())
def test_native_refuses_what_it_cannot_express(
    make: Callable[[], nn.Sequential], parts: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(ExportError) as error:
        export.to_native(Net(make()), tmp_path / "m", frames=images())
    for part in parts:
        assert part in str(error.value)
    assert os.listdir(tmp_path) == []


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    net = Net(plain_encoder())
    with torch.no_grad():
        net.encoder[1].weight[0, 0] = float("nan")
    for write in (export.to_native, export.to_torchscript):
        with pytest.raises(ExportError):
            write(net, tmp_path / "m", frames=images())
    assert os.listdir(tmp_path) == []


# --- parity ------------------------------------------------------------------------------------


def small_net() -> Net:
    return EVERY_LAYER["conv zeros"]()


@pytest.mark.parametrize("half", ["encoder", "decoder"])
@pytest.mark.parametrize("by", [1e-2, np.inf])
def test_native_that_disagrees_is_not_kept(
    half: str, by: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = torch_layers.walk

    def wrong(name: str, module: nn.Module, x: Any) -> Any:
        layers, tensors = walk(name, module, x)
        if name == half:
            tensors[f"{name}.0.bias"][0] += min(by, 1e30)
        return layers, tensors

    path = tmp_path / "m"
    path.write_bytes(b"older")
    monkeypatch.setattr(torch_layers, "walk", wrong)
    with pytest.raises(ExportError) as error:
        export.to_native(small_net(), path, frames=images())
    assert "disagrees with PyTorch" in str(error.value)
    assert "1.0e-04" in str(error.value)
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("method", ["encode_heads", "decode_tensor"])
def test_an_engine_that_answers_nan_is_refused(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(edgevae.Model, method)
    monkeypatch.setattr(edgevae.Model, method, lambda self, x: right(self, x) * np.float32("nan"))
    with pytest.raises(ExportError, match="by inf"):
        export.to_native(small_net(), tmp_path / "m", frames=images())
    assert os.listdir(tmp_path) == []


def test_the_raw_scales_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = torch_layers.walk

    def wrong(name: str, module: nn.Module, x: Any) -> Any:
        layers, tensors = walk(name, module, x)
        if name == "encoder":
            tensors["encoder.3.bias"][-1] += 0.1
        return layers, tensors

    monkeypatch.setattr(torch_layers, "walk", wrong)
    with pytest.raises(ExportError, match="disagrees"):
        export.to_native(small_net(), tmp_path / "m", frames=images())


def test_an_engine_error_does_not_hide_in_the_loss_of_fp16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2e-4 is within what fp16 may lose, and refused because the engine, not the rounding, lost it."""
    net = EVERY_LAYER["no posterior"]()
    export.to_native(net, tmp_path / "good", precision="fp16", frames=images())
    heads = edgevae.Model.encode_heads
    monkeypatch.setattr(edgevae.Model, "encode_heads", lambda self, *a: heads(self, *a) * np.float32(1.0002))
    with pytest.raises(ExportError) as error:
        export.to_native(net, tmp_path / "m", precision="fp16", frames=images())
    assert "1.0e-04" in str(error.value)
    assert os.listdir(tmp_path) == ["good"]


def test_torchscript_that_disagrees_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = export._reference(small_net())
    monkeypatch.setattr(export, "torchscript", lambda model, x, make=export.torchscript: make(other, x))
    with pytest.raises(ExportError, match="disagrees"):
        export.to_torchscript(small_net(), tmp_path / "m.ts", frames=images())
    assert os.listdir(tmp_path) == []


def test_default_frames_are_synthetic(tmp_path: Path) -> None:
    report = export.to_native(small_net(), tmp_path / "m")
    assert report.frames == export.FRAMES
    assert str(tmp_path / "m") in str(report)
    assert "frames" in str(report)


def test_frames_of_the_caller(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frames = [
        Frame(
            rgb=generator.integers(0, 256, (20, 30, 3), np.uint8),
            depth=generator.integers(0, 9000, (20, 30), np.uint16) if index else None,
        )
        for index in range(3)
    ]
    assert export.to_native(small_net(), tmp_path / "m", frames=iter(frames)).frames == 3
    with pytest.raises(ExportError, match="no frames"):
        export.to_native(small_net(), tmp_path / "n", frames=[])
    with pytest.raises(ExportError, match=r"\(N, 4, 12, 16\)"):
        export.to_native(small_net(), tmp_path / "n", frames=images()[:, :3])
    with pytest.raises(EdgevaeError):
        export.to_native(small_net(), tmp_path / "n", frames=f"tum:{tmp_path / 'absent'}")
    assert os.listdir(tmp_path) == ["m"]


def test_real_frames(tmp_path: Path, data_dir: Path) -> None:
    report = export.to_native(small_net(), tmp_path / "m", frames=f"tum:{data_dir}/tum_fr1_rpy_100")
    assert report.frames == export.FRAMES
    assert report.latent_error < 1e-5


# --- TorchScript and ONNX ----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_has_two_methods_and_the_document(tmp_path: Path) -> None:
    net = Net(plain_encoder(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.GELU())).eval()  # no native counterpart
    path = tmp_path / "m.ts"
    report = export.to_torchscript(net, path, frames=images(1))
    assert report.latent_error < 1e-5
    assert os.listdir(tmp_path) == ["m.ts"]
    extra = {"edgevae.json": ""}
    module = torch.jit.load(str(path), _extra_files=extra)
    assert json.loads(extra["edgevae.json"]) == net.document()
    for count in (1, 3):
        x = torch.from_numpy(images(count))
        with torch.no_grad():
            mean = net.encoder(x)[:, :LATENT]
            torch.testing.assert_close(module.encode(x), mean, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(module.decode(mean), net.decoder(mean), rtol=1e-5, atol=1e-5)


def test_onnx_is_two_models_with_a_free_batch(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = EVERY_LAYER["upsample"]().eval()
    report = export.to_onnx(net, tmp_path / "m.onnx", frames=images(1))
    files = ["m.decoder.onnx", "m.encoder.onnx"]
    assert sorted(os.listdir(tmp_path)) == files
    assert report.path == str(tmp_path / "m.encoder.onnx")
    assert report.bytes == sum((tmp_path / file).stat().st_size for file in files)
    assert report.latent_error < 1e-5
    encoder = onnxruntime.InferenceSession(str(tmp_path / "m.encoder.onnx"))
    decoder = onnxruntime.InferenceSession(str(tmp_path / "m.decoder.onnx"))
    assert json.loads(encoder.get_modelmeta().custom_metadata_map["edgevae"]) == net.document()
    for count in (1, 3):
        x = images(count)
        (mean,) = encoder.run(["mean"], {"x": x})
        (image,) = decoder.run(["x"], {"z": mean})
        with torch.no_grad():
            wanted = net.encoder(torch.from_numpy(x))[:, :LATENT]
            np.testing.assert_allclose(mean, wanted.numpy(), rtol=0, atol=1e-5)
            np.testing.assert_allclose(image, net.decoder(wanted).numpy(), rtol=0, atol=1e-5)


def test_onnx_that_disagrees_leaves_neither_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (tmp_path / "m.encoder.onnx").write_bytes(b"older")
    monkeypatch.setitem(export.LIMITS, "fp32", export.Limits(latent=0.0, decoded=0.0))
    with pytest.raises(ExportError, match="disagrees"):
        export.to_onnx(small_net(), tmp_path / "m", frames=images())
    assert os.listdir(tmp_path) == ["m.encoder.onnx"]
    assert (tmp_path / "m.encoder.onnx").read_bytes() == b"older"


# --- training's models and checkpoints ---------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"channels": 3},
        {"channels": 1, "size": [32, 96]},
        {"color": "minmax", "depth": {"encoding": "minmax", "no_reading": -1.0}},
    ],
    ids=["rgbd", "rgb", "grey", "minmax"],
)
def test_models_of_training(options: dict[str, Any], tmp_path: Path) -> None:
    models = pytest.importorskip("training.models")
    net = models.build("rgbd-vae", **{"width": 4, "latent_dim": 6, "size": 64} | options)
    report = export.to_native(net, tmp_path / "m")
    assert report.latent_error < 1e-5
    spec = edgevae.load(tmp_path / "m").spec
    assert (spec.input.channels, spec.latent_dim) == (net.input.channels, 6)


def test_checkpoint(tmp_path: Path) -> None:
    models = pytest.importorskip("training.models")
    checkpoint = pytest.importorskip("training.checkpoint")
    net = models.build("rgbd-vae", width=4, latent_dim=6, size=32)
    state = {f"{checkpoint.PREFIX}{key}": value for key, value in net.state_dict().items()}
    about = checkpoint.describe(net, {"data": [{"name": "made up", "licence": "none"}]})
    torch.save({"state_dict": state, checkpoint.KEY: about}, tmp_path / "c.ckpt")

    report = export.export(tmp_path / "c.ckpt", "native", tmp_path / "m.safetensors")
    assert report.latent_error < 1e-5
    document, _, _ = model_file.read(tmp_path / "m.safetensors")
    assert document["provenance"]["data"] == [{"name": "made up", "licence": "none"}]

    (tmp_path / "broken.ckpt").write_bytes((tmp_path / "c.ckpt").read_bytes()[:1000])
    for wrong in ("broken.ckpt", "absent.ckpt", "m.safetensors"):
        with pytest.raises(EdgevaeError, match=wrong):
            export.export(tmp_path / wrong, "native", tmp_path / "n")
    assert not (tmp_path / "n").exists()


# --- arguments ---------------------------------------------------------------------------------


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    net = small_net()
    with pytest.raises(ExportError, match="native, torchscript, onnx"):
        export.export("c.ckpt", "tflite", tmp_path / "m")
    with pytest.raises(ExportError, match=r"'int4'.*'fp32' or 'fp16'"):
        export.to_native(net, tmp_path / "m", precision="int4")
    with pytest.raises(ExportError, match="only native stores fp16"):
        export.export("c.ckpt", "onnx", tmp_path / "m", "fp16")
    with pytest.raises(ExportError, match="is a directory"):
        export.to_native(net, tmp_path)
    with pytest.raises(ExportError, match="absent"):
        export.to_native(net, tmp_path / "absent" / "m")
    with pytest.raises(ExportError, match="got a Linear, wanted"):
        export.to_native(nn.Linear(1, 1), tmp_path / "m")
    with pytest.raises(ExportError, match="unknown key 'surprise'"):
        export.to_native(Net(plain_encoder(), surprise=1), tmp_path / "m", frames=images())
    bare = small_net()
    bare.document = lambda: {"name": "bare"}  # type: ignore[method-assign]
    with pytest.raises(ExportError, match="no key 'input'"):
        export.to_native(bare, tmp_path / "m")
    assert os.listdir(tmp_path) == []


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_torch_is_imported_only_when_something_is_exported() -> None:
    done = run_python("import sys, edgevae; edgevae.export.FORMATS; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_without_torch_a_sentence(tmp_path: Path) -> None:
    done = run_python(
        "import sys; sys.modules['torch'] = None\n"
        "import edgevae\n"
        f"try: edgevae.export.export('c.ckpt', 'native', {str(tmp_path / 'm')!r})\n"
        "except edgevae.ExportError as error: print(error)"
    )
    assert "export needs torch" in done.stdout, done.stderr
    assert "pip install 'edgevae[export]'" in done.stdout
