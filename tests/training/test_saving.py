"""Saving by a thread: the same files as without one, whatever happens to the thread, the disk or the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest
import torch

from synthetic import memory
from verydeep import files
from verydeep.datasets.survey import principal_components, survey
from verydeep.distributed import Ranks
from verydeep.errors import Interrupted, UserError
from verydeep.recipe import Recipe
from verydeep.training import loop, saving
from verydeep.training.augmentation import Colours
from verydeep.training.run import run_directory
from verydeep.training.step import Execution
from verydeep.training.validation import Validated, Validation

RECIPE = Recipe(
    crop=32, width=0.125, fully_connected=8, initialisation="glorot", batch=16, epochs=3, training_scale=(32, 40)
)
DATA = {"path": "memory", "classes": ["a", "b"], "images": 40, "validation_images": 7, "mean": [1.0, 2.0, 3.0]}
PATIENCE = 60.0
"""Seconds that a test waits for what has to come."""


def train(run):
    dataset = memory()
    found = survey(dataset, progress=False)
    colours = Colours(found.mean, *principal_components(found.covariance))
    validation = Validation(
        "by itself", 7, lambda net: Validated(0.5 - net.fc8.bias.abs().sum().item() / 100, 1.25)
    )
    with run_directory(run, RECIPE, DATA, Ranks()) as entered:
        return loop.train(RECIPE, entered, dataset, colours, validation, Ranks(), Execution())


@pytest.fixture
def thread(monkeypatch):
    """Save by a thread although this is a CPU."""
    monkeypatch.setattr(saving, "AT_ONCE", ())


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """A run that was saved without a thread."""
    run = tmp_path_factory.mktemp("runs") / "at-once"
    train(run)
    return run


WEIGHTS = ("weights.safetensors", "best.safetensors")


def contents(run, names=("checkpoint.pt", *WEIGHTS)):
    return {name: (run / name).read_bytes() for name in names}


def resumed(run):
    """Resume a run; return its weight files."""
    train(run)
    return contents(run, WEIGHTS)


def change(monkeypatch, owner, name, changed):
    """Replace a function by one that is given the original."""
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *arguments: changed(original, *arguments))


def counted(monkeypatch, then):
    """Call a function with each iteration that was counted."""

    def count(original, training, *arguments):
        original(training, *arguments)
        then(training)

    change(monkeypatch, loop.Training, "count", count)


def test_a_thread_writes_the_same_files(tmp_path, at_once, thread):
    net = train(tmp_path / "a")
    assert contents(tmp_path / "a") == contents(at_once)
    assert net.card.provenance["epochs"] == 3


def test_the_training_goes_on_while_a_write_takes_its_time(tmp_path, monkeypatch, thread):
    """What is written is the state when it was saved, not that of the iterations since."""
    states = {}

    def kept(original, *arguments):
        original(*arguments)
        states.setdefault(run.name, []).append(contents(run))

    change(monkeypatch, saving, "write", kept)
    run = tmp_path / "at-once"
    with monkeypatch.context() as patch:
        patch.setattr(saving, "AT_ONCE", ("cpu",))
        train(run)
    done, go = [], Event()

    def slow(original, entered, of, state):
        if state.progress.iteration == 3:
            assert go.wait(PATIENCE)
        original(entered, of, state)
        done.append(f"written {state.progress.iteration}")

    def note(training):
        done.append(training.progress.iteration)
        if training.progress.iteration == 5:
            go.set()

    change(monkeypatch, saving, "write", slow)
    counted(monkeypatch, note)
    run = tmp_path / "slow"
    train(run)
    assert done.index(5) < done.index("written 3") < done.index("written 6") < done.index("written 9")
    assert states["slow"] == states["at-once"]


def test_the_next_state_is_copied_when_the_last_is_written(tmp_path, monkeypatch, thread):
    """Otherwise copies would pile up on a slow disk."""
    done = []

    def copied(original, net, optimiser, progress):
        done.append(("copied", progress.iteration))
        return original(net, optimiser, progress)

    def write(original, entered, of, state):
        original(entered, of, state)
        done.append(("written", state.progress.iteration))

    change(monkeypatch, saving, "copied", copied)
    change(monkeypatch, saving, "write", write)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    train(tmp_path / "a")
    assert [what for what, _ in done] == ["copied", "written"] * (len(done) // 2)
    assert [iteration for what, iteration in done if what == "written"] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]


def failing(monkeypatch, iteration):
    """Let the disk be full for the checkpoint of an iteration; return an event that is set after that."""
    failed, failing = Event(), Event()

    def write(original, entered, of, state):
        if state.progress.iteration == iteration:
            failing.set()
        try:
            original(entered, of, state)
        finally:
            if failing.is_set():
                failed.set()

    def put_in_place(original, aside, path):
        if failing.is_set() and path.name == "checkpoint.pt":
            raise OSError(28, "No space left on device")
        original(aside, path)

    change(monkeypatch, saving, "write", write)
    change(monkeypatch, files, "put_in_place", put_in_place)
    return failed


def test_a_full_disk_ends_the_training_before_the_next_iteration(tmp_path, monkeypatch, at_once, thread):
    done = []
    with monkeypatch.context() as patch:
        failed = failing(patch, 6)

        def note(training):
            done.append(training.progress.iteration)
            if training.progress.iteration == 7:
                assert failed.wait(PATIENCE)
                with pytest.raises(UserError):
                    training.saving._last.result()

        counted(patch, note)
        with pytest.raises(
            UserError, match=r"checkpoint\.pt: No space left on device; the file that was there is"
        ):
            train(tmp_path / "a")
    assert done == [1, 2, 3, 4, 5, 6, 7]
    assert torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["progress"]["iteration"] == 3
    assert resumed(tmp_path / "a") == contents(at_once, WEIGHTS)


def test_a_full_disk_at_the_end_is_no_success(tmp_path, monkeypatch, at_once, thread, capsys):
    with monkeypatch.context() as patch:
        failing(patch, 9)
        with pytest.raises(UserError, match="No space left on device"):
            train(tmp_path / "a")
    assert "ended after" not in capsys.readouterr().err
    assert "ended" not in (tmp_path / "a" / "log.jsonl").read_text()
    assert resumed(tmp_path / "a") == contents(at_once, WEIGHTS)


@pytest.mark.parametrize("full", [False, True])
def test_a_signal_ends_the_training_when_everything_is_written(tmp_path, monkeypatch, at_once, thread, full):
    with monkeypatch.context() as patch:
        if full:
            failing(patch, 5)
        counted(patch, lambda training: training.progress.iteration == 5 and os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(UserError if full else Interrupted, match="No space" if full else "after iteration 5"):
            train(tmp_path / "a")
    saved = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["progress"]["iteration"]
    assert saved == (3 if full else 5)
    assert resumed(tmp_path / "a") == contents(at_once, WEIGHTS)


def test_an_error_of_the_training_waits_for_the_write(tmp_path, monkeypatch, thread):
    go = Event()

    def slow(original, *arguments):
        assert go.wait(PATIENCE)
        original(*arguments)

    def fail(training):
        if training.progress.iteration == 4:
            go.set()
            raise RuntimeError("by itself")

    change(monkeypatch, saving, "write", slow)
    counted(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="by itself"):
        train(tmp_path / "a")
    assert torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["progress"]["iteration"] == 3
    assert not list((tmp_path / "a").glob(".*.part"))


KILLED = """
import os, sys
from pathlib import Path
from test_saving import files, saving, train
name, after, run = sys.argv[1:]
original, seen = files.put_in_place, []

def put_in_place(aside, path):
    seen.append(path.name)
    killed = seen.count(name) == 2
    if killed and not after:
        os._exit(9)
    original(aside, path)
    if killed:
        os._exit(9)

saving.AT_ONCE = ()
files.put_in_place = put_in_place
train(Path(run))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint.pt", "best.safetensors"])
@pytest.mark.parametrize("after", ["", "after"])
def test_a_process_that_is_killed_in_a_write_is_resumed_to_the_same_files(tmp_path, at_once, thread, name, after):
    """By the thread itself, in the second epoch that is saved: before or after a file gets its name."""
    there = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, name, after, str(tmp_path / "a")],
        capture_output=True, text=True, env=there, check=False,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    assert resumed(tmp_path / "a") == contents(at_once, WEIGHTS)
