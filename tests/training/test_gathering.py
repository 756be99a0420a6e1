"""Weight gradients from gathered inputs and output gradients: those of one process, and of adding."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from verydeep.distributed import Ranks
from verydeep.network import ConvNet
from verydeep.training.gathering import cheaper, worth_gathering
from verydeep.training.loop import let_learn

PROGRAM = Path(__file__).parents[1] / "gathering_rank.py"
PROCESSES = {
    1: ("added", "added-some-learn"),
    2: ("added", "gathered", "parts", "recomputed", "added-bf16", "bf16", "some-learn", "resumed"),
    3: ("gathered", "parts", "added-bf16", "bf16", "some-learn", "resumed"),
}
"""The ways of each number of ranks."""


def learned(folder, world, *ways):
    """Let ranks learn, as if each were on a machine of its own; return the changes of the parameters by way."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(PROGRAM), str(folder), *ways]
    running = [
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
            | {name: str(value) for name, value in (place | {"RANK": rank}).items()},
        )
        for rank in range(world)
    ]
    said = [process.communicate()[1] for process in running]
    assert not any(process.returncode for process in running), "\n".join(said)
    return {way: torch.load(folder / f"{way}-{world}.pt", weights_only=True) for way in ways}


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """How much the parameters change in a few mini-batches, by number of ranks and way."""
    folder = tmp_path_factory.mktemp("ranks")
    return {world: learned(folder, world, *ways) for world, ways in PROCESSES.items()}


def assert_close(found, expected, bound=1e-5):
    for name, change in found.items():
        assert (change - expected[name]).norm() <= bound * expected[name].norm(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "way"), [(2, "added"), *((n, way) for n in (2, 3) for way in ("gathered", "parts"))]
)
def test_ranks_learn_what_one_process_does(changes, world, way):
    assert_close(changes[world][way], changes[1]["added"])


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_frozen_layers_stay_and_are_not_gathered(changes, world):
    assert_close(changes[world]["some-learn"], changes[1]["added-some-learn"])


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_bf16_is_gathered_in_bf16(changes, world):
    """Up to the rounding of gradients in bf16: before they are added, or once."""
    assert_close(changes[world]["bf16"], changes[world]["added-bf16"], 2**-8)


@pytest.mark.slow
def test_what_is_recomputed_changes_nothing(changes):
    assert_close(changes[2]["recomputed"], changes[2]["gathered"], 0)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_the_same_ranks_learn_the_same_bits_when_resumed(changes, world):
    assert_close(changes[world]["resumed"], changes[world]["gathered"], 0)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_net_is_gathered_from(tmp_path, changes):
    assert_close(learned(tmp_path, 2, "compiled")["compiled"], changes[1]["added"], 1e-4)


# The choice

MACHINES = Ranks(0, 16, device=torch.device("cuda", 0))


@pytest.fixture(scope="module")
def net():
    with torch.device("meta"):
        return ConvNet("D")


@pytest.fixture(autouse=True)
def machines(monkeypatch):
    """Two machines of eight ranks."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")


def names(net, images=256, here=MACHINES, precision="bf16"):
    chosen = [each.layer for each in worth_gathering(net, images, here, precision)]
    return [name for layer in chosen for name, module in net.named_modules() if module is layer]


def test_the_numbers_of_an_image_are_much_fewer_than_the_weights(net):
    layers = [net.fc6.weight, net.fc7.weight, net.fc8.weight]
    assert sum(len(each) + each[0].numel() for each in layers) == 42_472
    assert sum(4 * each.numel() for each in layers) == 494_534_656


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_paper_s_mini_batch_is_gathered_on_several_machines(net, precision):
    assert names(net, precision=precision) == ["fc8", "fc7", "fc6"]


def test_one_machine_adds(net):
    assert names(net, here=replace(MACHINES, world=8)) == []
    assert names(net, here=Ranks()) == []


def test_mini_batches_that_are_larger_than_the_layers_are_added(net):
    assert names(net, images=2_000) == ["fc7", "fc6"]
    assert names(net, images=100_000) == []


def test_slow_ranks_do_not_form_the_gradient_of_all_images(net):
    """In a mini-batch of 256, a CPU computes longer at the gradient of fc6 than it would wait for the sum."""
    assert cheaper(net.fc6.weight, 64, "cpu", 4)
    assert not cheaper(net.fc6.weight, 512, "cpu", 4)


def test_frozen_layers_are_not_chosen(net):
    let_learn(net, ["fc7"])
    assert names(net) == ["fc7"]
    let_learn(net, ())
