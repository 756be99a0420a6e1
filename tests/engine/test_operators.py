import os
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from verydeep.engine import in_large_pages, native, operators, schedule
from verydeep.engine.choice import Blocks
from verydeep.engine.native import LIBRARIES, Library
from verydeep.engine.operators import Step
from verydeep.network import ConvNet

capability = {"AVX512": 0, "AVX2": 1}.get(torch.backends.cpu.get_cpu_capability(), 2)
RUNNABLE = {name: file for name in LIBRARIES[capability:] if (file := native._file(name))}
if (asked := Path(os.environ.get(native.VARIABLE) or "")).is_file():  # set by `make sanitize`
    RUNNABLE = {asked.stem: asked}
needs_library = pytest.mark.skipif(not RUNNABLE, reason="built without a C++ compiler")

sides = st.integers(1, 19)
channels = st.integers(1, 40)


@pytest.fixture(params=["off", *RUNNABLE])
def library(request, monkeypatch):
    """Run a test with every library that this machine can run, and without one."""
    chosen = None if request.param == "off" else Library(request.param, RUNNABLE[request.param])
    monkeypatch.setattr(operators, "library", lambda: chosen)
    return chosen


def layer_and_input(images, inputs, outputs, height, width, seed=0):
    torch.manual_seed(seed)
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    return layer, torch.randn(images, inputs, height, width)


def convolution(layer, x, rectify, pool):
    return operators.convolutions([Step(layer, rectify, pool)], x)


def serves(layer, x):
    return operators.served([Step(layer, False, False)], x) == 1


def by_torch(layer, x, rectify, pool):
    y = F.conv2d(x, layer.weight.double(), layer.bias.double(), padding=1)
    y = F.relu(y) if rectify else y
    return F.max_pool2d(y, 2) if pool else y


def error(found, expected):
    """L2 error relative to the expected tensor, or to its typical norm if chance made that norm small."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp(min=0.1 * expected.numel() ** 0.5))


def clear(layer, x, rectify, pool):
    """1 where rounding cannot change whether a ReLU is open or which pixel wins a pooling, else 0."""
    with torch.no_grad():
        y = by_torch(layer, x.double(), False, False)
        if pool:
            best = operators._windows(y).sort(descending=True).values[..., :2]
            decided = (best[..., 0] < -1e-4) | ((best[..., 0] > 1e-4) & (best[..., 0] - best[..., 1] > 1e-4))
        else:
            decided = (y.abs() > 1e-4) | torch.tensor(not rectify)
    return decided.float()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), channels, channels, sides, sides, st.sampled_from([(0, 0), (1, 0), (1, 1)]))
@pytest.mark.usefixtures("library")
def test_output_and_gradients_are_those_of_torch_in_double(images, inputs, outputs, height, width, after):
    rectify, pool = map(bool, after)
    if pool and min(height, width) < 2:
        return
    layer, x = layer_and_input(images, inputs, outputs, height, width)
    with torch.no_grad():
        tested = convolution(layer, x, rectify, pool)
    x.requires_grad_()
    y = convolution(layer, x, rectify, pool)
    x64 = x.detach().double().requires_grad_()
    expected = by_torch(layer, x64, rectify, pool)
    assert y.shape == expected.shape
    assert torch.equal(tested, y)
    assert error(y, expected) < 5e-6
    weight, bias = layer.weight, layer.bias
    along = torch.randn_like(y) * clear(layer, x, rectify, pool)
    found = torch.autograd.grad(y, (x, weight, bias), along)
    for one, wanted in zip(found, torch.autograd.grad(expected, (x64, weight, bias), along.double()), strict=True):
        assert one.shape == wanted.shape
        assert error(one, wanted) < 2e-5


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 5),
    st.lists(channels, min_size=2, max_size=6),
    st.integers(16, 37),
    st.integers(16, 37),
    st.integers(0, 3),
    st.sampled_from([0, 200, 3000, 2**22]),
    st.sampled_from([1, 3]),
)
@pytest.mark.usefixtures("library")
def test_layers_in_one_are_those_of_torch_one_after_another(
    images, outputs, height, width, poolings, together, threads
):
    torch.manual_seed(0)
    steps, x64, inputs = [], torch.randn(images, 3, height, width, dtype=torch.float64), 3
    x = x64.float()
    with torch.no_grad():
        for number, each in enumerate(outputs):
            layer = nn.Conv2d(inputs, each, 3, padding=1)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            rectify, pool = number % 3 < 2, bool(poolings >> number & 1) and number < 2
            steps.append(Step(layer, rectify or pool, pool))
            x64, inputs = by_torch(layer, x64, rectify or pool, pool), each
        fully = nn.Conv2d(inputs, 7, x64.shape[2:])
        steps.append(Step(fully, True, False))
        expected = F.relu(F.conv2d(x64, fully.weight.double(), fully.bias.double()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schedule, "TOGETHER", together)
            patch.setattr(operators, "program", schedule.program.__wrapped__)
            patch.setattr(torch, "get_num_threads", lambda: threads)
            assert operators.served(steps, x) == (len(steps) if operators.available() else 0)
            found = operators.convolutions(steps, x)
    assert found.shape == expected.shape
    # The test above bounds the error of one layer. Through seven, the last of which nearly cancels, we saw 1e-5.
    assert error(found, expected) < 1e-4


@pytest.mark.usefixtures("library")
def test_a_workspace_that_is_too_large_to_keep(monkeypatch):
    monkeypatch.setattr(native, "KEPT", 100)
    first, x = layer_and_input(3, 5, 9, 12, 14)
    second, _ = layer_and_input(1, 9, 17, 1, 1)
    with torch.no_grad():
        found = operators.convolutions([Step(first, True, False), Step(second, True, True)], x)
        expected = by_torch(second, by_torch(first, x.double(), True, False), True, True)
    assert error(found, expected) < 1e-5


def test_weights_in_large_pages_are_contiguous():
    weights = torch.randn(1200, 512, 3, 3)  # large enough for huge pages
    for original in (weights, weights.to(memory_format=torch.channels_last)):
        found = in_large_pages(original)
        assert torch.equal(found, weights)
        assert found.is_contiguous()
        assert found.data_ptr() != original.data_ptr()


@pytest.mark.usefixtures("library")
def test_weights_and_their_gradients_are_contiguous():
    net = ConvNet("A", classes=3, crop=32, width=0.25, fully_connected=8)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    net(images).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.is_contiguous(), name
        assert parameter.grad.is_contiguous(), name
    vector = nn.utils.parameters_to_vector(net.parameters())
    nn.utils.vector_to_parameters(vector, net.parameters())
    assert all(parameter.is_contiguous() for parameter in net.parameters())


@pytest.mark.usefixtures("library")
def test_weights_with_channels_last_are_taken_too():
    layer, x = layer_and_input(2, 19, 35, 9, 9)
    fully = nn.Conv2d(19, 5, 3)
    layer.to(memory_format=torch.channels_last)
    fully.to(memory_format=torch.channels_last)
    assert not layer.weight.is_contiguous()
    with torch.no_grad():
        expected = F.conv2d(x.double(), fully.weight.double(), fully.bias.double())
        assert error(operators.fully_connected(fully, x, False), expected) < 5e-6
    assert_exact(layer, x, pool=True)


def test_layers_that_are_trained_are_computed_one_at_a_time():
    first, x = layer_and_input(1, 3, 16, 9, 9)
    second, _ = layer_and_input(1, 16, 8, 1, 1)
    steps = [Step(first, True, False), Step(second, True, False)]
    one = 1 if operators.available() else 0
    assert operators.served(steps, x) == one
    first.requires_grad_(False)
    assert operators.served(steps, x) == one  # the second still learns
    second.requires_grad_(False)
    assert operators.served(steps, x) == 2 * one
    assert operators.served(steps, x.requires_grad_()) == one


def cut_in(monkeypatch, blocks):
    """Divide tiles into these blocks, in testing and in training."""
    monkeypatch.setattr(operators, "blocks", lambda *_: blocks)
    monkeypatch.setattr(schedule, "blocks", lambda *_: blocks)
    monkeypatch.setattr(operators, "program", schedule.program.__wrapped__)


def assert_exact(layer, x, pool):
    """Compare output and gradients of a layer and its ReLU with torch's in double precision."""
    with torch.no_grad():
        assert error(convolution(layer, x, True, pool), by_torch(layer, x.double(), True, pool)) < 5e-6
    x.requires_grad_()
    y = convolution(layer, x, True, pool)
    expected = by_torch(layer, x.double(), True, pool)
    assert error(y, expected) < 5e-6
    along = torch.randn_like(y) * clear(layer, x, True, pool)
    wanted = torch.autograd.grad(expected, (x, layer.weight, layer.bias), along.double())
    for one, other in zip(torch.autograd.grad(y, (x, layer.weight, layer.bias), along), wanted, strict=True):
        assert error(one, other) < 2e-5


@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.usefixtures("library")
def test_however_the_tiles_are_cut(images, shared, monkeypatch):
    cut_in(monkeypatch, Blocks(7, shared))
    monkeypatch.setattr(operators, "gradient_block", lambda *_: 5)
    layer, x = layer_and_input(images, 19, 35, 18, 13)
    assert_exact(layer, x, pool=True)


@pytest.mark.parametrize(("shared", "threads"), [(False, 1), (True, 1), (True, 3)])
@pytest.mark.usefixtures("library")
def test_many_channels_and_tiles(shared, threads, monkeypatch):
    cut_in(monkeypatch, Blocks(200, shared))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    layer, x = layer_and_input(2, 300, 160, 40, 34)
    assert_exact(layer, x, pool=False)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 3), st.integers(1, 50), st.integers(1, 60))
@pytest.mark.usefixtures("library")
def test_fully_connected_layers_at_every_position(images, side, more, inputs, outputs):
    torch.manual_seed(0)
    layer = nn.Conv2d(inputs, outputs, side)
    x = torch.randn(images, inputs, side + more - 1, side)
    with torch.no_grad():
        assert operators.fully_connected(layer, x, False).shape == (images, outputs, more, 1)
        expected = F.relu(F.conv2d(x.double(), layer.weight.double(), layer.bias.double()))
        assert error(operators.fully_connected(layer, x, True), expected) < 5e-6


@pytest.mark.usefixtures("library")
def test_more_positions_than_are_computed_at_once(monkeypatch):
    monkeypatch.setattr(operators, "ROWS", 5)
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 4, 2), torch.randn(7, 3, 3, 2)
    with torch.no_grad():
        assert error(operators.fully_connected(layer, x, False), layer(x)) < 5e-6


@pytest.mark.usefixtures("library")
def test_the_same_bits_each_time_on_several_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        layer, x = layer_and_input(4, 24, 40, 20, 20)
        losses = [convolution(layer, x, True, True).square().sum() for _ in range(3)]
        grads = [torch.autograd.grad(loss, list(layer.parameters())) for loss in losses]
        assert all(torch.equal(a, b) for other in grads[1:] for a, b in zip(grads[0], other, strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("after", [(False, False), (True, False), (True, True)])
def test_reference_gradients_are_numerical_ones(after):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    layer = lambda *tensors: operators.convolution_for_training(*tensors, *after)[0]  # noqa: E731
    assert torch.autograd.gradcheck(layer, (x, weight, bias))


@pytest.mark.usefixtures("library")
def test_changed_weights_are_noticed():
    layer, x = layer_and_input(1, 9, 8, 9, 9)
    with torch.no_grad():
        changes = [
            lambda w: None,
            lambda w: w.add_(1),
            lambda w: w.data.mul_(2),
            lambda w: w.data[:, 5].zero_(),
            lambda w: w.data[3].zero_(),
        ]
        for change in changes:
            change(layer.weight)
            expected = by_torch(layer, x.double(), False, False)
            assert error(convolution(layer, x, False, False), expected) < 5e-6


@pytest.mark.usefixtures("library")
def test_what_is_not_finite_is_not_hidden():
    for inputs in (3, 9):  # the direct path, and tiles, in which a nan spreads further
        layer, x = layer_and_input(1, inputs, 8, 8, 8)
        x[0, 0, 2, 2] = torch.nan
        with torch.no_grad():
            found, expected = convolution(layer, x, True, True), by_torch(layer, x.double(), True, True)
        assert expected.isnan().sum() == 32
        assert (found.isnan() >= expected.isnan()).all()


def test_what_does_not_fit_is_refused_before_memory_is_read(library):
    layer, x = layer_and_input(1, 9, 8, 6, 6)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    bad = [(weight[:, :8], bias), (weight, bias[:2])]
    if library is not None:  # torch accepts other kernels
        bad.append((weight[:, :, :1], bias))
    for pair in bad:
        with pytest.raises((ValueError, RuntimeError)):
            operators.convolution_for_training(x, *pair, True, False)
        with pytest.raises((ValueError, RuntimeError)):
            operators.convolutions_for_testing(x, *([each] for each in pair), [True], [False], [False])
        with pytest.raises((ValueError, RuntimeError)):
            operators.fully_connected_for_testing(x, *pair, True)
    with pytest.raises((ValueError, RuntimeError)):
        operators.convolution_for_training(x[:, :, :1, :1], weight, bias, True, True)


@pytest.mark.usefixtures("library")
def test_an_output_may_be_modified_in_place():
    layer, x = layer_and_input(1, 9, 8, 6, 6)
    changed = convolution(layer, x, False, False).relu_()
    assert torch.equal(changed, convolution(layer, x, False, False).relu())


@pytest.mark.usefixtures("library")
def test_torch_knows_the_operators():
    layer, x = layer_and_input(2, 9, 8, 6, 6)
    for pool in (False, True):
        arguments = (x.requires_grad_(), layer.weight, layer.bias, True, pool)
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(operators.convolution_for_training, arguments, test_utils=checks)
    first, image = layer_and_input(2, 3, 9, 6, 6)
    parameters = ([first.weight, layer.weight], [first.bias, layer.bias])
    arguments = (image, *parameters, [True, True], [False, True], [False, False])
    checks = ("test_schema", "test_faketensor")
    with torch.no_grad():
        torch.library.opcheck(operators.convolutions_for_testing, arguments, test_utils=checks)
        fully = nn.Conv2d(9, 5, 3)
        arguments = (x.detach(), fully.weight, fully.bias, True)
        torch.library.opcheck(operators.fully_connected_for_testing, arguments, test_utils=checks)


@pytest.mark.usefixtures("library")
def test_recomputation_gives_the_same_gradients():
    layer, x = layer_and_input(2, 9, 8, 6, 6)
    plain = torch.autograd.grad(convolution(layer, x, True, True).sum(), layer.weight)
    again = checkpoint(convolution, layer, x, True, True, use_reentrant=False)
    assert torch.equal(plain[0], torch.autograd.grad(again.sum(), layer.weight)[0])


def test_half_precision_export_and_other_kernels_are_left_to_torch():
    layer, x = layer_and_input(1, 9, 8, 6, 6)
    assert serves(layer, x) == (native.library() is not None)
    assert not serves(layer.double(), x.double())
    assert not serves(nn.Conv2d(9, 8, 5, padding=2), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not serves(nn.Conv2d(9, 8, 3, padding=1), x)


def test_what_leaves_the_process_has_no_operators_of_the_engine():
    net = ConvNet("B", classes=3, crop=32, width=0.25, fully_connected=8).eval()
    images = torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8)
    exported = torch.export.export(net, (images,), strict=False)  # in strict mode, torch 2.6 cannot follow the net
    assert f"{operators.NAMESPACE}." not in str(exported.graph)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the net checks the range of its images, which cannot be traced
        traced = torch.jit.trace(net, images.float(), check_trace=False)
        assert f"{operators.NAMESPACE}::" not in str(traced.inlined_graph)
        torch.testing.assert_close(exported.module()(images), net(images), rtol=1e-4, atol=1e-4)


def test_derivatives_that_the_engine_does_not_know_are_torchs():
    net = ConvNet("B", classes=3, crop=32, width=0.25, fully_connected=8).eval()
    for parameter in net.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter)
    images, parameters = 255 * torch.rand(2, 3, 32, 32), dict(net.named_parameters())
    score = lambda named: torch.func.functional_call(net, named, (images,)).sum()  # noqa: E731
    gradients = torch.func.grad(score)(parameters)
    for name, expected in zip(
        parameters, torch.autograd.grad(score(parameters), parameters.values()), strict=True
    ):
        assert error(gradients[name], expected) < 1e-4
    _, along = torch.func.jvp(score, (parameters,), (gradients,))
    torch.testing.assert_close(along, sum(each.square().sum() for each in gradients.values()), rtol=1e-3, atol=0)


@pytest.mark.usefixtures("library")
def test_the_derivative_of_a_derivative():
    layer, x = layer_and_input(1, 9, 8, 8, 8)
    x.requires_grad_()

    def penalty(y):
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), layer.weight)[0]

    found = penalty(convolution(layer, x, True, True))
    assert error(found, penalty(by_torch(layer, x.double(), True, True))) < 1e-4


@pytest.mark.usefixtures("library")
def test_a_layer_that_does_not_learn_passes_its_gradient_on():
    layer, x = layer_and_input(2, 9, 8, 8, 8)
    layer.requires_grad_(False)
    x.requires_grad_()
    (found,) = torch.autograd.grad(convolution(layer, x, True, False).sum(), x)
    x64 = x.detach().double().requires_grad_()
    assert error(found, torch.autograd.grad(by_torch(layer, x64, True, False).sum(), x64)[0]) < 2e-5


def test_tiny_maps_are_left_to_torch():
    layer, _ = layer_and_input(1, 9, 8, 1, 1)
    assert not serves(layer, torch.randn(1, 9, 1, 1))
    assert serves(layer, torch.randn(1, 9, 2, 2)) == operators.available()
