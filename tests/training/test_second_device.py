"""Training on another device than the CPU, on a machine without one; see elsewhere.py."""

import json

import pytest
import torch

from elsewhere import DEVICE, second_device
from synthetic import memory, mini_batch
from verydeep import recipe as recipes
from verydeep import weights
from verydeep.computing import Computing
from verydeep.datasets.survey import principal_components, survey
from verydeep.distributed import Ranks
from verydeep.errors import Interrupted
from verydeep.evaluation.posteriors import one_pass
from verydeep.evaluation.protocols import Pass
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training import checkpoint, loop
from verydeep.training.augmentation import Colours
from verydeep.training.run import run_directory
from verydeep.training.step import Execution, Step, new_optimiser, set_rate
from verydeep.training.validation import Validated, Validation

RECIPE = Recipe(
    crop=32, width=0.125, fully_connected=8, initialisation="glorot", batch=16, epochs=2, training_scale=(32, 40)
)
DATA = {"path": "memory", "classes": ["a", "b"], "images": 40, "validation_images": 40, "mean": [1.0, 2.0, 3.0]}
THERE = Ranks(device=DEVICE)
PASS = Pass("centre-crop", 32, flip=False)


def train(run, recipe=RECIPE, here=THERE, execution=None):
    dataset, quiet = memory(), Computing(progress=False)
    found = survey(dataset, progress=False)
    colours = Colours(found.mean, *principal_components(found.covariance))

    def measure(net):
        matrix = one_pass(net, dataset, PASS, here, quiet)
        return Validated(float((matrix.argmax(1) != dataset.labels).mean()), 1.25)

    with run_directory(run, recipe, DATA, here) as entered:
        validation = Validation("by itself", 40, measure)
        return loop.train(recipe, entered, dataset, colours, validation, here, execution or Execution(quiet))


def state(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def interrupted(run, monkeypatch, iteration, **how):
    """Train until an iteration, with Ctrl-C."""
    import os
    import signal

    original = loop.Training.count

    def count(self, *arguments):
        original(self, *arguments)
        if self.progress.iteration == iteration:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "count", count)
        with pytest.raises(Interrupted):
            train(run, **how)


def test_the_device_refuses_what_a_gpu_refuses():
    with second_device():
        there = torch.ones(2, device=DEVICE)
        assert there.device == DEVICE
        assert not there.is_cpu
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(2)
        with pytest.raises(RuntimeError, match="same device"):
            there.add_(torch.ones(2))
        with pytest.raises(TypeError):
            there.numpy()
        assert (there + torch.tensor(1.0)).cpu().tolist() == [2, 2]
        assert there.copy_(torch.zeros(2)).tolist() == [0, 0]


@pytest.mark.parametrize("iteration", [2, 3, 5])
def test_a_training_is_resumed_on_its_device(tmp_path, monkeypatch, iteration):
    """Net, velocities, sums of losses and the validation are all on one device, and nothing is lost on the way."""
    with second_device():
        whole = train(tmp_path / "whole")
        interrupted(tmp_path / "parts", monkeypatch, iteration)
        resumed = train(tmp_path / "parts")
        assert whole.fc8.weight.device == resumed.fc8.weight.device == DEVICE
    assert same(weights.load(tmp_path / "parts").state_dict(), weights.load(tmp_path / "whole").state_dict())
    one, other = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert one["progress"] == other["progress"]
    velocities = [each["optimiser"]["state"] for each in (one, other)]
    assert velocities[0]
    assert all(same(velocities[0][number], velocities[1][number]) for number in velocities[0])


def test_a_checkpoint_goes_from_device_to_device(tmp_path, monkeypatch):
    with second_device():
        interrupted(tmp_path / "a", monkeypatch, 3)
    assert train(tmp_path / "a", here=Ranks()).fc8.weight.is_cpu
    with second_device():
        longer = recipes.changed(RECIPE, {"epochs": 3})
        interrupted(tmp_path / "b", monkeypatch, 3, recipe=longer)
    interrupted(tmp_path / "b", monkeypatch, 5, recipe=longer, here=Ranks())
    with second_device():
        assert train(tmp_path / "b", recipe=longer).fc8.weight.device == DEVICE


def test_a_velocity_that_stayed_behind_would_be_noticed(tmp_path, monkeypatch):
    """These tests fail if the net is moved after its optimiser has read the checkpoint, or a velocity is not."""
    original = checkpoint.restore

    def restore(entered, net, optimiser):
        progress = original(entered, net, optimiser)
        for of_weight in optimiser.state.values():
            of_weight["momentum_buffer"] = of_weight["momentum_buffer"].cpu()
        return progress

    with second_device():
        interrupted(tmp_path / "a", monkeypatch, 2)
        monkeypatch.setattr(checkpoint, "restore", restore)
        with pytest.raises(RuntimeError, match="same device"):
            train(tmp_path / "a")


@pytest.mark.parametrize("way", [{}, {"micro_batch": 3}, {"recompute": True}])
@pytest.mark.parametrize("name", ["A", "A-LRN"])
def test_an_iteration_waits_for_the_device_once_at_its_end(name, way):
    """Between the start and the outcome of an iteration, nothing is read back: not even to send a signal."""
    with second_device() as machine:
        net = ConvNet(name, 2, crop=32, width=0.125, fully_connected=8).to(DEVICE).train()
        net.recompute = way.get("recompute", False)
        step = Step(net, new_optimiser(net, RECIPE, 0.01), THERE, Execution(**way))
        for signal in (0, 15):
            machine.waits.clear()
            begun = step.begin(mini_batch(8, signal, classes=2), 8, signal, save=True)
            assert machine.waits == []
            outcome = begun.outcome()
            assert machine.waits == ["cpu"]
            assert (outcome.signal, outcome.save, outcome.images) == (signal, True, 8)
            assert 0 < outcome.loss < 100


def test_the_next_iteration_is_begun_before_the_outcome_of_the_last_is_read(tmp_path, monkeypatch):
    """But not beyond the end of an epoch."""
    done = []

    def noted(name, original):
        def call(self, *arguments):
            done.append((name, self.progress.iteration if name == "count" else None))
            return original(self, *arguments)

        return call

    monkeypatch.setattr(loop.Training, "count", noted("count", loop.Training.count))
    monkeypatch.setattr(Step, "begin", noted("begin", Step.begin))
    with second_device():
        train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 1}))
    assert [name for name, _ in done] == ["begin", "begin", "count", "begin", "count", "count"]
    assert [iteration for name, iteration in done if name == "count"] == [0, 1, 2]
    done.clear()
    train(tmp_path / "b", recipes.changed(RECIPE, {"epochs": 1}), here=Ranks())
    assert [name for name, _ in done] == 3 * ["begin", "count"]


@pytest.mark.parametrize("iteration", [1, 2, 3, 4])
def test_outcomes_that_are_read_late_change_nothing(tmp_path, monkeypatch, iteration):
    """On a CPU that is made to read them late: the log, the checkpoint and the weights are the same bytes."""
    original = Step.__init__

    def late(self, *arguments):
        original(self, *arguments)
        self.late = True

    train(tmp_path / "at-once", here=Ranks())
    monkeypatch.setattr(Step, "__init__", late)
    monkeypatch.setattr("verydeep.training.step.fetched", lambda numbers: lambda: numbers)
    train(tmp_path / "late", here=Ranks())
    interrupted(tmp_path / "parts", monkeypatch, iteration, here=Ranks())
    assert state(tmp_path / "parts")["progress"]["iteration"] in (iteration, iteration + 1)
    train(tmp_path / "parts", here=Ranks())
    for run in ("late", "parts"):
        for name in ("weights.safetensors", "best.safetensors"):
            assert (tmp_path / run / name).read_bytes() == (tmp_path / "at-once" / name).read_bytes()
        assert losses(tmp_path / run) == losses(tmp_path / "at-once")
        assert state(tmp_path / run)["progress"] == state(tmp_path / "at-once")["progress"]
    assert (tmp_path / "late/checkpoint.pt").read_bytes() == (tmp_path / "at-once/checkpoint.pt").read_bytes()


def losses(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {(line["iteration"], "epoch" in line): line["loss"] for line in lines if "loss" in line}


def test_a_late_checkpoint_is_of_the_last_iteration_that_was_begun(tmp_path, monkeypatch):
    """All ranks learn of a wish with the outcome of its iteration; by then they have begun the next one."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    saved = []
    original = loop.Training.save

    def save(self):
        assert self.under_way is None
        saved.append(self.progress.iteration)
        original(self)

    monkeypatch.setattr(loop.Training, "save", save)
    with second_device():
        train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 1, "batch": 8}))
    assert saved == [2, 4, 5, 5]


def test_velocities_on_cuda_are_updated_by_one_kernel_whatever_the_checkpoint_says(tmp_path, monkeypatch):
    interrupted(tmp_path / "a", monkeypatch, 2, here=Ranks())
    assert [group["fused"] for group in state(tmp_path / "a")["optimiser"]["param_groups"]] == [None, None]
    with second_device():
        interrupted(tmp_path / "a", monkeypatch, 4)
        assert [group["fused"] for group in state(tmp_path / "a")["optimiser"]["param_groups"]] == [True, True]
    train(tmp_path / "a", here=Ranks())
    assert [group["fused"] for group in state(tmp_path / "a")["optimiser"]["param_groups"]] == [None, None]


def test_one_kernel_updates_as_many_do():
    nets = [ConvNet("A", 2, crop=32, width=0.125, fully_connected=8).train() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, fused in zip(nets, (None, True), strict=True):
        optimiser = new_optimiser(net, RECIPE, 0.01)
        for group in optimiser.param_groups:
            group["fused"] = fused
        step = Step(net, optimiser, Ranks(), Execution())
        for iteration, rate in enumerate((0.01, 0.01, 0.001)):
            set_rate(optimiser, rate)
            step(mini_batch(8, iteration, classes=2), 8)
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
