"""edgevae.fuse against the modules it is given."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALL, batch
from torch import Tensor, nn

import edgevae
import training
from edgevae.errors import EdgevaeError
from edgevae.torch_fuse import FusedConv
from edgevae.torch_layers import Chain

# TorchScript is announced as ending, and is what many programs load all the same.
pytestmark = [
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]


def example(seed: int = 0) -> nn.Sequential:
    """Every kind of run, and layers between that stay."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding="same"),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(6, 6, 3, padding=1, padding_mode="replicate"),
        nn.BatchNorm2d(6, affine=False),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(6, 3, 3, padding=1),
        nn.Tanh(),
    )
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return net.eval()


def fused_layers(module: nn.Module) -> list[FusedConv]:
    return [layer for layer in module.modules() if isinstance(layer, FusedConv)]


def assert_same(fused: Any, module: Any, *inputs: Any) -> None:
    # Sums of some hundred terms through five layers: 1e-6 of numbers around 1, ten times that allowed.
    torch.testing.assert_close(fused(*inputs), module(*inputs), rtol=1e-5, atol=1e-5)


def test_fuse() -> None:
    net = example()
    before = copy.deepcopy(net.state_dict())
    fused = edgevae.fuse(net)
    assert len(fused_layers(fused)) == 4
    assert [layer.channels_last for layer in fused_layers(fused)] == [True, True, True, False]
    assert not fused_layers(net)
    for x in (torch.randn(2, 3, 16, 24), torch.randn(1, 3, 8, 8).to(memory_format=torch.channels_last)):
        assert_same(fused, net, x)
        assert fused(x).is_contiguous()
    fused[1].append(nn.Identity()) if isinstance(fused[1], nn.Sequential) else fused.append(nn.Identity())
    assert_same(fused, net, torch.randn(1, 3, 8, 8))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", training.models.REGISTRY)
def test_every_model_of_training(name: str) -> None:
    torch.manual_seed(0)
    net = training.models.build(name, **SMALL[name]).eval()
    fused = edgevae.fuse(net)
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert len(fused_layers(fused)) == len(convolutions)
    x, condition = batch(net, 2)
    for got, wanted in zip(fused(x, condition), net(x, condition), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    if condition is None:  # the halves on their own, down to the last Tanh
        half = edgevae.fuse(net.decoder)
        z = torch.randn(2, net.latent_dim)
        assert_same(half, net.decoder, z)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(4, 4, 3, groups=2)],
        [nn.Conv2d(4, 4, 3, dilation=2)],
        [nn.Conv2d(4, 4, 3, stride=(1, 2))],
        [nn.Conv2d(4, 4, 3, padding=(0, 1))],
        [nn.Conv2d(4, 4, 3, padding=3)],
        [nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")],
        [nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")],
        [nn.ConvTranspose2d(4, 4, 3), nn.ReLU()],
        [nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))],
        [type("MyConv", (nn.Conv2d,), {})(4, 4, 3)],
    ],
    ids=str,
)
def test_what_does_not_match_stays(layers: list[nn.Module]) -> None:
    net = nn.Sequential(*layers).eval()
    fused = edgevae.fuse(net)
    assert not fused_layers(fused)
    assert_same(fused, net, torch.randn(1, 4, 9, 9))


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        ([nn.Conv2d(4, 6, 3), nn.GELU()], 1),
        ([nn.Conv2d(4, 6, 3), nn.Softplus(beta=2)], 1),
        ([nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()], 2),
        ([nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.Tanh()], 2),
        ([nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 6, 3, padding=1)], 1),
        ([nn.Upsample(scale_factor=3), nn.Conv2d(4, 6, 3, padding=1)], 1),
        ([nn.Upsample(scale_factor=2), nn.Conv2d(4, 6, 5, padding=2)], 1),
        ([nn.Upsample(size=(4, 4)), nn.Conv2d(4, 6, 3, padding=1)], 1),
        ([nn.Conv2d(4, 6, 3), nn.Upsample(scale_factor=2)], 1),
    ],
    ids=str,
)
def test_as_much_as_matches(layers: list[nn.Module], left: int) -> None:
    net = nn.Sequential(*layers).eval()
    fused = edgevae.fuse(net)
    assert len(fused_layers(fused)) == 1
    assert len(fused) == left + 1
    assert_same(fused, net, torch.randn(2, 4, 6, 6))


def test_layers_that_are_looked_at_stay() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
    seen: list[str] = []
    net[0].register_forward_hook(lambda *_: seen.append("conv"))
    edgevae.fuse(net)(torch.randn(1, 4, 5, 5))
    assert seen == ["conv"]


def test_a_layer_in_two_places() -> None:
    relu, conv = nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
    net = nn.Sequential(conv, relu, conv, relu, nn.Conv2d(4, 2, 1), relu).eval()
    fused = edgevae.fuse(net)
    assert len(fused) == 3
    assert_same(fused, net, torch.randn(1, 4, 5, 5))


def test_a_module_with_a_forward_of_its_own() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = Chain(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            for layer in list(self.layers)[:-1]:
                x = layer(x)
            return 2 * x

    net = Decoder().eval()
    fused = edgevae.fuse(net)
    assert len(fused_layers(fused)) == 2
    assert_same(fused, net, torch.randn(1, 4, 5, 5))


def test_a_convolution_alone() -> None:
    conv = nn.Conv2d(4, 6, 3).eval()
    fused = edgevae.fuse(conv)
    assert isinstance(fused, FusedConv)
    assert_same(fused, conv, torch.randn(1, 4, 5, 5))


def test_what_fuse_refuses() -> None:
    with pytest.raises(EdgevaeError, match="got a function, wanted"):
        edgevae.fuse(F.relu)  # type: ignore[arg-type]
    with pytest.raises(EdgevaeError, match="fuse first, then script or trace"):
        edgevae.fuse(torch.jit.script(nn.ReLU()))


def test_training_is_that_of_the_layers() -> None:
    """Steps of training in between evaluations: the same losses, gradients, statistics and answers."""
    net = example().train()
    fused = edgevae.fuse(net)
    pair = (net, fused)
    optimizers = [torch.optim.SGD(module.parameters(), 0.1) for module in pair]
    x = torch.randn(4, 3, 16, 16)
    for _ in range(2):
        for module, optimizer in zip(pair, optimizers, strict=True):
            module.eval()
            with torch.no_grad():
                module(x)  # packed before the step
            module.train()
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
        for a, b in zip(net.parameters(), fused.parameters(), strict=True):
            assert torch.equal(a, b)
        for a, b in zip(net.buffers(), fused.buffers(), strict=True):
            assert torch.equal(a, b)
    assert_same(fused.eval(), net.eval(), x)


def test_a_norm_that_trains_on_its_own() -> None:
    net = example()
    fused = edgevae.fuse(net)
    x = torch.randn(4, 3, 16, 16)
    fused(x)
    net[6].train()
    (norm,) = (
        layer.norm for layer in fused_layers(fused) if layer.norm is not None and not layer.norm.affine
    )
    norm.train()
    assert torch.equal(fused(x), fused(x)) == torch.equal(net(x), net(x))
    assert_same(fused.eval(), net.eval(), x)


def test_gradients_in_evaluation() -> None:
    net = example()
    fused = edgevae.fuse(net)
    x = torch.randn(2, 3, 16, 16)
    gradients = []
    for module in (net, fused):
        image = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(module(image).square().sum(), [image, *module.parameters()]))
    for got, wanted in zip(*gradients[::-1], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_copies_dtypes_and_state(tmp_path: Path) -> None:
    net = example()
    fused = edgevae.fuse(net)
    x = torch.randn(1, 3, 16, 16)
    assert_same(copy.deepcopy(fused).double(), copy.deepcopy(net).double(), x.double())
    other = edgevae.fuse(example(1))
    other(x)
    other.load_state_dict(fused.state_dict())
    assert_same(other, net, x)
    torch.save(fused, tmp_path / "fused.pt")
    assert_same(torch.load(tmp_path / "fused.pt", weights_only=False), net, x)
    with torch.inference_mode():
        inside = edgevae.fuse(net)
        assert not any(parameter.is_inference() for parameter in inside.parameters())
        assert_same(inside, net, x)


# --- programs -----------------------------------------------------------------------------------


def test_programs_of_the_fused_module(tmp_path: Path, packed: list[object]) -> None:
    """They agree here, and in a process that knows the operators alone."""
    net = example()
    fused = edgevae.fuse(net)
    x = torch.randn(2, 3, 16, 24)
    programs: dict[str, Any] = {"script": torch.jit.script(fused), "trace": torch.jit.trace(fused, (x,))}
    programs["freeze"] = torch.jit.freeze(programs["script"])
    for how, program in programs.items():
        torch.jit.save(program, tmp_path / f"{how}.ts")
    exported = torch.export.export(fused, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert targets >= {"edgevae.conv_bn_lrelu.default", "edgevae.upsample_conv.default"}
    torch.export.save(exported, tmp_path / "export.pt2")
    programs["export"] = exported.module()
    for how, program in programs.items():
        packed.clear()
        for _ in range(2):
            assert_same(program, net, x)
            assert_same(program, net, x[:1])
        assert len(packed) in (0, 4), how  # a program with weights of its own packs them once
    torch.save((x, net(x)), tmp_path / "answer.pt")
    code = (
        "import pathlib, sys, warnings, torch, edgevae.torch_ops\n"
        "warnings.simplefilter('ignore')\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "x, wanted = torch.load(folder / 'answer.pt')\n"
        "programs = [torch.jit.load(path) for path in sorted(folder.glob('*.ts'))]\n"
        "assert len(programs) == 3\n"
        "for run in (*programs, torch.export.load(folder / 'export.pt2').module()):\n"
        "    torch.testing.assert_close(run(x), wanted, rtol=1e-5, atol=1e-5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_a_scripted_module_trains() -> None:
    net = example().train()
    run = torch.jit.script(edgevae.fuse(net))
    x = torch.randn(4, 3, 16, 16)
    for module in (net, run):
        module.eval()
        module(x)
        module.train()
        module(x).sum().backward()
    for a, b in zip(net.parameters(), run.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert_same(run.eval(), net.eval(), x)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled(packed: list[object]) -> None:
    """As one graph, forward and backward; inductor's own code generation is not what is tested."""
    net = example()
    fused = edgevae.fuse(net)
    run = torch.compile(fused, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert_same(run, net, x)
    for module in (net, run):
        module(x).square().sum().backward()
    for a, b in zip(net.parameters(), fused.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4 * float(a.grad.abs().max()))
    assert len(packed) == 4  # also what is compiled packs once
    for module in (net, run):
        module.train()
        module(x)
        module.eval()
    with torch.no_grad():
        assert_same(run, net, x)
