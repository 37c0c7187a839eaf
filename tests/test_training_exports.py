"""Every model of the registry, exported: files compute what the network computes, and run without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import SMALL, batch
from torch import nn

import edgevae
import training
from edgevae import Frame, export, model_file, torch_layers

# float32 sums of a few hundred terms in another order: some 1e-7 of the latent, with a factor of ten to spare
CLOSE = 1e-5


def trained(name: str) -> training.models.VAE:
    """A small network whose BatchNorm statistics and offsets are not those of a new one."""
    torch.manual_seed(0)
    net = training.models.build(name, **SMALL[name])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.3, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return net.eval()


def packed(net: training.models.VAE) -> np.ndarray:
    return batch(net, 3)[0].numpy()


@pytest.fixture(params=training.models.REGISTRY)
def net(request: pytest.FixtureRequest) -> training.models.VAE:
    return trained(request.param)


def test_native_on_every_instruction_set(net: training.models.VAE, tmp_path: Path) -> None:
    report = export.to_native(net, tmp_path / "m.safetensors", frames=packed(net))
    assert report.latent_error < CLOSE
    assert report.decoded_error < CLOSE
    document, _, _ = model_file.read(tmp_path / "m.safetensors")
    assert document["condition_dim"] == net.condition_dim
    assert (document["posterior"] or {}).get("scale") == net.posterior

    x, condition = batch(net, 2)
    with torch.no_grad():
        net.double()
        rest = [] if condition is None else [condition.double()]
        mean = net.encoder(x.double(), *rest)[:, : net.latent_dim]
        y = net.decoder(mean, *rest).numpy()
    for isa in edgevae._core.available_isas():
        model = edgevae.load(tmp_path / "m.safetensors", threads=1, isa=isa)
        assert model.spec.parameters <= sum(tensor.numel() for tensor in net.parameters())
        given = [] if condition is None else [condition.numpy()]
        z = model.encode_tensor(x.numpy(), *given)
        assert export.relative_error(z, mean.numpy()) < CLOSE, isa
        np.testing.assert_allclose(model.decode_tensor(z, *given), y, atol=CLOSE, err_msg=isa)


def test_posterior_of_the_engine(net: training.models.VAE, tmp_path: Path) -> None:
    export.to_native(net, tmp_path / "m", frames=packed(net))
    model = edgevae.load(tmp_path / "m", threads=1)
    size = (net.input.height, net.input.width)
    generator = np.random.default_rng(3)
    rgb = generator.integers(0, 256, (2, *size, 3), np.uint8)
    depth = generator.integers(0, 9000, (2, *size), np.uint16) if net.input.depth is not None else None
    condition = None if not net.condition_dim else np.eye(net.condition_dim, dtype=np.float32)[:2]
    z = model.encode(rgb, depth, condition=condition)
    if net.posterior is None:
        with pytest.raises(edgevae.EdgevaeError, match="plain autoencoder"):
            model.posterior(rgb, depth, condition=condition)
        return
    mean, std = model.posterior(rgb, depth, condition=condition)
    np.testing.assert_array_equal(mean, z)
    x = np.stack([model.pack(c, None if depth is None else depth[i]) for i, c in enumerate(rgb)])
    with torch.no_grad():
        given = None if condition is None else torch.from_numpy(condition)
        wanted_mean, wanted_std = net.posterior_of(torch.from_numpy(x), given)
    np.testing.assert_allclose(mean, wanted_mean.numpy(), atol=CLOSE)
    np.testing.assert_allclose(std, wanted_std.numpy(), atol=CLOSE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(net: training.models.VAE, tmp_path: Path) -> None:
    report = export.to_torchscript(net, tmp_path / "m.ts", frames=packed(net))
    assert max(report.latent_error, report.decoded_error) < CLOSE
    module = torch.jit.load(str(tmp_path / "m.ts"))
    x, condition = batch(net, 3)
    rest = [] if condition is None else [condition]
    with torch.no_grad():
        mean, _ = net.posterior_of(x, condition)
        torch.testing.assert_close(module.encode(x, *rest), mean, rtol=1e-4, atol=CLOSE)
        torch.testing.assert_close(
            module.decode(mean, *rest), net.decode(mean, condition), rtol=0, atol=CLOSE
        )


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np, edgevae
for name in sys.argv[2:]:
    model = edgevae.load(f"{sys.argv[1]}/{name}.safetensors", threads=1)
    given = np.load(f"{sys.argv[1]}/{name}.npz")
    depth, condition = (given[key] if key in given else None for key in ("depth", "condition"))
    z = model.encode(given["rgb"], depth, condition=condition)
    out = model.decode(z, condition=condition)
    np.testing.assert_allclose(z, given["mean"], atol=1e-5, err_msg=name)
    assert np.abs(out.rgb.astype(int) - given["decoded"]).max() <= 1, name  # rounding to whole numbers
    assert (out.depth is None) == (depth is None)
    print(name, "ok")
"""


def test_every_model_runs_without_torch(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    for name in training.models.REGISTRY:
        net = trained(name)
        export.to_native(net, tmp_path / f"{name}.safetensors", frames=packed(net))
        spec = net.input
        frame = Frame(generator.integers(0, 256, (60, 80, 3), np.uint8), None)
        given = {"rgb": frame.rgb}
        if spec.depth is not None:
            given["depth"] = generator.integers(0, 9000, (60, 80), np.uint16)
        condition = None
        if net.condition_dim:
            given["condition"] = np.eye(net.condition_dim, dtype=np.float32)[1]
            condition = torch.from_numpy(given["condition"])[None]
        x = torch.from_numpy(edgevae.preprocess.pack(frame.rgb, given.get("depth"), spec))[None]
        with torch.no_grad():
            mean, _ = net.posterior_of(x, condition)
            y = net.decode(mean, condition)[0, : min(3, spec.channels)].permute(1, 2, 0)
        decoded = ((y + 1) * 127.5).round().expand(-1, -1, 3).numpy().astype(int)
        np.savez(tmp_path / f"{name}.npz", mean=mean[0].numpy(), decoded=decoded, **given)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path), *training.models.REGISTRY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for name in training.models.REGISTRY for word in (name, "ok")]


def test_checkpoints_of_every_model_come_back(net: training.models.VAE, tmp_path: Path) -> None:
    checkpoint = training.checkpoint
    state = {f"{checkpoint.PREFIX}{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, checkpoint.KEY: checkpoint.describe(net, {})}, tmp_path / "c.ckpt")
    again = checkpoint.load(tmp_path / "c.ckpt")
    assert (again.name, again.options) == (net.name, net.options)
    x, condition = batch(net, 2)
    with torch.no_grad():
        assert torch.equal(again(x, condition).y, net(x, condition).y)


def test_the_table_of_models_is_true() -> None:
    """docs/training-models.md: what a model takes, its latent, parameters and products."""
    page = Path(__file__).parents[1] / "docs" / "training-models.md"
    rows = [line.split("|")[1:-1] for line in page.read_text().splitlines() if line.startswith("| `")]
    table = {row[0].strip(" `"): [cell.strip() for cell in row[3:]] for row in rows if len(row) == 8}
    assert list(table) == list(training.models.REGISTRY)
    for name, (takes, latent, parameters, *products) in table.items():
        net = training.models.build(name).eval()
        shape = (net.input.channels, net.input.height, net.input.width)
        classes = f", {net.condition_dim} classes" if net.condition_dim else ""
        assert takes == "×".join(map(str, shape)) + classes, name
        assert latent == str(net.latent_dim), name
        assert parameters == f"{sum(p.numel() for p in net.parameters()):,}".replace(",", " "), name
        x, condition = batch(net, 1)
        halves = (("encoder", x, shape), ("decoder", torch.zeros(1, net.latent_dim), (net.latent_dim,)))
        for (half, start, start_shape), claimed in zip(halves, products, strict=True):
            layers, tensors = torch_layers.walk(half, getattr(net, half), start, condition)
            pool = edgevae._core.Pool(1)
            network = edgevae._core.Network(layers, tensors, start_shape, net.condition_dim, pool)
            assert claimed == f"{network.properties()['macs'] / 1e6:.1f} M", (name, half)
