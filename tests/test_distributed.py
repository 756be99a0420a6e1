"""Ranks and addresses of random numbers, in one process; training/test_processes.py starts several."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from verydeep import distributed
from verydeep.distributed import Ranks, buckets, generator, ranks, together
from verydeep.errors import UserError


@given(st.integers(0, 300), st.integers(1, 9))
def test_shares_are_everything_once_in_order_and_nearly_equal(count, world):
    shares = [Ranks(rank, world).share(count) for rank in range(world)]
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_draws_follow_their_address_and_nothing_else():
    def draws(*address, seed=0, stream="image"):
        return tuple(generator(seed, stream, *address).random(3))

    assert draws(4, 7) == draws(4, 7)
    different = {
        draws(4, 7), draws(7, 4), draws(4, 8), draws(0, 0), draws(4, 7, seed=1), draws(4, stream="order"),
        draws(4, stream="weights"), draws(7, stream="order"),
    }  # fmt: skip
    assert len(different) == 8


def test_draws_at_neighbouring_addresses_do_not_overlap_nor_correlate():
    table = np.array([[generator(0, "image", i, t).random(8) for i in range(40)] for t in range(40)])
    assert len(np.unique(table)) == table.size
    flat = table.reshape(-1, 8)
    assert np.abs(np.corrcoef(flat[:-1, 0], flat[1:, 0])[0, 1]) < 0.1
    assert abs(flat.mean() - 0.5) < 0.01


def test_a_single_process_is_the_only_rank():
    with ranks("cpu") as here:
        assert (here.rank, here.world, here.first, here.device.type) == (0, 1, True, "cpu")
        assert here.total(torch.ones(2)).tolist() == [1, 1]


def test_a_device_that_is_not_there_is_refused():
    for name in ("tpu", "cpu:x", "cuda:99", "xla"):
        with (
            pytest.raises(UserError, match=f"(device '{name}' is not|GPU 99 is not on).*this machine"),
            ranks(name),
        ):
            pass


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_gradients_are_sent_last_layers_first_in_buckets_of_limited_size(sizes):
    parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "BUCKET", 4 * 50)
        found = buckets(parameters)
    assert [id(each) for bucket in found for each in bucket] == [id(each) for each in reversed(parameters)]
    assert all(len(bucket) == 1 or sum(each.numel() for each in bucket) <= 50 for bucket in found)


def test_gradients_that_are_sent_together_keep_their_values_and_places():
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    for parameter in layer.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = [parameter.grad.clone() for parameter in layer.parameters()]
    whole = together(list(layer.parameters()))
    assert whole.is_contiguous()
    for parameter, gradient in zip(layer.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)
        assert parameter.grad.stride() == parameter.stride()
    whole.mul_(2)  # as ranks that are added do
    for parameter, gradient in zip(layer.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, 2 * gradient)
