"""Ranks that start differently are refused, whatever they compute on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from synthetic import memory, refusal
from verydeep.distributed import Ranks
from verydeep.network import ConvNet
from verydeep.training.checkpoint import Progress
from verydeep.training.initialisation import initialise
from verydeep.training.loop import CHECKSUMS, checksum, refuse_different_starts


def new_net(seed=0):
    net = ConvNet("A", 5, crop=32, width=0.125, fully_connected=16)
    initialise(net, "glorot", seed=seed)
    return net


def together(monkeypatch, nets):
    """Let ranks with these nets compare their starts, as far as the first of them sees."""
    sums = iter([checksum(net) for net in nets])
    first = next(sums)

    def of_all(self, value):
        return [value, *([float(each) for each in sums] if value == first else [value])]

    monkeypatch.setattr(Ranks, "of_all", of_all)
    return lambda: refuse_different_starts(Ranks(0, 2), Path("runs/a"), nets[0], Progress(), memory())


def test_equal_weights_have_equal_checksums_in_any_order_of_addition(monkeypatch):
    """GPUs of different models add float32 numbers in different orders, so their sums of weights differ."""
    net, other = new_net(), new_net().to(memory_format=torch.channels_last)
    assert net.conv3_1.weight.stride() != other.conv3_1.weight.stride()
    line = net.conv3_1.weight.detach().abs().flatten().numpy()
    assert np.add.accumulate(line)[-1] != np.add.accumulate(line[::-1])[-1]
    assert checksum(net) == checksum(other)
    together(monkeypatch, [net, other])()


@pytest.mark.parametrize("bit", range(32))
def test_one_bit_of_one_weight_is_enough(bit):
    net = new_net()
    before = checksum(net)
    with torch.no_grad():
        net.conv5_2.weight.view(torch.int32)[3, 4, 1, 2] ^= 1 << bit if bit < 31 else -(2**31)
    assert checksum(net) != before


def test_a_checksum_can_be_sent_as_float32():
    assert all(CHECKSUMS % factor for factor in range(2, 4097))
    assert torch.tensor(float(CHECKSUMS - 1)).item() == CHECKSUMS - 1
    assert 0 <= checksum(new_net()) < CHECKSUMS


def test_other_weights_are_refused(monkeypatch):
    message = refusal(together(monkeypatch, [new_net(), new_net(1)]))
    assert "the ranks start differently: their checksum of weights is" in message
