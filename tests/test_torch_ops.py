"""torch.ops.edgevae against PyTorch's own layers."""

from __future__ import annotations

import gc
import itertools
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from activations import ACTIVATIONS
from conv_cases import CASES, OPS, assert_close, definition, operator, tensors
from torch import Tensor

from edgevae import _core, torch_ops
from edgevae.errors import DeviceError, EdgevaeError

pytestmark = pytest.mark.usefixtures("one_torch_thread")


# --- the operators ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_its_definition(case: tuple[Any, ...], isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVAE_ISA", isa)
    torch.manual_seed(0)
    for norm, bias in itertools.product(("", "plain", "affine"), (True, False)):
        args = tensors(case, norm, bias)
        call = operator(case)
        y = call(*args)
        assert_close(y, case, args)
        assert torch.equal(call(*args), y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES[1::4], ids=str)
def test_activations(case: tuple[Any, ...], activation: str) -> None:
    torch.manual_seed(1)
    args = tensors(case)
    assert_close(operator(case, activation)(*args), case, args, activation)


@pytest.mark.parametrize("case", [CASES[2], CASES[5]], ids=str)
def test_memory_layouts(case: tuple[Any, ...]) -> None:
    torch.manual_seed(2)
    args = tensors(case)
    x = args[0]
    assert x is not None
    wanted = operator(case)(*args)
    assert wanted.is_contiguous()
    last = x.to(memory_format=torch.channels_last)
    strided = torch.randn(*x.shape[:2], 2 * x.shape[2], x.shape[3] + 1)[:, :, ::2, 1:]
    strided.copy_(x)
    for given in (last, strided, x.flip(0).flip(0), x.expand(1, *x.shape)[0]):
        y = operator(case)(given, *args[1:])
        assert torch.equal(y, wanted)
        assert y.is_contiguous(memory_format=torch.channels_last) == (given is last)
        for wished in (True, False):
            y = operator(case, channels_last=wished)(given, *args[1:])
            assert torch.equal(y, wanted)
            assert y.is_contiguous(memory_format=torch.channels_last) == wished


def test_no_images_and_many_threads() -> None:
    torch.manual_seed(3)
    args = tensors(CASES[0])
    assert operator(CASES[0])(torch.empty(0, 4, 16, 16), *args[1:]).shape == (0, 32, 8, 8)
    wanted = operator(CASES[0])(*args)
    torch.set_num_threads(3)
    assert torch.equal(operator(CASES[0])(*args), wanted)
    answers: list[Tensor] = []
    callers = [threading.Thread(target=lambda: answers.append(operator(CASES[0])(*args))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(answers) == 4
    assert all(torch.equal(answer, wanted) for answer in answers)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_numbers_are_computed_by_pytorch(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    args = tensors(CASES[2])
    x = args[0]
    assert x is not None
    y = operator(CASES[2])(x.to(dtype), *args[1:])
    assert y.dtype == dtype
    wanted, size = definition(CASES[2], args)
    assert ((y.double() - wanted).abs() <= 40 * torch.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("case", [CASES[1], CASES[5], CASES[3]], ids=str)
def test_opcheck(case: tuple[Any, ...]) -> None:
    torch.manual_seed(5)
    name = "upsample_conv" if case[5] is None else "conv_bn_lrelu"
    options: dict[str, Any] = {"padding_mode": case[8], "activation": "tanh", "eps": 1e-3}
    if case[5] is not None:
        options |= {"stride": case[6], "padding": case[7]}
    for norm, bias, channels_last in (("affine", True, None), ("", False, True)):
        args = [
            None if t is None else t.requires_grad_(i < 3) for i, t in enumerate(tensors(case, norm, bias))
        ]
        torch.library.opcheck(getattr(OPS, name), args, {**options, "channels_last": channels_last})


@pytest.mark.parametrize(
    "case", [(2, 2, 3, 5, 4, 3, 2, 1, "zeros"), (1, 2, 3, 2, 3, None, 1, 1, "replicate")], ids=str
)
def test_gradients_of_every_tensor(case: tuple[Any, ...]) -> None:
    torch.manual_seed(6)
    for norm, bias in (("affine", True), ("plain", False), ("", True)):
        given = tensors(case, norm, bias)
        wanted = [t.double().requires_grad_() for t in given if t is not None]

        def call(*some: Tensor, given: list[Tensor | None] = given) -> Tensor:
            rest = iter(some)
            return operator(case, "softplus")(*(None if t is None else next(rest) for t in given))

        assert torch.autograd.gradcheck(call, wanted)
        assert torch.autograd.gradgradcheck(call, wanted)


@pytest.mark.parametrize("case", [CASES[1], CASES[5]], ids=str)
def test_gradients_of_the_kernels(case: tuple[Any, ...]) -> None:
    """In float32, where the kernels compute the output: as PyTorch's in float64."""
    torch.manual_seed(7)
    args = [None if t is None else t.requires_grad_() for t in tensors(case)]
    inputs = [t for t in args if t is not None]
    y = operator(case)(*args)
    assert_close(y.detach(), case, args)
    g = torch.randn_like(y)
    exact = [None if t is None else t.detach().double().requires_grad_() for t in args]
    wanted = torch.autograd.grad(operator(case)(*exact), [t for t in exact if t is not None], g.double())
    for got, want in zip(torch.autograd.grad(y, inputs, g), wanted, strict=True):
        # Sums of a few thousand terms, in an order of PyTorch's choice; a wrong formula is off by 1.
        torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-4 * float(want.abs().max()))


def test_a_weight_that_made_the_input_too() -> None:
    torch.manual_seed(8)
    x, w = torch.randn(1, 3, 5, 5).double(), torch.randn(3, 3, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: OPS.conv_bn_lrelu(OPS.conv_bn_lrelu(x, w, padding=1), w, padding=1), [w]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: torch.zeros(4, 8, 8)}, r"x is \(4, 8, 8\) and weight"),
        ({0: torch.zeros(1, 3, 8, 8)}, r"wanted \(N, I, h, w\) and \(O, I, kh, kw\)"),
        ({0: torch.zeros(1, 4, 1, 1)}, r"too small for a kernel \(4, 4\)"),
        ({0: torch.zeros(1, 4, 8, 8, device="meta")}, "x is on meta and a weight on cpu, wanted one device"),
        ({2: torch.zeros(5)}, r"bias is \(5,\), wanted \(6,\)"),
        ({3: None}, "one of running_mean and running_var is None"),
        ({3: None, 4: None}, "without running_mean and running_var"),
        ({"stride": 0}, "stride is 0"),
        ({"padding": 4}, "padding 4, wanted at least 1, and from 0 to less than the kernel's 4"),
        ({"padding_mode": "circular"}, "padding_mode is 'circular', wanted zeros or replicate"),
        ({"activation": "gelu"}, "activation is 'gelu', wanted one of none, relu"),
    ],
)
def test_wrong_arguments(changes: dict[Any, Any], message: str) -> None:
    args = tensors((1, 4, 6, 8, 8, 4, 2, 1, "zeros"))
    options = {"stride": 2, "padding": 1}
    for key, value in changes.items():
        if isinstance(key, int):
            args[key] = value
        else:
            options[key] = value
    with pytest.raises(EdgevaeError, match=message):
        OPS.conv_bn_lrelu(*args, **options)


def test_upsampling_wants_a_3x3_kernel() -> None:
    with pytest.raises(EdgevaeError, match=r"wanted \(O, I, 3, 3\) behind upsampling"):
        OPS.upsample_conv(torch.zeros(1, 2, 4, 4), torch.zeros(3, 2, 4, 4))


# --- packed weights -----------------------------------------------------------------------------


def test_weights_are_packed_once(packed: list[Any]) -> None:
    torch.manual_seed(9)
    args = tensors(CASES[2])
    for _ in range(3):
        y = operator(CASES[2])(*args)
    assert len(packed) == 1
    x = torch.randn(4, *CASES[2][1:2], 7, 9)
    operator(CASES[2])(x, *args[1:])  # another batch
    assert len(packed) == 1
    operator(CASES[2])(torch.randn(1, 3, 9, 7), *args[1:])  # another size
    assert len(packed) == 2
    assert torch.equal(operator(CASES[2])(*args), y)
    assert len(packed) == 2


@pytest.mark.parametrize("which", range(1, 7))
@pytest.mark.parametrize("how", ["in place", "data", "another"])
def test_changed_weights_are_packed_anew(which: int, how: str) -> None:
    torch.manual_seed(10)
    args = tensors(CASES[2])
    operator(CASES[2])(*args)
    changed = args[which]
    assert changed is not None
    if how == "in place":
        changed.mul_(1.5)
    elif how == "data":
        changed.data = changed * 1.5
    else:
        args[which] = changed * 1.5
    assert_close(operator(CASES[2])(*args), CASES[2], args)


def test_statistics_that_training_changes() -> None:
    """F.batch_norm does not count up their version."""
    torch.manual_seed(11)
    args = tensors(CASES[2])
    operator(CASES[2])(*args)
    F.batch_norm(torch.randn(4, 5, 6, 6), args[3], args[4], training=True)
    assert_close(operator(CASES[2])(*args), CASES[2], args)


def test_packed_weights_go_with_their_tensor() -> None:
    gc.collect()
    before = len(torch_ops._packed)
    args = tensors(CASES[2])
    for size in range(7, 27):
        operator(CASES[2])(torch.randn(1, 3, size, 9), *args[1:])
    assert len(torch_ops._packed) == before + 1
    assert len(torch_ops._packed[args[1]]) == torch_ops._MOST
    del args
    gc.collect()
    assert len(torch_ops._packed) == before


def test_inference_tensors_may_change_unseen() -> None:
    torch.manual_seed(12)
    with torch.inference_mode():
        args = tensors(CASES[2])
        operator(CASES[2])(*args)
        assert args[1] is not None
        args[1].mul_(2)
        assert_close(operator(CASES[2])(*args), CASES[2], args)


@pytest.mark.skipif(bool(_core.cuda_build), reason="this build has CUDA kernels")
def test_a_build_without_cuda_says_so() -> None:
    with pytest.raises(DeviceError, match=r"no CUDA kernels; build it where nvcc is found, or .* \.cpu\(\)"):
        torch_ops._on_cuda(torch_ops.Arguments(torch.zeros(1, 2, 4, 4), torch.zeros(3, 2, 3, 3)))
