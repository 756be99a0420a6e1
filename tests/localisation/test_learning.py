"""Training box regressors: what they learn, what they start from, and that a killed training can be resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import verydeep
from boxed import write_boxed
from synthetic import refusal
from verydeep import Recipe, load, procedures, train_boxes, weights
from verydeep.localisation.data import Splits, open_boxes
from verydeep.localisation.made_up import digits_with_boxes
from verydeep.localisation.regressor import outputs_for
from verydeep.recipe import changed

QUICK = Recipe(
    net="A", crop=32, width=0.125, fully_connected=16, training_scale=(40,), initialisation="glorot",
    batch=8, epochs=2, drop_after=(1,), flip=False, colour_shift=0.0,
)  # fmt: skip
HERE = {"device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    return open_boxes(write_boxed(tmp_path_factory.mktemp("boxed")))


@pytest.fixture(scope="module")
def classifier(boxed, tmp_path_factory):
    """A classification net that was trained at the same S."""
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    return procedures.train(boxed.train.dataset, QUICK, folder, validation=boxed.val.dataset, **HERE)


def test_digits_are_found_with_far_fewer_errors_than_by_either_baseline(tmp_path):
    """Half a minute of training halves the error of the mean box; the whole image is nearly always wrong."""
    splits = Splits("digits", digits_with_boxes(1200, 48), digits_with_boxes(200, 48, "val"))
    recipe = changed(
        QUICK,
        {
            "width": 0.25,
            "fully_connected": 128,
            "batch": 32,
            "epochs": 8,
            "drop_after": (6,),
            "learning_rate": 0.01,
            "dropout": 0.0,
        },
    )
    run = train_boxes(splits, recipe, tmp_path / "run", **HERE)
    (found,) = verydeep.test_boxes(run, splits, device="cpu", workers=0)
    whole, mean = found.baselines
    assert (whole.name, mean.name) == ("whole image", "mean training box")
    assert whole.top1.value > 0.9
    assert mean.top1.value > 0.8
    assert found.top1.interval[1] < 0.6 * mean.top1.interval[0], found.top1


@pytest.mark.parametrize("regression", ["SCR", "PCR"])
def test_a_regressor_starts_from_a_classifier_with_a_new_fc8(boxed, classifier, tmp_path, regression):
    """Net, sizes, S and the rate are those of Appendix A, though the recipe leaves them open."""
    recipe = Recipe(start_from=os.fspath(classifier), batch=8, iterations=1, learns=("fc6", "fc7", "fc8"))
    run = train_boxes(boxed, recipe, tmp_path / "run", regression=regression, **HERE)
    assert (run.recipe.net, run.recipe.crop, run.recipe.training_scale) == ("A", 32, (40,))
    assert run.start.rate == 1e-3
    before, after = load(classifier.path), load(run.path)
    assert after.card.names == outputs_for(boxed.train.dataset.classes, regression).names
    for layer in after.layers:
        if layer.kind == "conv" and layer.name != "fc8":
            same = torch.equal(getattr(before, layer.name).weight, getattr(after, layer.name).weight)
            assert same == (layer.name not in ("fc6", "fc7")), layer.name
    everything = train_boxes(
        boxed, changed(recipe, {"learns": ()}), tmp_path / "all", regression=regression, **HERE
    )
    assert not torch.equal(load(everything.path).conv1_1.weight, before.conv1_1.weight)


def test_the_same_call_resumes_and_higher_limits_continue(boxed, classifier, tmp_path):
    recipe = Recipe(start_from=os.fspath(classifier), batch=8, epochs=2, drop_after=(1,))
    whole = train_boxes(boxed, recipe, tmp_path / "whole", **HERE)
    short = train_boxes(boxed, changed(recipe, {"epochs": 1}), tmp_path / "short", **HERE)
    assert len(short.epochs) == 1
    longer = train_boxes(boxed, recipe, tmp_path / "short", **HERE)
    assert [each.loss for each in longer.epochs] == [each.loss for each in whole.epochs]
    one, other = (load(run.path).state_dict() for run in (whole, longer))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_boxes_and_another_regression_are_refused(boxed, classifier, tmp_path):
    recipe = Recipe(start_from=os.fspath(classifier), batch=8, epochs=1)
    train_boxes(boxed, recipe, tmp_path / "run", **HERE)
    said = refusal(train_boxes, boxed, recipe, tmp_path / "run", regression="SCR", **HERE)
    assert "regression is PCR, in" in said
    moved = tuple(each + 1 for each in boxed.train.boxes)
    other = Splits(boxed.place, type(boxed.train)(boxed.train.dataset, moved), boxed.val)
    assert "boxes is " in refusal(train_boxes, other, recipe, tmp_path / "run", **HERE)
    assert "regression is 'XCR'" in refusal(
        train_boxes, boxed, recipe, tmp_path / "other", regression="XCR", **HERE
    )
    assert "resume it with the same command: verydeep localise train" in refusal(
        procedures.resume, tmp_path / "run"
    )


def test_dense_results_have_the_errors_of_classes_and_of_several_nets(boxed, classifier, tmp_path):
    recipe = Recipe(start_from=os.fspath(classifier), batch=8, epochs=1)
    runs = [
        train_boxes(boxed, recipe, tmp_path / regression, regression=regression, **HERE)
        for regression in ("SCR", "PCR")
    ]
    found = verydeep.test_boxes(runs, boxed, [32, 64], classifier, device="cpu", workers=0)
    assert [each.regressions for each in found] == [("SCR",), ("PCR",), ("SCR", "PCR")]
    for each in found:
        assert each.protocol == "dense, Q = 32, 64, predicted classes"
        assert each.classes == found[0].classes
        assert each.top1.images == len(boxed.val)
        assert each.top1.value >= each.classes[0].value, "the class must be right, too"
        assert each.top5.value >= each.classes[1].value
        assert [baseline.top1.value >= each.classes[0].value for baseline in each.baselines] == [True, True]
    tested = procedures.test(classifier, boxed.val.dataset, [32, 64])[0]
    assert found[0].classes[0].wrong == tested.top1.wrong


def test_what_cannot_be_tested_is_refused(boxed, classifier, tmp_path):
    recipe = Recipe(start_from=os.fspath(classifier), batch=8, epochs=1)
    run = train_boxes(boxed, recipe, tmp_path / "run", **HERE)
    here = {"device": "cpu", "workers": 0}
    assert "predicts classes, not boxes" in refusal(verydeep.test_boxes, classifier, boxed, **here)
    assert "gives no class scores" in refusal(verydeep.test_boxes, run, boxed, None, run, **here)
    assert "pass one, or a classifier" in refusal(verydeep.test_boxes, run, boxed, [32, 64], **here)
    assert "3 classifiers for 1 box regressors" in refusal(
        verydeep.test_boxes, run, boxed, None, [classifier] * 3, **here
    )
    assert "below the net's crop" in refusal(verydeep.test_boxes, run, boxed, [16], **here)
    assert "pass at least one" in refusal(verydeep.test_boxes, [], boxed, **here)


TRAIN = [
    "localise", "train", "digits", "--net", "A", "--crop", "32", "--width", "0.125", "--fully-connected", "16",
    "--training-scale", "40", "--initialisation", "glorot", "--device", "cpu", "--no-flip", "--batch", "160",
    "--epochs", "3",
]  # fmt: skip


def command(out, ranks=1):
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone"]
    return [*launcher, "-m", "verydeep", *TRAIN, "--out", str(out)]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def run(out, ranks=1):
    done = subprocess.run(command(out, ranks), capture_output=True, text=True, env=ONE_THREAD, check=False)
    assert done.returncode == 0, done.stderr


def flat(path):
    return torch.cat([tensor.flatten() for tensor in weights.load(path).state_dict().values()])


@pytest.mark.slow
def test_a_killed_training_has_the_same_weights_when_it_is_resumed(tmp_path):
    run(tmp_path / "whole")
    log = tmp_path / "killed" / "log.jsonl"
    with subprocess.Popen(
        command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ONE_THREAD,
        start_new_session=True,
    ) as process:  # fmt: skip
        while not (log.exists() and '"iteration": 14,' in log.read_text()):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    run(tmp_path / "killed")
    assert torch.equal(flat(tmp_path / "whole"), flat(tmp_path / "killed"))
    events = [json.loads(line) for line in log.read_text().splitlines()]
    (resumed,) = (each for each in events if each.get("event") == "resumed")
    assert resumed["iteration"] == 10


@pytest.mark.slow
def test_two_ranks_train_the_same_regressor_as_one(tmp_path):
    """Rounding, another order of summation in each gradient, grows over 30 iterations."""
    for ranks in (1, 2):
        run(tmp_path / str(ranks), ranks)
    one, two = flat(tmp_path / "1"), flat(tmp_path / "2")
    assert float((one - two).norm() / one.norm()) < 1e-3
