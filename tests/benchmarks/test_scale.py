"""The arithmetic of docs/scale.md, and the page itself."""

import json

import pytest

import scale
from claims import Claim
from scale import BATCH, NETWORKS, RANKS, Message, Network, net_d, step

NET = net_d()
FAST, NET_400, SLOW = NETWORKS


def test_all_gradients_are_sent_and_the_gathered_ones_are_those_of_three_layers():
    assert sum(message.added for message in NET.added) == 4 * NET.parameters == 4 * 138_357_544
    assert sum(message.added for message in NET.gathered) == 4 * (NET.parameters - NET.weights)
    numbers = [message.gathered for message in NET.gathered if message.gathered]
    assert numbers == [4 * (4096 + 1000), 2 * (4096 + 4096), 2 * (25_088 + 4096)]
    for messages in (NET.added, NET.gathered):
        assert messages[-1].ready == 1
        assert all(0 < message.ready <= 1 for message in messages)


def test_a_ring_sends_a_sum_twice_and_what_is_gathered_once():
    network = Network("", 1e9, 0)
    assert Message(0, added=1e9).seconds(network, 4, 0) == pytest.approx(1.5)
    assert Message(0, gathered=1e9).seconds(network, 4, 2) == pytest.approx(1.5)


def test_one_gpu_takes_what_was_measured():
    for gather in (False, True):
        assert step(NET, 4000, SLOW, 1, BATCH, gather) == pytest.approx(BATCH / 4000)


def test_two_gpus_on_a_slow_network_are_faster_than_one_only_if_they_gather():
    one = BATCH / 4000
    assert step(NET, 4000, SLOW, 2, BATCH, gather=True) < one
    assert all(step(NET, 4000, SLOW, world, BATCH, gather=False) > one for world in RANKS[1:])


def test_no_network_is_a_bound():
    """However many GPUs, a step takes the constant part and, with a share each, that share of the rest."""
    perfect = Network("", 1e30, 0)
    constant = scale.PASSES * NET.parameters / scale.MEMORY
    for world in RANKS[:9]:
        ideal = constant + (BATCH / 4000 - constant) / world
        assert step(NET, 4000, perfect, world, BATCH, gather=False) == pytest.approx(ideal)
        assert step(NET, 4000, NET_400, world, BATCH, gather=False) >= ideal


def test_the_rate_is_the_measured_one_if_there_is_one(tmp_path):
    assert scale.measured(tmp_path) is None
    claim = Claim("D, training, bf16, 256 images: speed", 4321.0, "images/s", {"at least": 4000.0})
    record = {
        "claims": [vars(claim) | {"holds": True}],
        "observations": [],
        "command": None,
        "machine": dict.fromkeys(("processor", "family", "model", "cores", "memory_gib", "system")),
        "versions": {},
        "date": "2026-11-27",
        "details": {},
    }
    (tmp_path / "gpu_throughput.json").write_text(json.dumps(record))
    assert scale.measured(tmp_path) == 4321


def test_the_page_is_what_the_script_computes():
    text = scale.PAGE.read_text(encoding="utf-8")
    stale = "docs/scale.md does not match; make it with: python benchmarks/scale.py --write"
    assert scale.page(text, scale.computed()) == text, stale
