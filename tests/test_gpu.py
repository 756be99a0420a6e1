"""What only a GPU can show. Each test also runs on the CPU, so that it is known to run."""

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.distributed as dist

import verydeep
from synthetic import memory, mini_batch
from verydeep.computing import Computing
from verydeep.distributed import GradientSum, Ranks
from verydeep.errors import Interrupted
from verydeep.evaluation import batches, posteriors
from verydeep.evaluation.batches import GPU_MEMORY_SHARE, TestImages, batches_of, bytes_per_pixel, read_batches
from verydeep.evaluation.dense import dense_posteriors
from verydeep.evaluation.half import half_weights
from verydeep.evaluation.posteriors import Rows, one_pass
from verydeep.evaluation.protocols import Pass
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


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_in_float32_is_that_of_the_cpu(tmp_path, device):
    """Up to grown rounding: on one CPU, with and without the engine, the first 20 losses differ by 2e-3."""
    recipe = RECIPE.model_copy(update={"net": "A", "learning_rate": 1e-3, "batch": 64, "epochs": 1})
    losses = []
    for place in ("cpu", device):
        run = verydeep.train("digits", recipe, tmp_path / f"run-{len(losses)}", device=place, workers=0)
        lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "epoch" not in line and "loss" in line])
    assert len(losses[0]) == 23
    np.testing.assert_allclose(losses[1][:2], losses[0][:2], rtol=1e-4)
    np.testing.assert_allclose(losses[1][:20], losses[0][:20], rtol=1e-2)
    np.testing.assert_allclose(losses[1][-3:], losses[0][-3:], rtol=2e-2)


MASKS = """
import sys, torch
from verydeep.network import Dropout
layer, device = Dropout(0.5, 7).train(), sys.argv[1]
x, keys = torch.ones(5, 12, 2, 3), torch.tensor([0, 1, -1, 2**62, -(2**63)])
expected = layer(x, keys)
assert 100 < (expected == 0).sum() < 260
for called in (layer, torch.compile(layer)):
    assert torch.equal(called(x.to(device), keys.to(device)).cpu(), expected)
"""
"""A process of its own: the types that tests check cannot be compiled."""


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("device", DEVICES)
def test_dropout_masks_are_those_of_the_cpu_eager_and_compiled(device):
    subprocess.run([sys.executable, "-c", MASKS, device], check=True, timeout=300)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_summed_over_a_group_of_one(device):
    """What NCCL does with one rank: everything but the network."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    here = torch.device(device)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"tcp://localhost:{port}", rank=0, world_size=1)
    try:
        net = ConvNet("A", 2, crop=32, width=0.25, fully_connected=32).to(here).train()
        # A world of two, so that gradients are sent; the group has one process, which is all of it.
        gradients = GradientSum(net.parameters(), Ranks(world=2, device=here))
        images, keys = torch.zeros(4, 3, 32, 32, dtype=torch.uint8, device=here), torch.arange(4, device=here)
        net(images, keys).square().sum().backward()
        alone = [parameter.grad.clone() for parameter in net.parameters()]
        net.zero_grad()
        with gradients.summing():
            net(images, keys).square().sum().backward()
        for parameter, expected in zip(net.parameters(), alone, strict=True):
            torch.testing.assert_close(parameter.grad, expected)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["D", "C", "A-LRN", "B-5x5"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_those_of_float64(device, name, precision):
    """With the engine, in all kinds of layers, at channels for which it has convolutions of its own."""
    net = ConvNet(name, 2, crop=32, fully_connected=32, dropout=0.0).train()
    initialise(net, "he")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8)
    found = {}
    for kind, place in (("float64", "cpu"), (precision, device)):
        here = copy.deepcopy(net).to(place)
        here = here.double() if kind == "float64" else here
        with Computing("fp32" if kind == "float64" else precision).settings(torch.device(place)):
            with Computing("fp32" if kind == "float64" else precision).autocast(torch.device(place)):
                scores = here(images.to(place))
            torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 1], device=place)).backward()
        found[kind] = [scores.detach(), *(parameter.grad for parameter in here.parameters())]
    for one, other in zip(found[precision], found["float64"], strict=True):
        near = one.cpu().double()
        if precision == "fp32":
            assert (near - other).norm() < 1e-4 * other.norm()
        else:  # through 16 layers of bfloat16 the direction stays
            assert (near * other).sum() > 0.9 * near.norm() * other.norm()


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
@pytest.mark.parametrize("method", ["dense", "multi-crop", "centre-crop", "windows"])
def test_posteriors_are_those_of_the_cpu(device, precision, bound, method):
    net, dataset = new_net(), memory(12)
    expected = verydeep.posteriors(net, dataset, [64], method, computing=Computing(progress=False))
    computing, here = Computing(precision, progress=False), Ranks(device=torch.device(device))
    found = verydeep.posteriors(net, dataset, [64], method, ranks=here, computing=computing)
    np.testing.assert_allclose(found, expected, atol=bound, rtol=0)


def new_net(name="D", **sizes):
    net = ConvNet(name, 2, **{"crop": 32, "width": 0.25, "fully_connected": 32} | sizes).eval()
    initialise(net, "glorot")
    return net


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["dense", "multi-crop", "centre-crop", "windows"])
def test_a_pass_waits_for_the_gpu_only_at_its_end(monkeypatch, device, method):
    """Whether it reads by itself or by workers, and however many mini-batches it has."""
    monkeypatch.setattr(batches, "BATCH_PIXELS", 1)
    monkeypatch.setattr(batches, "GPU_BATCH_PIXELS", 1)
    net, dataset = new_net().to(device), memory(6)
    here, computing = Ranks(device=torch.device(device)), Computing("bf16", progress=False)
    expected = one_pass(net, dataset, Pass(method, 64), here, computing)  # the first allocates memory
    original, fetches = Rows.fetch, []

    def fetch(self):
        fetches.append(len(self._there))
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        original(self)

    def computed(*arguments, original=posteriors._computed):
        with without_waiting(device):
            return original(*arguments)

    monkeypatch.setattr(Rows, "fetch", fetch)
    monkeypatch.setattr(posteriors, "_computed", computed)
    for workers in (0, 2):
        fetches.clear()
        found = one_pass(net, dataset, Pass(method, 64), here, Computing("bf16", workers, progress=False))
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert fetches == ([6] if device == "cuda" else [1] * 6 + [0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_for_a_gpu_are_pinned(device, workers):
    dataset, one = memory(6), Pass("dense", 40)
    images, here = TestImages(dataset, one, 32, "bilinear"), Ranks(device=torch.device(device))
    with read_batches(images, batches_of(dataset, one, 32), workers, here) as reading:
        for batch in reading:
            assert batch.pixels.is_pinned() == (device == "cuda")
            assert batch.images(here.device)[0].device.type == device


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_weights_give_what_autocast_gives(device, kind):
    net = new_net("A-LRN").to(device)
    images = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast(device, kind):
        expected = net(images.to(device))
        with half_weights(net, kind):
            found = net(images.to(device))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_maps_of_a_batch_and_the_workspace_fit_into_the_memory_that_is_left_to_them(device, precision):
    """Four times what the maps of the layer take that needs most: that is the share of memory of the rule."""
    net, computing = new_net(width=1.0).to(device), Computing(precision)
    there, side, count = torch.device(device), 256, 32 if device == "cuda" else 1
    images = torch.zeros(count, side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2).to(there)
    used = 0
    with (
        torch.no_grad(),
        computing.settings(there),
        half_weights(net, computing.half if device == "cuda" else None),
        computing.autocast(there),
    ):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            used = torch.cuda.memory_allocated()
        dense_posteriors(net, images)
    taken = torch.cuda.max_memory_allocated() - used if device == "cuda" else 0
    each = bytes_per_pixel(net.architecture, 2 if computing.half else 4)
    assert taken < each * count * side**2 / GPU_MEMORY_SHARE


@pytest.mark.parametrize("device", DEVICES)
def test_an_overflow_under_autocast_is_warned_of(device):
    net = new_net().to(device)
    with torch.no_grad():
        net.conv1_1.bias.fill_(1e6)
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device)
    with pytest.warns(UserWarning, match="float16"), torch.no_grad(), torch.autocast(device, torch.float16):
        net(images)
