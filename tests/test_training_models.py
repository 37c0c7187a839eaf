"""The models: shapes, sizes, the posterior, and the shortcut that training takes through the decoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import training
from edgevae import model_file
from edgevae.errors import EdgevaeError
from training import subpixel


def layers(chain: nn.Sequential, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in chain if isinstance(layer, kind)]


def test_width_64_has_the_published_shapes() -> None:
    net = training.models.build("rgbd-vae")
    convs = [tuple(layer.weight.shape) for layer in layers(net.encoder, nn.Conv2d)]
    assert convs == [(64, 4, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (512, 512, 4, 4)]
    ups = [tuple(layer.weight.shape) for layer in layers(net.decoder, nn.Conv2d)]
    assert ups == [(512, 512, 3, 3), (256, 512, 3, 3), (128, 256, 3, 3), (64, 128, 3, 3), (4, 64, 3, 3)]
    assert [tuple(layer.weight.shape) for layer in layers(net.encoder, nn.Linear)] == [(800, 8192)]
    assert [tuple(layer.weight.shape) for layer in layers(net.decoder, nn.Linear)] == [(8192, 400)]
    assert len(layers(net.encoder, nn.BatchNorm2d)) == 5
    assert len(layers(net.decoder, nn.BatchNorm2d)) == 4
    assert all(layer.padding_mode == "replicate" for layer in layers(net.decoder, nn.Conv2d))
    assert {layer.negative_slope for layer in net.modules() if isinstance(layer, nn.LeakyReLU)} == {0.2}
    assert isinstance(net.decoder[-1], nn.Tanh)
    assert not isinstance(net.decoder[-2], nn.LeakyReLU | nn.BatchNorm2d)
    # Counted by hand from the list of layers: weights + biases, and two numbers for each BatchNorm channel.
    encoder = sum(16 * i * o + 3 * o for i, o in ((4, 64), (64, 128), (128, 256), (256, 512), (512, 512)))
    encoder += 800 * 8192 + 800
    decoder = sum(9 * i * o + 3 * o for i, o in ((512, 512), (512, 256), (256, 128), (128, 64)))
    decoder += 9 * 64 * 4 + 4 + 400 * 8192 + 8192
    assert sum(p.numel() for p in net.parameters()) == encoder + decoder == 20_707_492


def test_forward_gives_reconstruction_mean_and_std() -> None:
    torch.manual_seed(0)
    net = training.models.build("rgbd-vae", width=4, latent_dim=6, size=(32, 64)).eval()
    x = torch.rand(3, 4, 32, 64) * 2 - 1
    with torch.no_grad():
        y, before_tanh, mean, std = net(x)
        raw = net.encoder(x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    assert raw.shape == (3, 12)
    torch.testing.assert_close(y, before_tanh.tanh())
    torch.testing.assert_close(mean, raw[:, :6])
    torch.testing.assert_close(std, torch.log1p(raw[:, 6:].exp()) + 1e-5)
    with torch.no_grad():
        torch.testing.assert_close(y, net(x)[0])  # eval decodes the mean: the same twice
        net.train()
        assert not torch.equal(net(x)[0], net(x)[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (5, 2), (4, 4)])
def test_shortcut_equals_upsample_and_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    plain = nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(3, 5, 3, padding=1, padding_mode="replicate"),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(5, 2, 3, padding=1, padding_mode="replicate", bias=False),
        nn.Upsample(scale_factor=2, mode="nearest"),
    ).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = plain(x)
    want = torch.autograd.grad(expected.square().sum(), [x, *plain.parameters()])
    got_y = subpixel.run(plain, x)
    got = torch.autograd.grad(got_y.square().sum(), [x, *plain.parameters()])
    # float64: the sums are only ordered otherwise
    torch.testing.assert_close(got_y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_shortcut_leaves_other_pairs_alone() -> None:
    zeros = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 3, 3, padding=1))
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(subpixel.run(zeros, x), zeros(x))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"channels": 3},
        {"color": "minmax", "depth": {"encoding": "minmax"}},
        {"depth": {"encoding": "inverse", "min_m": 0.5, "max_m": 20.0, "no_reading": -1.0}},
    ],
)
def test_document_is_one_the_model_file_takes(options: dict[str, object]) -> None:
    net = training.models.build("rgbd-vae", width=2, latent_dim=3, size=32, **options)
    document = net.document()
    channels = options.get("channels", 4)
    assert document["input"] == {"channels": channels, "height": 32, "width": 32}
    assert (document["depth"] is None) == (channels == 3)
    # The layers themselves are the exporter's; one of the right shape lets the rest be validated.
    n = 32 * 32 * int(str(channels))
    tensors = {"e": torch.zeros(6, n).numpy(), "d": torch.zeros(n, 3).numpy()}
    shape = [channels, 32, 32]
    encoder = [{"op": "reshape", "shape": [n]}, {"op": "linear", "weight": "e", "bias": None}]
    decoder = [{"op": "linear", "weight": "d", "bias": None}, {"op": "reshape", "shape": shape}]
    rest = {"format_version": 1, "precision": "fp32", "encoder": encoder, "decoder": decoder}
    model_file.validate(document | rest, tensors)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vae", {}, "rgbd-vae"),
        ("rgbd-vae", {"size": 100}, "multiples of 32"),
        ("rgbd-vae", {"channels": 2}, "channels"),
        ("rgbd-vae", {"width": 0}, "width"),
        ("rgbd-vae", {"colour": "fixed"}, "colour"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(EdgevaeError, match=words):
        training.models.build(name, **options)
