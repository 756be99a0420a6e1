"""A dry run shows the plan of `reproduce` and carries out none of it."""

import dataclasses
import json
import math
import shutil

import pytest

from synthetic import memory, refusal, touch, write
from verydeep.computing import Computing
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import device_of
from verydeep.evaluation.protocols import Pass
from verydeep.experiments import dry_run as module
from verydeep.experiments import rates
from verydeep.experiments.dry_run import Work, dry_run
from verydeep.experiments.gpus import GPUS, gpu_estimates
from verydeep.experiments.plan import TABLES, needed_trainings
from verydeep.experiments.presets import parsed
from verydeep.experiments.rates import NetRate, crop_reading, net_rate, pass_reading
from verydeep.experiments.reproduction import reproduce
from verydeep.experiments.results import read_times
from verydeep.photographs.photograph import ImageError
from verydeep.recipe import Recipe

PRESET = """
hold_out = 0.0
grid = 2
controls = false

[recipe]
crop = 32
width = 0.03125
fully_connected = 4
batch = 3
initialisation = "glorot"

[scales]
224 = 32
256 = 35
288 = 38
352 = 38
384 = 40
416 = 42
512 = 64

[schedules]
random = { epochs = 2 }
deeper = { epochs = 2 }
fine-tuning = { epochs = 1 }
jittering = { epochs = 1 }
"""
RATE = 1e6
UPDATE = 0.25


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """A machine of known speed that reads in no time."""
    monkeypatch.setattr(module, "net_rate", lambda recipe, *_: NetRate(recipe.net, RATE, UPDATE, 4 * RATE))
    monkeypatch.setattr(module, "crop_reading", lambda *_: 0.0)
    monkeypatch.setattr(module, "pass_reading", lambda *_: 0.0)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Two classes, with two training images and one validation image each."""
    root = tmp_path_factory.mktemp("data") / "pets"
    for seed, name in enumerate(
        ("train/cat/a", "train/cat/b", "train/dog/a", "train/dog/b", "val/cat/c", "val/dog/d")
    ):
        write(root / f"{name}.png", seed)
    return root


@pytest.fixture(scope="module")
def finished(pets, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as context:
        context.setenv("XDG_CACHE_HOME", str(out / "cache"))
        reproduce(pets, parsed("small", PRESET), ["table7"], out=out, workers=0, device="cpu")
    return out


@pytest.fixture
def done(finished, tmp_path):
    """A finished experiment that a test may damage."""
    return shutil.copytree(finished, tmp_path / "done")


def planned(data, out, tables=("table7",), preset=PRESET, **options):
    options = {"workers": 0, "device": "cpu"} | options
    found = dry_run(data, parsed("small", preset), tables, out=out, **options)
    return found, {step.name: step for step in found.steps}


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_it_lists_every_step_in_order_with_its_scales(pets, tmp_path):
    found, steps = planned(pets, tmp_path / "out", seeds=2)
    names = [training.name for training in needed_trainings([TABLES["table7"]])]
    assert [(step.seed, step.name) for step in found.steps] == [(seed, name) for seed in (0, 1) for name in names]
    assert (steps["D-jitter"].net, steps["D-jitter"].start) == ("D", "D-384")
    assert steps["D-jitter"].training_scale == (35, 64)
    assert steps["D-jitter"].tests == {"dense": (35, 40, 64), "multi-crop": (35, 40, 64)}
    assert steps["A"].tests == {}
    assert {step.state for step in found.steps} == {"to do"}
    assert (found.training_images, found.tested_images) == (4, 2)
    assert json.loads(json.dumps(dataclasses.asdict(found)))["preset"] == "small"


def test_nothing_is_written(pets, tmp_path):
    before = files(pets)
    planned(pets, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert files(pets) == before


def test_images_and_multiply_adds_are_those_that_are_then_done(pets, finished, tmp_path):
    before, steps = planned(pets, tmp_path)
    for name, step in steps.items():
        taken = [each for each in read_times(finished).steps if f" {name}," in f"{each.name},"]
        for part, kind in ((step.training, "train"), (step.testing, "test")):
            really = [each for each in taken if each.name.startswith(kind)]
            assert part.images == sum(each.images for each in really)
            assert part.multiply_adds == pytest.approx(sum(each.multiply_adds for each in really))
    assert before.left == before.total
    assert before.total.images == sum(each.images for each in read_times(finished).steps)


def test_what_is_done_is_not_left(pets, done):
    before = files(done)
    found, _ = planned(pets, done)
    assert {step.state for step in found.steps} == {"done"}
    assert found.left == Work()
    assert found.total.images > 0
    assert files(done) == before
    # One pass is lost, and a newly requested table needs others.
    (lost,) = (done / "seed-0" / "E").rglob("posteriors/dense-Q38-*")
    lost.unlink()
    _, steps = planned(pets, done)
    assert steps["E"].state == "done"
    assert steps["E"].left.images == 2 * 2  # two photographs and their mirror images
    assert steps["D"].left == Work()
    _, steps = planned(pets, done, ("table3", "table7"))
    assert steps["B"].state == "to do"
    assert steps["B"].left == steps["B"].training + steps["B"].testing
    assert steps["A"].state == "done"
    assert steps["A"].left.images == 2 * 2  # Table 3 tests A; Table 7 tests only nets that start from it
    assert steps["E"].left.images == 2 * 2


def test_an_interrupted_training_has_the_rest_of_its_epochs_left(pets, done):
    run = done / "seed-0" / "A"
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if '"epoch"' in line)
    (run / "log.jsonl").write_text("".join(lines[: first + 1]))
    _, steps = planned(pets, done)
    assert steps["A"].state == "unfinished"
    assert steps["A"].left == steps["A"].training.part(0.5)


def test_it_says_why_a_training_would_be_done_again(pets, done):
    longer = PRESET.replace("fine-tuning = { epochs = 1 }", "fine-tuning = { epochs = 3 }")
    found, steps = planned(pets, done, preset=longer)
    again = {step.name: step.reasons for step in found.steps if step.state == "again"}
    assert set(again) == {"C-384", "D-384", "E-384", "D-jitter", "E-jitter", "D-jitter-fc"}
    assert again["D-384"] == ("epochs: 3 (there: 1)",)
    assert again["D-jitter"] == ("it starts from D-384, which is trained first",)
    assert steps["D-384"].left == steps["D-384"].training + steps["D-384"].testing
    assert steps["D"].left == Work()
    assert found.left.images == sum(steps[name].left.images for name in again)


def test_other_data_in_the_folder_are_refused(done):
    assert "digits" in refusal(planned, "digits", done)


def test_time_follows_from_the_rates(pets, tmp_path, monkeypatch):
    _, steps = planned(pets, tmp_path)
    d = steps["D"]
    whole = Recipe(net="D", crop=32, width=0.03125, fully_connected=4, training_scale=32).architecture(2)
    validation = 2 * 2 * whole.multiply_adds() / (4 * RATE)  # two epochs, two images
    iterations = 2 * 2  # two epochs of four images, three per mini-batch
    assert d.training.seconds == pytest.approx(d.training.multiply_adds / RATE + iterations * UPDATE + validation)
    assert d.testing.seconds == pytest.approx(d.testing.multiply_adds / (4 * RATE))
    # Without workers, reading and computing times add up; with workers, the longer one counts.
    monkeypatch.setattr(module, "crop_reading", lambda *_: 100.0)
    _, slow = planned(pets, tmp_path)
    assert slow["D"].training.seconds == pytest.approx(d.training.seconds + d.training.images * 100)
    _, ahead = planned(pets, tmp_path, workers=2)
    assert ahead["D"].training.seconds == pytest.approx(d.training.images * 100 / 2 + validation)


def test_gpus_are_for_nets_at_full_size(pets, tmp_path):
    found, _ = planned(pets, tmp_path)
    assert found.gpus == ()
    full = PRESET.replace("crop = 32", "crop = 224").replace("width = 0.03125", "width = 1.0")
    for pixels, paper in ((32, 224), (35, 256), (40, 384), (42, 416), (64, 512)):
        full = full.replace(f"{paper} = {pixels}", f"{paper} = {paper}")
    full = full.replace("288 = 38", "288 = 288").replace("352 = 38", "352 = 352")
    found, _ = planned(pets, tmp_path, preset=full)
    assert found.gpus == gpu_estimates(found.left.multiply_adds)
    assert len(found.gpus) == len(GPUS) > 3


def test_a_gpu_takes_as_long_as_it_was_measured_to():
    d = Recipe(net="D").architecture(1000)
    hours = {each.gpu.name: each for each in gpu_estimates(3.0 * d.multiply_adds() * 154 * 3600)}
    assert hours["P100"].hours == pytest.approx(1)
    assert hours["P100"].dollars is None
    assert hours["V100"].hours == pytest.approx(154 / 226)
    assert hours["V100"].dollars == pytest.approx(3.06 * 154 / 226)
    # The paper's own machine: two and a half weeks for its 370,000 iterations.
    paper = {each.gpu.name: each for each in gpu_estimates(3.0 * d.multiply_adds() * 370_000 * 256)}
    assert paper["4 x Titan Black"].hours == pytest.approx(2.5 * 7 * 24)


def test_each_number_of_a_gpu_has_a_source():
    for gpu in GPUS:
        assert gpu.source
        assert gpu.images_per_second > 0
        assert bool(gpu.price_source) == (gpu.dollars_an_hour is not None)


@pytest.mark.parametrize("batch", [1, 6, 64])
@pytest.mark.parametrize("enough", [0.0, 60.0])
def test_a_net_is_measured_whole_or_in_part(monkeypatch, batch, enough):
    monkeypatch.setattr(rates, "ENOUGH_SECONDS", enough)
    counts = []
    monkeypatch.setattr(
        rates, "_step_seconds", lambda step, count, device: counts.append(count) or 2 + 0.5 * count
    )
    recipe = Recipe(net="A", crop=32, width=1 / 32, fully_connected=4, training_scale=35, batch=batch)
    measured = net_rate(recipe, 3, Computing(), device_of("cpu"))
    cost = 3 * recipe.architecture(3).multiply_adds()
    assert max(counts) == (batch if enough else min(batch, rates.LEAST_IMAGES))
    whole = max(counts) == batch
    assert measured.update == pytest.approx(0 if whole else 2)
    each = (2 + 0.5 * batch) / batch if whole else 0.5
    assert measured.training == pytest.approx(cost / each)


def test_a_micro_batch_is_the_most_that_is_measured(monkeypatch):
    counts = []
    monkeypatch.setattr(rates, "_step_seconds", lambda step, count, device: counts.append(count) or 0.1)
    recipe = Recipe(net="A", crop=32, width=1 / 32, fully_connected=4, training_scale=35, batch=64)
    net_rate(recipe, 3, Computing(), device_of("cpu"), micro_batch=8)
    assert max(counts) == 8


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_real_net_has_real_rates(monkeypatch, precision):
    monkeypatch.setattr(rates, "ENOUGH_SECONDS", 0.01)
    recipe = Recipe(net="B", crop=32, width=1 / 16, fully_connected=8, training_scale=(35, 40), batch=8)
    measured = net_rate(recipe, 3, Computing(precision), device_of("cpu"))
    assert measured.net == "B"
    for rate in (measured.training, measured.testing):
        assert 1e5 < rate < 1e15
    assert math.isfinite(measured.update)


def test_reading_is_measured_on_the_photographs(monkeypatch, tmp_path):
    recipe = Recipe(crop=32, width=1 / 32, training_scale=(32, 64))
    data = memory(5)
    assert 0 < crop_reading(data, recipe) < 1
    for method in ("dense", "multi-crop", "windows"):
        assert 0 < pass_reading(data, Pass(method, 40), 32) < 1
    broken = Dataset("broken", ("a",), (touch(tmp_path / "a.jpg", "no picture"),), memory(1).labels)
    with pytest.raises(ImageError, match=r"a\.jpg"):
        crop_reading(broken, recipe)
