"""Weights in half precision for the length of a pass: the results of autocast, and a net that is as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from verydeep.evaluation.half import half_weights

HALVES = [torch.bfloat16, torch.float16]


def images():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 48), np.uint8)
    return torch.from_numpy(pixels)


def scores(net, kind):
    with torch.no_grad(), torch.autocast("cpu", kind):
        return net(images())


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("name", ["A", "A-LRN", "D"])
def test_scores_are_those_of_autocast_to_the_bit(new_net, name, kind):
    net = new_net(name)
    expected = scores(net, kind)
    with half_weights(net, kind):
        assert net.conv1_1.weight.dtype == net.fc7.bias.dtype == kind
        assert net.fc8.weight.dtype == torch.float32
        found = scores(net, kind)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("fails", [False, True])
def test_a_net_is_as_it_was_afterwards(new_net, fails):
    """With the same parameters, which optimisers and hooks know, and not only equal ones."""
    net = new_net()
    net.conv1_1.weight.grad = torch.ones_like(net.conv1_1.weight)
    net.conv2_1.requires_grad_(False)
    before, values = dict(net.named_parameters()), copy.deepcopy(net.state_dict())
    called = []
    net.conv1_1.weight.register_post_accumulate_grad_hook(lambda _: called.append(1))
    try:
        with half_weights(net, torch.bfloat16):
            scores(net, torch.bfloat16)
            if fails:
                raise KeyError
    except KeyError:
        pass
    after = dict(net.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert all(torch.equal(values[name], value) for name, value in net.state_dict().items())
    assert not net.conv2_1.weight.requires_grad
    net(images()).sum().backward()
    assert called


def test_a_layer_with_something_attached_keeps_its_weights(new_net):
    net = new_net()
    seen = []
    net.conv3_1.register_forward_hook(lambda layer, *_: seen.append(layer.weight.dtype))
    net.fc6 = nn.Sequential(net.fc6)
    expected = scores(net, torch.bfloat16)
    with half_weights(net, torch.bfloat16):
        assert torch.equal(scores(net, torch.bfloat16), expected)
    assert set(seen) == {torch.float32}


def test_nothing_changes_in_float32_or_in_a_net_that_is_in_half_precision(new_net):
    net = new_net()
    before = dict(net.named_parameters())
    with half_weights(net, None):
        assert all(before[name] is each for name, each in net.named_parameters())
    half = new_net().bfloat16()
    before = dict(half.named_parameters())
    with half_weights(half, torch.bfloat16):
        assert all(before[name] is each for name, each in half.named_parameters())
