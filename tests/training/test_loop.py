"""A training from its first iteration to its end: interrupted, resumed, continued, refused."""

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from synthetic import memory
from verydeep import recipe as recipes
from verydeep import weights
from verydeep.computing import Computing
from verydeep.datasets.dataset import Dataset
from verydeep.datasets.survey import principal_components, survey
from verydeep.distributed import Ranks
from verydeep.errors import Interrupted, UserError
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training import loop
from verydeep.training.augmentation import Colours
from verydeep.training.journal import read_log
from verydeep.training.run import run_directory, unfinished
from verydeep.training.start import start_of
from verydeep.training.step import Execution
from verydeep.training.validation import Validated, Validation
from verydeep.training.weight_files import WeightFiles

RECIPE = Recipe(
    crop=32, width=0.125, fully_connected=8, initialisation="glorot", batch=16, epochs=3, training_scale=(32, 40)
)
DATA = {"path": "memory", "classes": ["a", "b"], "images": 40, "validation_images": 0, "mean": [1.0, 2.0, 3.0]}


def colours_of(dataset):
    found = survey(dataset, progress=False)
    return Colours(found.mean, *principal_components(found.covariance))


def train(run, recipe=RECIPE, validate=lambda net: 0.5, dataset=None, execution=None, new_limits=False):
    dataset = dataset or memory()
    with run_directory(run, recipe, DATA, Ranks(), new_limits) as entered:
        validation = Validation("by itself", 7, lambda net: Validated(validate(net), 1.25))
        execution = execution or Execution()
        return loop.train(recipe, entered, dataset, colours_of(dataset), validation, Ranks(), execution)


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def state(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)


def same_weights(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def give_another_epoch(run):
    """Turn an ended run of one epoch into one of two, as an earlier version would have written it."""
    recipes.write(recipes.changed(RECIPE, {"epochs": 2}), run / "recipe.toml")
    changed = state(run)
    changed["progress"]["ended"] = ""
    del changed["run"]  # as versions before digests wrote it
    torch.save(changed, run / "checkpoint.pt")


def interrupted_at(iteration):
    """Make a `Training.count` that sends the signal of Ctrl-C when it counts this iteration."""

    def stopping(original):
        def count(self, *arguments):
            original(self, *arguments)
            if self.progress.iteration == iteration:
                os.kill(os.getpid(), signal.SIGINT)

        return count

    return stopping


def test_a_run_is_a_directory(tmp_path):
    run = tmp_path / "runs" / "a"
    errors = iter([0.5, 0.25, 0.375])
    net = train(run, validate=lambda net: next(errors))
    assert {path.name for path in run.iterdir()} >= {
        "recipe.toml", "data.json", "log.jsonl", "checkpoint.pt", "weights.safetensors", "best.safetensors",
        "environment.json",
    }  # fmt: skip
    assert recipes.read(run / "recipe.toml") == RECIPE
    assert same_weights(weights.load(run), net)
    card = weights.read_card(run)
    assert (card.class_names, card.training_scale, card.flip) == (("a", "b"), (32, 40), True)
    assert card.provenance["validation_error"] == 0.375
    assert card.provenance["recipe"]["batch"] == 16
    iterations = [line for line in log(run) if "iteration" in line and "epoch" not in line and "event" not in line]
    assert [line["iteration"] for line in iterations] == list(range(1, 10))
    epochs = [line for line in log(run) if "epoch" in line]
    assert [line["validation_error"] for line in epochs] == [0.5, 0.25, 0.375]
    assert {(line["validation_loss"], line["validation_protocol"]) for line in epochs} == {(1.25, "by itself")}
    for line in epochs:
        assert line.keys() >= {"loss", "training_error", "rate", "images_per_second", "waiting_share"}
        assert 0 <= line["training_error"] <= 1
        assert 0 <= line["waiting_share"] <= 1
    # The epoch's loss is the mean over images: mini-batches of 16, 16 and 8.
    first = [line["loss"] for line in iterations[:3]]
    assert epochs[0]["loss"] == pytest.approx(np.average(first, weights=[16, 16, 8]))
    assert next(line for line in log(run) if line.get("event") == "signal").keys() >= {"pixels", "scores"}
    assert log(run)[-1]["event"] == "ended"
    environment = json.loads((run / "environment.json").read_text())
    assert environment[0]["versions"]["torch"] == torch.__version__


def test_the_mean_colour_of_the_training_set_goes_into_the_weights(tmp_path):
    dataset = memory()
    train(tmp_path / "a", dataset=dataset, recipe=recipes.changed(RECIPE, {"epochs": 1}))
    expected = np.mean([image.reshape(-1, 3).mean(0) for image in dataset.photographs], axis=0)
    np.testing.assert_allclose(weights.load(tmp_path / "a").mean.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("iteration", [1, 3, 5])
def test_an_interrupted_training_ends_with_the_weights_of_one_that_was_not(tmp_path, monkeypatch, iteration):
    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "count", interrupted_at(iteration)(loop.Training.count))
        with pytest.raises(Interrupted) as stop:
            train(tmp_path / "parts")
    assert stop.value.number == signal.SIGINT
    assert state(tmp_path / "parts")["progress"]["iteration"] == iteration
    went_on = train(tmp_path / "parts", execution=Execution(Computing(workers=1)))
    assert same_weights(went_on, whole)
    one, other = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert one["progress"] == other["progress"]
    assert [line for line in log(tmp_path / "parts") if line.get("event") == "resumed"]


def test_a_training_that_has_ended_is_not_trained_again(tmp_path):
    net = train(tmp_path / "a")
    before = (tmp_path / "a" / "checkpoint.pt").read_bytes()

    def never(net):
        raise AssertionError

    assert same_weights(train(tmp_path / "a", validate=never), net)
    assert (tmp_path / "a" / "checkpoint.pt").read_bytes() == before


def test_the_rate_falls_and_the_training_ends_when_validation_stops_improving(tmp_path):
    recipe = recipes.changed(RECIPE, {"epochs": 50, "patience": 1, "rate_drops": 2})
    train(tmp_path / "a", recipe, validate=lambda net: 0.5)
    epochs = [line for line in log(tmp_path / "a") if "epoch" in line]
    assert [line["rate"] for line in epochs] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4])
    assert "no lower validation error" in state(tmp_path / "a")["progress"]["ended"]


def test_a_limit_of_iterations_ends_within_an_epoch_with_weights(tmp_path):
    train(tmp_path / "a", recipes.changed(RECIPE, {"iterations": 5}))
    assert state(tmp_path / "a")["progress"]["iteration"] == 5
    assert weights.read_card(tmp_path / "a").provenance["iterations"] == 5


# Refusals


def test_another_recipe_in_the_same_directory_is_refused_with_the_fields_that_differ(tmp_path):
    train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 1}))
    before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"epochs: 2 \(there: 1\); seed: 7 \(there: 0\)"):
        train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 2, "seed": 7}))
    assert before == {path: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}


def test_other_data_in_the_same_directory_is_refused(tmp_path, monkeypatch):
    train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 1}))
    monkeypatch.setitem(DATA, "images", 41)
    with pytest.raises(UserError, match="images is 40, in memory it is 41"):
        train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 1}))


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"is not a run directory"):
        train(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_what_a_killed_start_has_left_is_no_hindrance(tmp_path):
    """Killed before writing the recipe, and while writing a checkpoint."""
    run = tmp_path / "a"
    run.mkdir()
    for name in (".lock", "data.json", ".recipe.toml.77.part"):
        (run / name).write_text("{")
    train(run, recipes.changed(RECIPE, {"epochs": 1}))
    (run / ".checkpoint.pt.78.part").write_text("half")
    (run / "environment.json").write_text("")
    with (run / "log.jsonl").open("a") as file:
        file.write('{"iteration": ')
    give_another_epoch(run)
    train(run, recipes.changed(RECIPE, {"epochs": 2}))
    assert not list(run.glob(".*.part"))
    lines = (run / "log.jsonl").read_text().splitlines()
    assert lines.count('{"iteration": ') == 1
    assert json.loads(lines[-1])


def test_a_signal_at_the_end_of_an_epoch_does_not_wait_for_its_validation(tmp_path, monkeypatch):
    errors = iter([0.5, 0.25, 0.375])
    whole = train(tmp_path / "whole", validate=lambda net: next(errors))

    def never(net):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "count", interrupted_at(3)(loop.Training.count))
        with pytest.raises(Interrupted):
            train(tmp_path / "parts", validate=never)
    assert state(tmp_path / "parts")["progress"]["iteration"] == 3
    errors = iter([0.5, 0.25, 0.375])
    assert same_weights(train(tmp_path / "parts", validate=lambda net: next(errors)), whole)
    assert state(tmp_path / "parts")["progress"] == state(tmp_path / "whole")["progress"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_validation_stops_it_and_saves_what_was_learnt(tmp_path, number):
    whole = train(tmp_path / "whole", recipes.changed(RECIPE, {"epochs": 2}))
    calls = []

    def signalled(net):
        calls.append(net)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
            raise AssertionError("the validation went on")
        return 0.5

    with pytest.raises(Interrupted, match="after iteration 6 and saved") as stop:
        train(tmp_path / "parts", recipes.changed(RECIPE, {"epochs": 2}), validate=signalled)
    assert stop.value.number == number
    assert same_weights(train(tmp_path / "parts", recipes.changed(RECIPE, {"epochs": 2})), whole)


def test_what_was_learnt_is_saved_before_a_long_validation(tmp_path, monkeypatch):
    """A validation may be killed."""
    monkeypatch.setattr(loop, "VALIDATION_SECONDS", 0.0)
    saved = []

    def validate(net):
        saved.append(state(tmp_path / "a")["progress"]["iteration"])
        return 0.5

    train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 2}), validate=validate)
    assert saved == [3, 6]


def test_the_first_signal_ends_waiting_for_images_that_do_not_come(tmp_path, monkeypatch):
    original = loop.reading

    @contextmanager
    def hanging(*arguments):
        def images():
            yield from itertools.islice(batches, 2)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("it waited on")

        with original(*arguments) as batches:
            yield images()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "reading", hanging)
        with pytest.raises(Interrupted, match="after iteration 2 and saved"):
            train(tmp_path / "a")
    assert state(tmp_path / "a")["progress"]["iteration"] == 2


def test_an_epoch_is_in_the_log_and_saved_before_it_is_said(tmp_path, monkeypatch):
    """The reader of standard error may be gone, as with `2>&1 | head`."""
    said = []

    def closed(self, line):
        said.append(line)
        if line.startswith("epoch 1 of 3:"):
            raise BrokenPipeError(32, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(loop.Meter, "say", closed)
        with pytest.raises(BrokenPipeError):
            train(tmp_path / "a")
    assert [line["epoch"] for line in log(tmp_path / "a") if "epoch" in line] == [1]
    assert state(tmp_path / "a")["progress"]["validation_errors"] == [0.5]
    assert weights.read_card(tmp_path / "a").provenance["epochs"] == 1


# TensorBoard's thread reports it, too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_that_is_removed_is_not_made_anew(tmp_path):
    def remove(net):
        shutil.rmtree(tmp_path / "a")
        return 0.5

    with pytest.raises(UserError, match="moved, removed or replaced"):
        train(tmp_path / "a", validate=remove)
    assert not (tmp_path / "a").exists()


def test_lines_of_a_log_that_are_not_its_own_are_left_out(tmp_path):
    epoch = {
        "epoch": 1, "iteration": 3, "loss": 0.5, "training_error": 0.5, "validation_error": 0.5,
        "validation_protocol": "p", "rate": 0.1, "seconds": 1, "images_per_second": 2.0, "waiting_share": 0,
    }  # fmt: skip
    wrong = [{"epoch": [2]}, {"epoch": "2"}, {"loss": "low"}, {"rate": None}]
    lines = [epoch, *(epoch | each for each in wrong), [], 5]
    text = [json.dumps(line) for line in lines] + ["[" * 100_000, '{"a": ' + "1" * 5000 + "}"]
    (tmp_path / "log.jsonl").write_text("\n".join(text))
    epochs, ended = read_log(tmp_path)
    assert [(each.epoch, each.seconds, each.validation_loss) for each in epochs] == [(1, 1.0, None)]
    assert not ended


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    class Spoilt(loop.Training):
        def save(self):
            with torch.no_grad():
                self.net.fc8.bias[0] = math.inf
            super().save()

    monkeypatch.setattr(loop, "Training", Spoilt)
    with pytest.raises(UserError, match="a weight is no longer finite"):
        train(tmp_path / "a")
    assert not (tmp_path / "a" / "checkpoint.pt").exists()


def test_two_trainings_in_one_directory_are_refused(tmp_path):
    code = "import sys; from verydeep.training.directory import locked; from pathlib import Path\n" \
        "with locked(Path(sys.argv[1])): pass"  # fmt: skip
    with run_directory(tmp_path / "a", RECIPE, DATA, Ranks()):
        other = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True, check=False
        )
    assert "another process is training" in other.stderr
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=True)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    train(tmp_path / "a")
    path = tmp_path / "a" / "checkpoint.pt"
    for length in (1000, 0):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(UserError, match=r"checkpoint.pt cannot be read.*or move checkpoint.pt, weights"):
            train(tmp_path / "a")


def test_weights_without_a_checkpoint_are_not_overwritten(tmp_path):
    train(tmp_path / "a")
    kept = (tmp_path / "a" / weights.FILE_NAME).read_bytes()
    (tmp_path / "a" / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match=r"weights.safetensors but no checkpoint.pt"):
        train(tmp_path / "a")
    assert (tmp_path / "a" / weights.FILE_NAME).read_bytes() == kept


def test_an_ended_run_writes_weights_that_are_gone_again(tmp_path):
    train(tmp_path / "a")
    file = tmp_path / "a" / weights.FILE_NAME
    kept = file.read_bytes()
    file.unlink()
    train(tmp_path / "a")
    assert file.read_bytes() == kept


def test_a_loss_that_is_not_finite_stops_with_what_to_try_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"no longer finite at iteration \d+.*--learning-rate"):
        train(tmp_path / "a", recipes.changed(RECIPE, {"learning_rate": 1e12, "epochs": 30}))
    kept = tmp_path / "a" / "checkpoint.pt"
    if kept.exists():
        assert all(tensor.isfinite().all() for tensor in state(tmp_path / "a")["net"].values())


def test_a_loss_that_sits_at_guessing_stops_with_what_to_try():
    loop.refuse_stuck([2.3] * 4, chance=math.log(10), per_epoch=300)
    loop.refuse_stuck([2.3] * 9, chance=math.log(10), per_epoch=100)
    loop.refuse_stuck([2.3] * 19 + [2.0], chance=math.log(10), per_epoch=100)
    with pytest.raises(UserError, match=r"at chance \(2\.303\) for 5 epochs.*glorot"):
        loop.refuse_stuck([1.0, 2.3, 2.3, 2.3, 2.3, 2.3], chance=math.log(10), per_epoch=200)
    with pytest.raises(UserError, match="for 10 epochs"):
        loop.refuse_stuck([2.3] * 10, chance=math.log(10), per_epoch=100)
    with pytest.raises(UserError, match="for 1 epoch:"):
        loop.refuse_stuck([6.9], chance=math.log(1000), per_epoch=5005)
    loop.refuse_stuck([0.0] * 9, chance=0.0, per_epoch=1000)


def test_a_dead_net_is_stopped(tmp_path, monkeypatch):
    """The paper's initialisation in a narrow, deep net: no signal, no gradient."""
    recipe = recipes.changed(RECIPE, {"net": "E", "initialisation": "normal", "std": 1e-3, "epochs": 30})
    monkeypatch.setattr(loop, "STUCK_ITERATIONS", (15, 5000))
    with pytest.raises(UserError, match="the net does not learn"):
        train(tmp_path / "a", recipe)
    assert len([line for line in log(tmp_path / "a") if "epoch" in line]) == loop.STUCK_EPOCHS
    signals = next(line for line in log(tmp_path / "a") if line.get("event") == "signal")
    assert signals["scores"] < 1e-10
    assert math.isfinite(signals["pixels"])


def test_an_image_that_has_become_unreadable_stops_the_training_with_its_path(tmp_path, folder):
    from verydeep.datasets.dataset import open_dataset

    dataset = open_dataset(folder, "train")
    colours = colours_of(dataset)
    path = dataset.photographs[1]
    path.write_bytes(path.read_bytes()[:60])
    recipe = recipes.changed(RECIPE, {"batch": 4})
    with (
        run_directory(tmp_path / "a", recipe, DATA, Ranks()) as entered,
        pytest.raises(UserError, match=path.name),
    ):
        loop.train(recipe, entered, dataset, colours, Validation("", 0, float), Ranks(), Execution())


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 1}))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    give_another_epoch(tmp_path / "b")
    before = (tmp_path / "b" / "checkpoint.pt").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            train(tmp_path / "b", recipes.changed(RECIPE, {"epochs": 2}))
    assert (tmp_path / "b" / "checkpoint.pt").read_bytes() == before
    train(tmp_path / "b", recipes.changed(RECIPE, {"epochs": 2}))


def test_starting_from_another_run(tmp_path):
    train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 1}))
    recipe = recipes.changed(RECIPE, {"net": "B", "start_from": str(tmp_path / "a")})
    dataset = memory()
    net = ConvNet(recipe.architecture(2), dataset.classes)
    line = loop.start_weights(net, recipe, start_of(recipe), colours_of(dataset))
    assert "conv1_1, conv2_1, conv3_1, conv3_2, fc6, fc7, fc8 from" in line
    assert torch.equal(net.conv3_2.weight, weights.load(tmp_path / "a").conv3_2.weight)
    same = ConvNet(RECIPE.architecture(2), dataset.classes)
    assert "all layers" in loop.start_weights(
        same, recipes.changed(recipe, {"net": "A"}), start_of(recipe), colours_of(dataset)
    )
    assert same_weights(same, weights.load(tmp_path / "a"))


def test_only_the_named_layers_learn_their_weights_and_biases(tmp_path, monkeypatch, capsys):
    source = train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 1}))
    recipe = recipes.changed(RECIPE, {"learns": ("fc7", "conv2_1"), "start_from": str(tmp_path / "a")})
    whole = train(tmp_path / "whole", recipe)
    for name, tensor in whole.state_dict().items():
        learns = name.split(".")[0] in ("fc7", "conv2_1")
        assert torch.equal(tensor, source.state_dict()[name]) != learns, name
    assert "only conv2_1, fc7 learn" in "".join(capsys.readouterr())
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "count", interrupted_at(4)(loop.Training.count))
        with pytest.raises(Interrupted):
            train(tmp_path / "parts", recipe)
    assert same_weights(train(tmp_path / "parts", recipe), whole)


def test_a_layer_that_would_stay_random_is_refused(tmp_path):
    train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 1}))
    fields = {"net": "B", "learns": ("fc6", "fc7", "fc8"), "start_from": str(tmp_path / "a")}
    with pytest.raises(UserError, match=r"conv1_2 is frozen.*stay random.*net B"):
        train(tmp_path / "b", recipes.changed(RECIPE, fields))
    others = Dataset("others", ("a", "c"), memory().photographs, memory().labels)
    with pytest.raises(UserError, match=r"fc8 is frozen.*of the same classes"):
        train(tmp_path / "c", recipes.changed(RECIPE, fields | {"net": "A", "learns": ("fc7",)}), dataset=others)
    train(tmp_path / "c", recipes.changed(RECIPE, fields | {"net": "A", "epochs": 1}), dataset=others)


def test_the_rate_falls_after_the_planned_epochs_and_the_log_says_why(tmp_path):
    recipe = recipes.changed(RECIPE, {"drop_after": (1, 2), "patience": 1, "rate_drops": 0})
    train(tmp_path / "a", recipe)
    rates = [line for line in log(tmp_path / "a") if line.get("event") == "rate"]
    assert [line["iteration"] for line in rates] == [3, 6]
    assert [line["rate"] for line in rates] == pytest.approx([1e-3, 1e-4])
    epochs = [line["rate"] for line in log(tmp_path / "a") if "epoch" in line]
    assert epochs == pytest.approx([1e-2, 1e-3, 1e-4])
    assert log(tmp_path / "a")[-1]["reason"] == "limit of epochs"


def test_a_run_from_before_biases_had_a_rate_goes_on(tmp_path, monkeypatch):
    """Its recipe.toml lacks the fields that came later."""
    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "count", interrupted_at(4)(loop.Training.count))
        with pytest.raises(Interrupted):
            train(tmp_path / "parts")
    file = tmp_path / "parts" / "recipe.toml"
    later = ("bias_rate", "learns", "drop_after")
    kept = [line for line in file.read_text().splitlines() if not line.startswith(later)]
    assert len(kept) == len(file.read_text().splitlines()) - len(later)
    file.write_text("\n".join(kept))
    assert same_weights(train(tmp_path / "parts"), whole)


def test_biases_keep_their_rate_over_drops_and_resumption(tmp_path, monkeypatch):
    recipe = recipes.changed(RECIPE, {"bias_rate": 2.0, "drop_after": (1,)})
    whole = train(tmp_path / "whole", recipe)
    groups = state(tmp_path / "whole")["optimiser"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 2e-3])
    assert {line["rate"] for line in log(tmp_path / "whole") if "epoch" in line} == {1e-2, 1e-3}
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "count", interrupted_at(4)(loop.Training.count))
        with pytest.raises(Interrupted):
            train(tmp_path / "parts", recipe)
    assert same_weights(train(tmp_path / "parts", recipe), whole)


def test_the_filter_of_the_training_goes_into_its_card_and_validation_has_it(tmp_path):
    found = []
    recipe = recipes.changed(RECIPE, {"rescaling": "bicubic", "epochs": 1})
    train(tmp_path / "a", recipe, validate=lambda net: found.append(net.card.rescaling) or 0.5)
    assert found == ["bicubic"] == [weights.read_card(tmp_path / "a").rescaling]


def test_tensorboard_files_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "a")
    events = EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("epoch/validation_error")] == [3, 6, 9]
    assert len(events.Scalars("iteration/loss")) == 9


def test_a_training_set_of_one_class_can_be_trained(tmp_path):
    """A loss cannot be stuck at ln(1) = 0."""
    one = memory(8)
    dataset = Dataset("one", ("a",), one.photographs, np.zeros(8, np.int64))
    train(tmp_path / "a", dataset=dataset, recipe=recipes.changed(RECIPE, {"epochs": 6}))


# The best epoch


def errors_of(*errors):
    left = iter(errors)
    return lambda net: next(left)


def test_the_weights_of_the_best_epoch_are_kept_and_named_at_the_end(tmp_path, capsys):
    train(tmp_path / "two", recipes.changed(RECIPE, {"epochs": 2}))
    train(tmp_path / "a", validate=errors_of(0.5, 0.25, 0.25))
    best = tmp_path / "a" / "best.safetensors"
    assert weights.read_card(best).provenance["epochs"] == 2
    assert same_weights(weights.load(best), weights.load(tmp_path / "two"))
    said = capsys.readouterr().err
    assert f"the lowest validation error is 25.00%, after epoch 2; its weights are in {best}" in said
    assert log(tmp_path / "a")[-1]["best_epoch"] == 2


@pytest.mark.parametrize("last", [2, 3])
def test_the_best_weights_survive_a_kill_between_checkpoint_and_weight_file(tmp_path, monkeypatch, last):
    """During the training, or after its last checkpoint."""
    recipe = recipes.changed(RECIPE, {"epochs": last})
    train(tmp_path / "whole", recipe, validate=errors_of(0.5, 0.25, 0.125))
    original = WeightFiles.write_best

    def killed(self, net, progress):
        if len(progress.validation_errors) == last and progress.between_epochs:
            raise KeyboardInterrupt
        original(self, net, progress)

    with monkeypatch.context() as patch:
        patch.setattr(WeightFiles, "write_best", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", recipe, validate=errors_of(0.5, 0.25, 0.125))
    best = tmp_path / "parts" / "best.safetensors"
    assert weights.read_card(best).provenance["epochs"] == last - 1
    train(tmp_path / "parts", recipe, validate=errors_of(0.125))
    assert best.read_bytes() == (tmp_path / "whole" / "best.safetensors").read_bytes()


def test_a_damaged_file_of_the_best_epoch_is_written_again_while_the_checkpoint_has_it(tmp_path):
    train(tmp_path / "a", validate=errors_of(0.5, 0.25, 0.125))
    best = tmp_path / "a" / "best.safetensors"
    whole = best.read_bytes()
    best.write_bytes(whole[:-1])
    train(tmp_path / "a")
    assert best.read_bytes() == whole


def test_a_run_of_a_version_that_did_not_keep_the_best_weights_says_so_at_the_end(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "count", interrupted_at(8)(loop.Training.count))
        with pytest.raises(Interrupted):
            train(tmp_path / "a", validate=errors_of(0.25, 0.5, 0.5))
    (tmp_path / "a" / "best.safetensors").unlink()
    train(tmp_path / "a", validate=errors_of(0.5))
    assert "25.00%, after epoch 1; its weights were not kept" in capsys.readouterr().err


# Other limits


def test_a_higher_limit_continues_an_ended_run_as_if_it_had_had_it_from_the_start(tmp_path):
    """Even if the rate drops after the epoch that was the last."""
    recipe = recipes.changed(RECIPE, {"drop_after": (2,)})
    shorter = recipes.changed(recipe, {"epochs": 2})
    whole = train(tmp_path / "whole", recipe, validate=errors_of(0.5, 0.25, 0.125))
    train(tmp_path / "parts", shorter, validate=errors_of(0.5, 0.25))
    with pytest.raises(UserError, match=r"epochs: 3 \(there: 2\).*other limits with: verydeep resume"):
        train(tmp_path / "parts", recipe)
    assert same_weights(train(tmp_path / "parts", recipe, errors_of(0.125), new_limits=True), whole)
    assert recipes.read(tmp_path / "parts" / "recipe.toml") == recipe
    assert state(tmp_path / "parts")["progress"] == state(tmp_path / "whole")["progress"]
    for name in (weights.FILE_NAME, weights.BEST_FILE_NAME):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    epochs, ended = read_log(tmp_path / "parts")
    assert [epoch.rate for epoch in epochs] == [epoch.rate for epoch in read_log(tmp_path / "whole")[0]]
    assert ended == "limit of epochs"


def test_a_run_that_is_continued_has_not_ended_meanwhile(tmp_path, monkeypatch):
    train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 2}))
    assert unfinished(tmp_path / "a") == ""
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "count", interrupted_at(8)(loop.Training.count))
        with pytest.raises(Interrupted):
            train(tmp_path / "a", new_limits=True)
    assert unfinished(tmp_path / "a") == "epoch 2 of 3"
    train(tmp_path / "a")
    assert unfinished(tmp_path / "a") == ""


def test_a_limit_of_iterations_may_be_higher_too(tmp_path):
    train(tmp_path / "a", recipes.changed(RECIPE, {"iterations": 5}))
    train(tmp_path / "a", RECIPE, new_limits=True)
    assert [epoch.iteration for epoch in read_log(tmp_path / "a")[0]] == [3, 5, 6, 9]


def test_limits_behind_what_is_done_are_refused_and_change_nothing(tmp_path):
    train(tmp_path / "a")
    before = (tmp_path / "a" / "recipe.toml").read_bytes()
    with pytest.raises(UserError, match=r"end a training after iteration 6, and .*a is at iteration 9"):
        train(tmp_path / "a", recipes.changed(RECIPE, {"epochs": 2}), new_limits=True)
    assert (tmp_path / "a" / "recipe.toml").read_bytes() == before


def test_a_run_that_its_schedule_has_ended_stays_ended(tmp_path, capsys):
    recipe = recipes.changed(RECIPE, {"patience": 1, "rate_drops": 0})
    train(tmp_path / "a", recipe)
    assert len(read_log(tmp_path / "a")[0]) == 2
    train(tmp_path / "a", recipes.changed(recipe, {"epochs": 50}), new_limits=True)
    assert "has ended (no lower validation error after 0 drops of the rate)" in capsys.readouterr().err
    assert recipes.read(tmp_path / "a" / "recipe.toml") == recipe
