"""The engine on GPUs against torch: on a GPU; without one in Triton's interpreter; without Triton emulated."""

from importlib.util import find_spec

import pytest
import torch

import emulated
from verydeep.computing import Computing
from verydeep.engine import gpu, operators

ON_GPU, TRITON = torch.cuda.is_available(), find_spec("triton") is not None

# The interpreter does so, with numpy from 1.25 on.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

DEVICE = torch.device("cuda" if ON_GPU else "cpu")
HALF = torch.bfloat16 if ON_GPU else torch.float16  # the interpreter cannot compute in bfloat16

SHAPES = [
    # images, channels, outputs, height, width, side
    (3, 64, 64, 8, 8, 3),
    (1, 64, 128, 7, 11, 3),
    (2, 128, 64, 5, 6, 1),
    (1, 64, 64, 6, 4, 5),
    (2, 5, 12, 7, 5, 3),
    (2, 3, 16, 9, 6, 3),
    (1, 3, 64, 4, 4, 3),
]


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Compute in IEEE float32, and let the kernels run here, with sums divided among a few programs."""
    if not ON_GPU:
        monkeypatch.setattr(gpu, "programs", lambda device: 3)
        monkeypatch.setattr(gpu, "HALF", HALF)
    if not TRITON:
        monkeypatch.setattr(gpu, "_kernels", lambda: emulated.KERNELS)
    with Computing("fp32").settings(DEVICE):
        yield


def maps(shape, kind, seed=0):
    images, channels, outputs, height, width, side = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, height, width, generator=generator)
    weight = torch.randn(outputs, channels, side, side, generator=generator) / (channels * side**2) ** 0.5
    bias = torch.randn(outputs, generator=generator) / 4
    return [each.to(DEVICE, kind) for each in (x, weight, bias)]


def close(found, expected, kind):
    apart = (found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-9)
    assert apart < (1e-5 if kind == torch.float32 else 1e-2)


def refuse(*arguments):
    raise RuntimeError("GET was unable to find an engine to execute this computation")


@pytest.mark.parametrize("fused", [True, False], ids=["fused by cuDNN", "not fused"])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, HALF])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward_are_those_of_torch(monkeypatch, shape, kind, pool, fused):
    if not fused:
        monkeypatch.setattr(torch, "cudnn_convolution_relu", refuse)
    x, weight, bias = maps(shape, kind)
    y, winners = gpu.forward(x, weight, bias, True, pool, pool)
    wide = [each.double() for each in (x, weight, bias)]
    before = torch.conv2d(*wide, padding=shape[-1] // 2).relu()
    close(y, torch.max_pool2d(before, 2) if pool else before, kind)
    assert y.is_contiguous(memory_format=torch.channels_last)
    # The gradient, at the values and winners that were found.
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, kind)
    found = gpu.backward(gradient, x, weight, y, winners, True, pool, True, True)
    wide = [each.double() for each in (gradient, x, weight, y)]
    expected = operators._backward_by_torch(*wide, winners, True, pool, True, True)
    for one, other in zip(found, expected, strict=True):
        close(one, other, kind)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("shape", SHAPES[-2:])
def test_the_gradient_of_conv1_1_needs_no_gradient_of_the_images(shape, pool):
    x, weight, bias = maps(shape, HALF)
    y, winners = gpu.forward(x, weight, bias, True, pool, pool)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(x)
    of_inputs, *found = gpu.backward(gradient, x, weight, y, winners, True, pool, False, True)
    assert not of_inputs.numel()
    wide = [each.double() for each in (gradient, x, weight, y)]
    _, *expected = operators._backward_by_torch(*wide, winners, True, pool, False, True)
    for one, other in zip(found, expected, strict=True):
        close(one, other, HALF)


@pytest.mark.parametrize("rectify", [False, True])
def test_without_a_relu_the_gradient_is_not_masked(rectify):
    x, weight, bias = maps(SHAPES[0], torch.float32)
    y, winners = gpu.forward(x, weight, bias, rectify, False, False)
    assert bool((y < 0).any()) is not rectify
    _, _, of_bias = gpu.backward(torch.ones_like(y), x, weight, y, winners, rectify, False, False, True)
    expected = (y > 0).sum((0, 2, 3)) if rectify else torch.full_like(of_bias, y[:, 0].numel())
    torch.testing.assert_close(of_bias, expected.to(of_bias))


@pytest.mark.parametrize("kind", [torch.float32, HALF])
def test_ties_and_nan(kind):
    """The first of equal values wins, nobody wins where all are 0, and NaN is not hidden."""
    x = torch.zeros(1, 8, 4, 4, device=DEVICE, dtype=kind)
    x[0, 0] = torch.tensor([[1.0, 1, 0, 2], [1, 1, 0, 2], [-1, -1, 0, 0], [-1, -1, float("nan"), 0]])
    weight = torch.zeros(8, 8, 1, 1, device=DEVICE, dtype=kind)
    weight[0, 0] = 1
    y, winners = gpu.forward(x, weight, weight.new_zeros(8), True, True, True)
    assert y[0, 0].flatten()[:3].tolist() == [1, 2, 0]
    assert y[0, 0, 1, 1].isnan()
    assert winners[0, 0].tolist() == [[0, 1], [4, 4]]
    assert gpu.forward(x, weight, weight.new_zeros(8), True, False, False)[0][0, 0, 3, 2].isnan()


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize("each", [False, True])
def test_images_are_centred(kind, each):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 5, 7), generator=generator).to(DEVICE, kind)
    colour = torch.rand(3 if each else 1, 3, generator=generator).to(DEVICE) * 200
    expected = (images.float() - colour[:, :, None, None]).to(HALF)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = gpu.centred(images.contiguous(memory_format=layout), colour, HALF)
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(gpu.centred(images.transpose(2, 3), colour, HALF), expected.transpose(2, 3))
