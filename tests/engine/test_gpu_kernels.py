"""The GPU's kernels against torch: on a GPU, or where Triton is installed without one in its interpreter."""

import os

import pytest
import torch

# The interpreter does so, with numpy from 1.25 on.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="Triton is not installed, and comes with torch for GPUs")

from verydeep.computing import Computing  # noqa: E402
from verydeep.engine import gpu, operators  # noqa: E402

DEVICE = torch.device("cuda" if ON_GPU else "cpu")
HALF = torch.bfloat16 if ON_GPU else torch.float16  # the interpreter cannot compute in bfloat16

SHAPES = [
    # images, channels, outputs, height, width, side
    (3, 64, 64, 8, 8, 3),
    (1, 64, 128, 7, 11, 3),
    (2, 128, 64, 5, 6, 1),
    (1, 64, 64, 6, 4, 5),
    (2, 8, 24, 7, 5, 3),
    (2, 3, 16, 9, 6, 3),
    (1, 3, 64, 4, 4, 3),
]


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Let the kernels run here, and divide sums among a few programs."""
    with Computing("fp32").settings(DEVICE):
        if not ON_GPU:
            pretend(monkeypatch)
        yield


def pretend(monkeypatch):
    monkeypatch.setattr(gpu, "programs", lambda device: 3)
    monkeypatch.setattr(gpu, "hopper", lambda device: True)
    monkeypatch.setattr(gpu, "HALF", HALF)


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


@pytest.mark.parametrize("own", [True, False], ids=["our convolution", "torch's"])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, HALF])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward_are_those_of_torch(monkeypatch, shape, kind, pool, own):
    monkeypatch.setattr(gpu, "SMALLEST", 0 if own else 2**60)
    x, weight, bias = maps(shape, kind)
    y, winners = gpu.forward(x, weight, bias, True, pool, pool)
    wide = [each.double().requires_grad_() for each in (x, weight, bias)]
    before = torch.conv2d(*wide, padding=shape[-1] // 2).relu()
    expected = torch.max_pool2d(before, 2) if pool else before
    close(y, expected, kind)
    assert y.is_contiguous(memory_format=torch.channels_last)
    # The gradient, at the values and winners that were found.
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, kind)
    found = gpu.backward(gradient, x, weight, y, winners, True, pool, True, True)
    expected = operators._backward_by_torch(
        gradient.double(), x.double(), weight.double(), y.double(), winners, True, pool, True, True
    )
    for one, other in zip(found, expected, strict=True):
        close(one, other, kind)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("shape", SHAPES[-2:])
def test_the_gradient_of_conv1_1_needs_no_gradient_of_the_images(shape, pool):
    x, weight, bias = maps(shape, HALF)
    y, winners = gpu.forward(x, weight, bias, True, pool, pool)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(x)
    _, *found = gpu.backward(gradient, x, weight, y, winners, True, pool, False, True)
    wide = [each.double() for each in (gradient, x, weight, y)]
    _, *expected = operators._backward_by_torch(*wide, winners, True, pool, False, True)
    for one, other in zip(found, expected, strict=True):
        close(one, other, HALF)


@pytest.mark.parametrize("rectify", [False, True])
def test_without_a_relu_the_gradient_is_not_masked(rectify):
    x, weight, bias = maps(SHAPES[0], torch.float32)
    y, winners = gpu.forward(x, weight, bias, rectify, False, False)
    assert bool((y < 0).any()) is not rectify
    gradient = torch.ones_like(y)
    _, _, of_bias = gpu.backward(gradient, x, weight, y, winners, rectify, False, False, True)
    expected = (y > 0).sum((0, 2, 3)) if rectify else torch.full_like(of_bias, y[:, 0].numel())
    torch.testing.assert_close(of_bias, expected.to(of_bias))


@pytest.mark.parametrize("own", [True, False], ids=["our convolution", "torch's"])
def test_ties_and_nan(monkeypatch, own):
    """The first of equal values wins, nobody wins where all are 0, and NaN is not hidden."""
    monkeypatch.setattr(gpu, "SMALLEST", 0 if own else 2**60)
    x = torch.zeros(1, 64, 4, 4, device=DEVICE, dtype=HALF)
    x[0, 0] = torch.tensor([[1.0, 1, 0, 2], [1, 1, 0, 2], [-1, -1, 0, 0], [-1, -1, float("nan"), 0]])
    weight = torch.zeros(64, 64, 1, 1, device=DEVICE, dtype=HALF)
    weight[0, 0] = 1
    y, winners = gpu.forward(x, weight, weight.new_zeros(64), True, True, True)
    assert y[0, 0].flatten()[:3].tolist() == [1, 2, 0]
    assert y[0, 0, 1, 1].isnan()
    assert winners[0, 0].tolist() == [[0, 1], [4, 4]]
    assert (winners[0, 1:] == 4).all()


@pytest.mark.parametrize(
    ("height", "width"), [(224, 224), (112, 112), (56, 56), (28, 28), (14, 14), (12, 16), (25, 33)]
)
def test_tiles_cover_a_map_with_few_pixels_outside(height, width):
    cut = gpu.tile(256, height, width, 128)
    assert cut.images * cut.rows * cut.columns == 256
    whole = -(-height // cut.rows) * cut.rows * (-(-width // cut.columns) * cut.columns)
    assert whole <= 1.1 * height * width


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_a_convolution_that_masks_is_the_gradient_of_a_relu(shape):
    x, weight, _ = maps(shape, HALF)
    rectified = torch.randn(len(x), len(weight), *x.shape[2:]).to(x).relu()
    rectified = rectified.contiguous(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    found, sums = gpu.convolve(x, gpu.matrix(weight), shape[-1], None, False, False, False, rectified=rectified)
    expected = torch.conv2d(x.double(), weight.double(), padding=shape[-1] // 2) * (rectified > 0)
    close(found, expected, HALF)
    close(sums, expected.sum((0, 2, 3)), HALF)
