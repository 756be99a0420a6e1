"""The normalisation of net A-LRN."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jvp, vmap

from verydeep import normalisation
from verydeep.normalisation import LocalResponseNormalisation, formula

normalise = LocalResponseNormalisation()


def maps(*shape, seed=0, spread=100.0):
    return spread * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_lrn_is_the_formula_of_krizhevsky(images, channels, height, width, last):
    a = maps(images, channels, height, width)
    units = a.numpy()
    expected = np.empty_like(units)
    for i in range(channels):
        window = units[:, max(0, i - 2) : min(channels - 1, i + 2) + 1]
        expected[:, i] = units[:, i] / (2 + 1e-4 * (window**2).sum(1)) ** 0.75
    given_as = a.contiguous(memory_format=torch.channels_last) if last else a
    np.testing.assert_allclose(normalise(given_as).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(normalise(given_as.float()).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_gradients_and_their_gradients_are_those_of_the_formula(channels, layout, monkeypatch):
    monkeypatch.setattr(normalisation, "CACHED", 4 * channels)  # parts of four positions
    a = maps(2, channels, 3, 3, spread=50.0).contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(normalise, a)
    assert torch.autograd.gradgradcheck(normalise, a)
    up = maps(2, channels, 3, 3, seed=1)
    expected = torch.autograd.grad(formula(a), a, up)[0]
    torch.testing.assert_close(torch.autograd.grad(normalise(a), a, up)[0], expected)
    total = torch.autograd.grad(normalise(a).sum(), a)[0]  # a gradient expanded from a single number
    torch.testing.assert_close(total, torch.autograd.grad(formula(a).sum(), a)[0])


def test_a_position_gives_the_same_bits_in_every_batch_and_on_any_number_of_threads():
    a = maps(6, 8, 40, 41).float().contiguous(memory_format=torch.channels_last)
    up = maps(6, 8, 40, 41, seed=1).float()
    threads = torch.get_num_threads()
    found = []
    try:
        for number, parts in ((1, 1), (2, 1), (1, 6), (1, 2)):
            torch.set_num_threads(number)
            pieces = [part.detach().requires_grad_() for part in a.chunk(parts)]
            outputs = [normalise(piece) for piece in pieces]
            for output, gradient in zip(outputs, up.chunk(parts), strict=True):
                output.backward(gradient)
            found.append((torch.cat(outputs), torch.cat([piece.grad for piece in pieces])))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_the_backward_pass_keeps_the_input_alone():
    a, kept = maps(2, 8, 5, 5).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()), lambda _: None):
        normalise(a)
    assert kept == [a.numel()]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_result_lies_in_memory_as_its_input_does(layout):
    a = maps(2, 8, 5, 6).contiguous(memory_format=layout)
    assert normalise(a).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(dtype):
    a = maps(1, 8, 4, 4, spread=5000).to(dtype)  # squares beyond the range of float16
    assert torch.equal(normalise(a), normalise(a.float()).to(dtype))


def test_transforms_of_functions_get_the_same():
    a, up = maps(3, 8, 4, 4), maps(3, 8, 4, 4, seed=1)

    def loss(image):
        return (normalise(image[None])[0] * up[0]).sum()

    wanted = a.clone().requires_grad_()
    (normalise(wanted) * up[0]).sum().backward()
    torch.testing.assert_close(vmap(grad(loss))(a), wanted.grad)
    torch.testing.assert_close(jvp(normalise, (a,), (up,))[1], jvp(formula, (a,), (up,))[1])
    assert normalise(a.to("meta")).shape == a.shape
