"""The models: shapes, sizes, the posterior, and the shortcut that training takes through the decoder."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from small_models import SMALL, batch
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


@pytest.mark.parametrize("name", training.models.REGISTRY)
def test_every_model_trains_a_step(name: str) -> None:
    torch.manual_seed(0)
    net = training.models.build(name, **SMALL[name])
    assert net.name == name
    assert net.options == SMALL[name]
    x, condition = batch(net, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-5)
    losses = []
    for _ in range(3):
        torch.manual_seed(1)  # the same noise in each step, so that the loss has to fall
        out = net.train()(x, condition)
        loss = (out.y - x).square().sum()
        if out.std is not None:
            loss = loss + (0.5 * (out.mean.square() + out.std.square() - 1) - out.std.log()).sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in net.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]

    assert out.y.shape == out.raw.shape == x.shape
    assert out.mean.shape == (4, net.latent_dim)
    assert (out.std is None) == (net.posterior is None) == (name == "conv-autoencoder")
    # What a Bernoulli likelihood takes for its logit
    torch.testing.assert_close((out.y + 1) / 2, torch.sigmoid(2 * out.raw), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        mean, std = net.eval().posterior_of(x, condition)
        out = net(x, condition)
        torch.testing.assert_close(out.y, net.decode(mean, condition))
        torch.testing.assert_close(out.y, net.decoder(mean, condition))
        head = net.encoder(x, condition)
    if std is not None:
        raw = head[:, net.latent_dim :]
        wanted = torch.log1p(raw.exp()) if net.posterior == "softplus" else raw.exp().sqrt()
        torch.testing.assert_close(std, wanted + 1e-5)
    torch.testing.assert_close(mean, head[:, : net.latent_dim])


@pytest.mark.parametrize("size", [1, 2, 27, 28, 29, (30, 21), 64])
def test_sizes_work_or_say_which_do(size: int | tuple[int, int]) -> None:
    small = {"latent_dim": 2, "channels": 1, "size": size}
    options = {
        "fc-vae": {"hidden": [3]},
        "vgg-vae": {"widths": [2, 2], "block_depth": 1},
        "transition-vae": {"width": 2, "min_width": 1},
        "conv-vae": {"widths": [2, 2, 2]},
        "frey-vae": {"widths": [2, 2, 2]},
    }
    for name, more in options.items():
        try:
            net = training.models.build(name, **small, **more)
        except EdgevaeError as error:
            assert size in (1, 2)
            assert "wanted at least" in str(error)  # noqa: PT017
        else:
            x, _ = batch(net, 2)
            assert net(x).y.shape == x.shape


def count(parameters: nn.Module) -> int:
    return sum(parameter.numel() for parameter in parameters.parameters())


def dense(*sizes: int) -> int:
    """Weights and biases of linear layers, one after the other."""
    return sum(i * o + o for i, o in pairwise(sizes))


def test_defaults_have_the_published_sizes() -> None:
    """Counted by hand from the references' layers: weights, biases, two numbers a channel of BatchNorm."""
    frey = sum(9 * i * o + o for i, o in ((1, 32), (32, 64), (64, 128))) + dense(768, 40) + dense(20, 768)
    frey += (128 * 5 * 5 * 64 + 64) + (64 * 4 * 4 * 32 + 32) + (32 * 4 * 4 * 1 + 1)  # 3x2, 7x5, 14x10, 28x20
    conv = sum(16 * i * o + o for i, o in ((3, 12), (12, 24), (24, 6))) + dense(256, 864)
    conv += (6 * 5 * 5 * 24 + 24) + (24 * 4 * 4 * 12 + 12) + (12 * 4 * 4 * 3 + 3)  # 12, 25, 50, 100
    vgg = (9 * 16 + 3 * 16) + 31 * (9 * 16 * 16 + 3 * 16) + dense(784, 800) + dense(400, 784)
    vgg += (16 * 4 * 4 * 16 + 3 * 16) + (16 * 4 * 4 * 1 + 1)  # 7, 14, 28
    down = sum(16 * i * o + o for i, o in ((1, 32), (32, 64), (64, 128), (128, 256)))
    up = sum(16 * i * o + o for i, o in ((256, 128), (128, 64), (64, 32), (32, 1)))
    by_hand = {
        "fc-vae": dense(784, 100, 20) + dense(10, 100, 784),
        "conditional-vae": dense(784 + 10, 512, 256, 4) + dense(2 + 10, 256, 512, 784),
        "vgg-vae": vgg,
        "transition-vae": down + dense(4096, 4) + dense(2, 4096) + up,
        "conv-autoencoder": conv + dense(864, 256),
        "conv-vae": conv + dense(864, 512),
        "frey-vae": frey,
        "beta-vae": dense(784, 400, 40) + dense(20, 400, 784),
    }
    assert set(by_hand) == set(training.models.REGISTRY) - {"rgbd-vae"}
    for name, wanted in by_hand.items():
        assert count(training.models.build(name)) == wanted, name
    assert len(layers(training.models.build("vgg-vae").encoder, nn.Conv2d)) == 32


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [28, 64, 128, 256, 512, 1024])
def test_a_transition_model_grows_no_linear_layer(size: int, channels: int) -> None:
    with torch.device("meta"):
        net = training.models.build("transition-vae", size=size, channels=channels)
    linear = layers(net.encoder, nn.Linear)[0]
    cells = linear.in_features / layers(net.encoder, nn.Conv2d)[-1].out_channels
    assert cells == (49 if size == 28 else 16)
    assert count(net) < 2e6
    x = torch.empty(1, channels, size, size, device="meta")
    assert net.eval()(x).y.shape == x.shape


@pytest.mark.parametrize("size", [28, 256])
def test_a_transition_model_starts_grey_and_awake(size: int) -> None:
    """A new network's pictures are neither black nor white, and a picture or a latent makes a difference.

    Over seeds the deviations below are 0.10 to 0.20, 0.03 to 0.3, 0.07 to 0.4; PyTorch's own weights leave
    0.0002 between the pictures of two latents at 256 pixels, and 0.000005 at 1024.
    """
    torch.manual_seed(0)
    net = training.models.build("transition-vae", size=size, width=32, min_width=8)
    with torch.no_grad():
        y = net.decode(torch.randn(4, 2))
        mean, _ = net.posterior_of(torch.rand(4, 1, size, size) * 2 - 1)
    assert y.mean().abs() < 0.2
    assert 0.02 < y.std() < 0.5
    assert (y[0] - y[1]).std() > 0.01
    assert mean.std() > 0.02


def test_conditions_are_checked() -> None:
    net = training.models.build("conditional-vae", **SMALL["conditional-vae"])
    x, condition = batch(net, 2)
    assert condition is not None
    with pytest.raises(EdgevaeError, match=r"got the condition None, wanted \(2, 3\)"):
        net(x)
    with pytest.raises(EdgevaeError, match=r"got the condition \(1, 3\), wanted \(2, 3\)"):
        net(x, condition[:1])
    with pytest.raises(EdgevaeError, match=r"got the condition \(2, 3\), wanted None"):
        training.models.build("fc-vae")(torch.zeros(2, 1, 28, 28), condition)
    net.eval()
    assert not torch.equal(net(x, condition).y, net(x, condition.flip(0)).y)


def test_weights_keep_the_names_that_checkpoints_have() -> None:
    net = training.models.build("rgbd-vae", width=2, latent_dim=3, size=32)
    names = [name for name, _ in net.named_parameters()]
    convs = {f"encoder.{3 * i + j}" for i in range(5) for j in (0, 1)} | {"encoder.16"}
    convs |= {f"decoder.{2 + 4 * i + j}" for i in range(5) for j in (1, 2)} - {"decoder.20"} | {"decoder.0"}
    assert set(names) == {f"{layer}.{part}" for layer in convs for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vae", {}, "rgbd-vae"),
        ("rgbd-vae", {"size": 100}, "multiples of 32"),
        ("rgbd-vae", {"size": 72, "patch": 4}, "wanted multiples of 64"),
        ("rgbd-vae", {"patch": 3}, "patch is 3, wanted one of .2, 4."),
        ("rgbd-vae", {"encoder_widths": [8] * 6}, "encoder_widths is .*, wanted at most 5 numbers"),
        ("rgbd-vae", {"head_width": -1}, "head_width is -1, wanted"),
        ("rgbd-vae", {"channels": 2}, "channels is 2, wanted 1 .grey., 3"),
        ("rgbd-vae", {"channels": "4"}, "channels is '4', wanted"),
        ("rgbd-vae", {"width": 0}, "width is 0, wanted a whole number"),
        ("rgbd-vae", {"width": 6.0}, "width is 6.0, wanted a whole number"),
        ("rgbd-vae", {"colour": "fixed"}, "no option 'colour'; wanted some of: width, latent_dim"),
        ("rgbd-vae", {"color": "srgb"}, "color.encoding is 'srgb', wanted one of fixed, minmax"),
        ("rgbd-vae", {"depth": "log"}, "depth is 'log', wanted a mapping"),
        ("rgbd-vae", {"depth": {"kind": "log"}}, "wanted a mapping such as"),
        ("rgbd-vae", {"depth": {"encoding": "log"}}, "depth.min_m is 0.0"),
        ("fc-vae", {"size": [28, 28, 1]}, "size is .28, 28, 1., wanted one number"),
        ("fc-vae", {"size": 0}, "input.height is 0"),
        ("fc-vae", {"size": "28"}, "size is '28'"),
        ("fc-vae", {"size": 28.5}, "size is 28.5"),
        ("fc-vae", {"hidden": 100}, "hidden is 100, wanted a list"),
        ("fc-vae", {"hidden": []}, "hidden is .., wanted a list"),
        ("beta-vae", {"hidden": [400, -1]}, "hidden is .400, -1., wanted a list"),
        ("beta-vae", {"latent_dim": True}, "latent_dim is True"),
        ("conditional-vae", {"condition_dim": 0}, "condition_dim is 0"),
        ("vgg-vae", {"widths": "16"}, "widths is '16', wanted a list"),
        ("vgg-vae", {"size": 3}, "size is 3x3, wanted at least 4 a side"),
        ("frey-vae", {"size": (28, 7)}, "size is 28x7, wanted at least 8 a side"),
        ("conv-vae", {"size": 5000}, "input.height is 5000"),
        ("conditional-vae", {"size": 4096}, "wanted at most 1,073,741,824"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(EdgevaeError, match=words) as error:
        training.models.build(name, **options)
    assert len(str(error.value).splitlines()) == 1
