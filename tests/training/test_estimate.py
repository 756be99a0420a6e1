"""The estimate of memory against the same sum on paper."""

import pytest

from verydeep.configurations import Architecture
from verydeep.training.estimate import PROCESS, training_memory

TINY = Architecture("A", classes=2, crop=32, width=1 / 64, fully_connected=8)
PARAMETERS = 2482


def test_a_tiny_net_on_paper():
    """Channels 1, 2, 4, 4, 8, 8, 8, 8, pooled after the 1st, 2nd, 4th, 6th and 8th layer.

    The peak is at conv4_2 and its pooling: 3072 numbers of the image; the maps that are kept, 256, 128, 256, 64,
    128 and 32, and a byte for each of 256 + 128 + 64 + 32 maxima; the gradients of 128 inputs and 32 outputs. By
    then the gradients of conv4_2, conv5_1, conv5_2, fc6, fc7 and fc8 are there.
    """
    assert TINY.parameters() == PARAMETERS
    image = 4 * (3072 + 256 + 128 + 256 + 64 + 128 + 32 + 128 + 32) + 256 + 128 + 64 + 32
    gradients = 4 * (3 * 584 + 72 + 72 + 18)
    assert training_memory(TINY, 100) == PROCESS + 8 * PARAMETERS + gradients + 100 * image


def test_many_parameters_and_few_images_have_their_peak_in_the_update():
    net = Architecture("A", classes=10, crop=64, width=0.1, fully_connected=4096)
    fc7 = 4 * 4096 * 4097
    assert training_memory(net, 1) == PROCESS + 12 * net.parameters() + fc7


@pytest.mark.parametrize("name", ["A", "A-LRN", "B-5x5", "C", "E"])
def test_recomputing_freezing_and_smaller_micro_batches_take_less(name):
    net = Architecture(name, classes=10, crop=96, width=0.5, fully_connected=256)
    whole = training_memory(net, 64)
    # The first block of A-LRN keeps most, and is recomputed as a whole.
    assert training_memory(net, 64, recompute=True) < whole + (name == "A-LRN")
    assert training_memory(net, 64, learns=("fc6", "fc7", "fc8")) < training_memory(net, 64, learns=("conv4_1",))
    assert training_memory(net, 64, learns=("conv4_1",)) < whole
    assert training_memory(net, 16) < whole <= training_memory(net, 64, fused=False)
    assert training_memory(net, 64, bf16=True, fused=False) < training_memory(net, 64, fused=False)


def test_net_d_by_torch_is_between_two_sums_on_paper():
    """Torch keeps the outputs of convolutions, and for poolings a number and an int64.

    Weights and velocity are always there, gradients at the end, and two gradients of the largest map, conv1_2's.
    """
    parameters, convolutions, poolings, largest = 138_357_544, 13_547_520, 1_530_368, 64 * 224**2
    kept = 64 * (4 * convolutions + 12 * poolings)
    found = training_memory(Architecture("D"), 64, fused=False) - PROCESS
    assert 8 * parameters + kept < found < 12 * parameters + 1.05 * kept + 64 * 2 * 4 * largest
