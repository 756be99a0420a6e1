"""Initial weights: distributions, layers taken from net A, and the first signal."""

import math

import pytest
import torch

from verydeep.errors import UserError
from verydeep.network import ConvNet
from verydeep.training.initialisation import initialise, signal, start_from

SMALL = {"crop": 64, "width": 0.25, "fully_connected": 128}


def random_net(name, seed=0, classes=10, initialisation="he", **sizes):
    sizes = SMALL | sizes
    net = ConvNet(name, classes, **sizes)
    initialise(net, initialisation, seed=seed)
    return net.eval()


@pytest.mark.parametrize(
    ("method", "deviation"),
    [
        ("normal", lambda fan_in, fan_out: 0.01),
        ("glorot", lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
        # On raw pixels: 128 ^ (-1/L) for the L = 16 layers of D.
        ("he", lambda fan_in, fan_out: math.sqrt(2 / fan_in) * 128 ** (-1 / 16)),
    ],
)
def test_weights_have_the_spread_of_their_distribution_and_biases_are_zero(method, deviation):
    net = random_net("D", initialisation=method)
    for layer in net.layers:
        if layer.kind == "conv":
            module, area = net.get_submodule(layer.name), layer.kernel**2
            expected = deviation(layer.in_channels * area, layer.out_channels * area)
            count = module.weight.numel()
            assert abs(module.weight.std().item() / expected - 1) < 4 / math.sqrt(count)
            assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(count)
            assert (module.bias == 0).all()
    bounded = net.conv3_1.weight.abs().max() <= math.sqrt(3) * deviation(16 * 9, 64 * 9) * 2
    assert bounded or method != "glorot"


def test_weights_follow_the_seed():
    one, same, other = random_net("A"), random_net("A"), random_net("A", seed=1)
    assert torch.equal(one.conv3_1.weight, same.conv3_1.weight)
    assert not torch.equal(one.conv3_1.weight, other.conv3_1.weight)
    assert not torch.equal(one.conv4_2.weight, one.conv5_1.weight)


@pytest.mark.parametrize("name", ["B", "C", "D", "E"])
def test_a_deeper_net_takes_the_first_four_convolutions_and_the_last_three_layers_of_a(name):
    source, net, before = random_net("A", seed=5), random_net(name), random_net(name)
    assert start_from(net, source) == ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")
    for layer in net.layers:
        if layer.kind == "conv":
            module = net.get_submodule(layer.name)
            named = layer.name in ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")
            expected = (source if named else before).get_submodule(layer.name)
            assert torch.equal(module.weight, expected.weight)
            assert module.weight.requires_grad


def test_a_net_takes_all_layers_of_one_of_its_own_configuration():
    source, net = random_net("E", seed=5), random_net("E")
    source.mean.copy_(torch.tensor([10.0, 20.0, 30.0]))
    assert len(start_from(net, source)) == 19
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(net(images), source(images))


def test_the_class_layer_of_other_classes_is_left_random():
    net, before = random_net("A", classes=["cat", "dog"]), random_net("A", classes=["cat", "dog"])
    assert "fc8" not in start_from(net, random_net("A", seed=5, classes=10))
    assert "fc8" not in start_from(net, random_net("A", seed=5, classes=["dog", "cat"]))
    assert torch.equal(net.fc8.weight, before.fc8.weight)


def test_a_feature_net_gives_its_convolutions():
    net, before, source = random_net("D"), random_net("D"), random_net("D", seed=5, classes=0)
    assert len(start_from(net, source)) == 13
    assert torch.equal(net.conv5_3.weight, source.conv5_3.weight)
    assert torch.equal(net.fc6.weight, before.fc6.weight)
    assert start_from(random_net("E"), source) == ("conv1_1", "conv2_1", "conv3_1", "conv3_2")


@pytest.mark.parametrize(
    ("name", "sizes", "layer"),
    [("A", {"width": 0.5}, "conv1_1"), ("A", {"crop": 96}, "fc6"), ("B-5x5", {}, "conv1_1")],
)
def test_a_source_of_other_sizes_is_refused_with_both_shapes(name, sizes, layer):
    with pytest.raises(UserError, match=f"{layer} of net D has shape.*start from"):
        start_from(random_net("D"), random_net(name, **sizes))


def test_the_signal_is_measured_and_a_dead_one_is_said_with_what_to_try():
    images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    alive = signal(random_net("D").train(), images)
    assert 10 < alive.pixels < 150
    assert "too small" not in alive.sentence()
    dead = signal(random_net("D", initialisation="normal"), images)
    assert dead.scores < 1e-6
    assert "too small" in dead.sentence()
    assert "--initialisation glorot or he" in dead.sentence()


def test_the_signal_of_an_exploded_net_is_said():
    net = ConvNet("D", 10, **SMALL)
    initialise(net, std=0.5)
    assert "too large" in signal(net, torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).sentence()


@pytest.mark.parametrize("name", ["A", "B"])
def test_the_gain_of_the_papers_initialisation_is_that_of_the_arithmetic(name):
    """Each layer scales the signal by std sqrt(fan in), and the ReLU before it by sqrt(1/2); at half the width."""
    sizes = {"crop": 64, "width": 0.5, "fully_connected": 512}
    net = ConvNet(name, 10, **sizes)
    initialise(net, std=0.03)
    expected = 1.0
    for number, layer in enumerate(layer for layer in net.layers if layer.kind == "conv"):
        expected *= 0.03 * math.sqrt(layer.in_channels * layer.kernel**2 * (0.5 if number else 1.0))
    # A white image: no borders but the padding, and no correlations for max-pooling.
    measured = signal(net, torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8))
    # Max-pooling picks the largest of four, and padding is zero: each a factor of a few at most.
    assert 0.1 < measured.scores / measured.pixels / expected < 30
