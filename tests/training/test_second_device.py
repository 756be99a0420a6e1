"""Training on another device than the CPU, on a machine without one; see elsewhere.py."""

import pytest
import torch

from elsewhere import DEVICE, second_device
from synthetic import memory
from verydeep import recipe as recipes
from verydeep import weights
from verydeep.computing import Computing
from verydeep.datasets.survey import principal_components, survey
from verydeep.distributed import Ranks
from verydeep.errors import Interrupted
from verydeep.evaluation.posteriors import Pass, one_pass
from verydeep.recipe import Recipe
from verydeep.training import checkpoint, loop
from verydeep.training.augmentation import Colours
from verydeep.training.run import run_directory
from verydeep.training.step import Execution
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
