"""What only a GPU can show. Each test also runs on the CPU, so that it is known to run."""

import os
import signal
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import verydeep
from synthetic import memory, mini_batch
from verydeep.computing import Computing
from verydeep.distributed import Ranks
from verydeep.errors import Interrupted
from verydeep.network import ConvNet
from verydeep.training import loop, saving
from verydeep.training.augmentation import MiniBatch
from verydeep.training.checkpoint import Progress
from verydeep.training.initialisation import initialise
from verydeep.training.step import Execution, Step, new_optimiser

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
RECIPE = verydeep.Recipe(
    net="A-LRN", crop=32, width=0.25, fully_connected=32, initialisation="glorot", batch=16, epochs=4
)


def train(run, device):
    sets = {"data": memory(), "validation": memory(6)}
    return verydeep.train(recipe=RECIPE, out=run, device=device, deterministic=True, **sets)


@pytest.mark.parametrize("device", DEVICES)
def test_a_deterministic_training_that_is_resumed_has_the_same_bits(tmp_path, monkeypatch, device):
    """Twelve iterations at once, and six and then six."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # in case an earlier test has used CUDA
    whole = train(tmp_path / "whole", device)
    original = loop.Training.count

    def count(self, *arguments):
        original(self, *arguments)
        if self.progress.iteration == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "count", count)
        with pytest.raises(Interrupted):
            train(tmp_path / "parts", device)
    resumed = train(tmp_path / "parts", device)
    assert [epoch.loss for epoch in resumed.epochs] == [epoch.loss for epoch in whole.epochs]
    files = [run.path / "weights.safetensors" for run in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("device", "precision", "bound"),
    [
        ("cpu", "fp32", 1e-5),
        ("cpu", "bf16", 3e-2),
        pytest.param("cuda", "fp32", 1e-5, marks=pytest.mark.gpu),
        pytest.param("cuda", "tf32", 5e-3, marks=pytest.mark.gpu),
        pytest.param("cuda", "bf16", 3e-2, marks=pytest.mark.gpu),
    ],
)
@pytest.mark.parametrize("method", ["dense", "multi-crop"])
def test_posteriors_are_those_of_the_cpu(device, precision, bound, method):
    net, dataset = ConvNet("D", 2, crop=32, width=0.25, fully_connected=32).eval(), memory(12)
    initialise(net, "glorot")
    expected = verydeep.posteriors(net, dataset, [64], method, computing=Computing(progress=False))
    computing, here = Computing(precision, progress=False), Ranks(device=torch.device(device))
    found = verydeep.posteriors(net, dataset, [64], method, ranks=here, computing=computing)
    np.testing.assert_allclose(found, expected, atol=bound, rtol=0)


@contextmanager
def without_waiting(device):
    """Let torch raise an error if the program waits for the GPU inside."""
    try:
        if device == "cuda":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
                torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_iteration_is_begun_without_waiting(device, precision):
    net = ConvNet("A", 2, crop=32, width=0.25, fully_connected=32).to(device).train()
    execution = Execution(Computing(precision), micro_batch=3)
    step = Step(net, new_optimiser(net, RECIPE, 0.01), Ranks(device=torch.device(device)), execution)
    share = MiniBatch(
        torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.zeros(8).long(), torch.zeros(8, 3), torch.arange(8)
    )
    if device == "cuda":
        share = MiniBatch(*(each.pin_memory() for each in share))
    step(share, 8)  # the first allocates memory and chooses algorithms
    with without_waiting(device):
        begun = [step.begin(share, 8, number, save=number > 0) for number in (0, 15)]
    outcomes = [each.outcome() for each in begun]
    assert [(each.signal, each.save) for each in outcomes] == [(0, False), (15, True)]
    assert all(0 < each.loss < 100 for each in outcomes)


@pytest.mark.parametrize("device", DEVICES)
def test_a_state_is_copied_without_waiting_and_before_what_is_begun_later(device):
    net = ConvNet("A", 2, crop=32, width=0.25, fully_connected=32).to(device).train()
    net.to(memory_format=torch.channels_last)
    optimiser = new_optimiser(net, RECIPE, 0.01)
    step = Step(net, optimiser, Ranks(device=torch.device(device)), Execution())
    share = mini_batch(8, classes=2)
    if device == "cuda":
        share = MiniBatch(*(each.pin_memory() for each in share))
    step(share, 8)
    before = {name: tensor.cpu().clone() for name, tensor in net.state_dict().items()}
    velocities = [each["momentum_buffer"].cpu().clone() for each in optimiser.state.values()]
    with without_waiting(device):
        arrived = saving.copied(net, optimiser, Progress(iteration=1))
        begun = [step.begin(share, 8) for _ in range(3)]
    state = arrived()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.net.state_dict().items())
    found = [each["momentum_buffer"] for each in state.optimiser["state"].values()]
    assert all(torch.equal(one, other) for one, other in zip(found, velocities, strict=True))
    assert all(each.outcome().images == 8 for each in begun)
    assert not torch.equal(net.fc8.weight.cpu(), before["fc8.weight"])
