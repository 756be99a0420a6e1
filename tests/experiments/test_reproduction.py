"""Nothing in the plan is trained or tested twice, and an interrupted experiment has the same results."""

import json
import os
import random
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from synthetic import pixels, refusal, save
from verydeep import procedures, weights
from verydeep.datasets.dataset import open_dataset
from verydeep.evaluation import testing
from verydeep.evaluation.posteriors import posteriors
from verydeep.experiments import experiment
from verydeep.experiments.plan import TABLES, TRAININGS
from verydeep.experiments.presets import parsed
from verydeep.experiments.record import outcome
from verydeep.experiments.report import check_report
from verydeep.experiments.reproduction import reproduce
from verydeep.experiments.results import (
    OUTCOMES,
    RESULTS,
    Outcomes,
    Step,
    read_outcomes,
    read_results,
    read_times,
    write_outcomes,
)
from verydeep.experiments.steps import time_left

TINY = """
hold_out = 0.25
grid = 2
controls = {controls}
[recipe]
crop = 32
width = 0.0625
fully_connected = 8
batch = 8
initialisation = "glorot"
[scales]
224 = 32
256 = 33
288 = 34
352 = 35
384 = 36
416 = 37
512 = 38
[schedules]
random = {{ epochs = {epochs}, drop_after = [1] }}
deeper = {{ epochs = 1 }}
fine-tuning = {{ epochs = 1 }}
jittering = {{ epochs = 1 }}
"""


def tiny(controls=False, epochs=2):
    return parsed("tiny", TINY.format(controls=str(controls).lower(), epochs=epochs))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 8), ("val", 6)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = pixels(100 * label + number, 40, 36 + 4 * number) // (1 + label)
                save(root / split / name / f"{number}.png", image)
    return root


@pytest.fixture
def counted(monkeypatch):
    """Every training and every testing pass that is computed."""
    trained, tested = [], []
    train, one_pass = procedures.train, testing.one_pass

    def counted_train(data, recipe, out, **options):
        trained.append(out.name)
        return train(data, recipe, out, **options)

    def counted_pass(net, dataset, one, *rest):
        tested.append((net.card.provenance["recipe"]["start_from"], net.configuration.name, one))
        return one_pass(net, dataset, one, *rest)

    monkeypatch.setattr(procedures, "train", counted_train)
    monkeypatch.setattr(testing, "one_pass", counted_pass)
    return trained, tested


def test_the_whole_plan_trains_each_net_once_and_makes_each_pass_once(photographs, tmp_path, counted):
    trained, tested = counted
    results = reproduce(photographs, tiny(controls=True), out=tmp_path / "out").results
    assert trained == list(TRAININGS)
    expected = {
        (tested.training, scale, method)
        for table in TABLES.values()
        for row in table.rows
        for tested in row.nets
        for scale in tested.scales
        for method in (("dense", "multi-crop") if row.method == "both" else (row.method,))
    }
    # 288 and 352, different passes in the paper, are different sizes here too.
    assert len(tested) == len(expected)
    assert [row.key for row in results.rows] == list(
        dict.fromkeys(row.key for table in TABLES.values() for row in table.rows if row.nets)
    )

    trained.clear()
    tested.clear()
    again = reproduce(photographs, tiny(controls=True), out=tmp_path / "out").results
    assert (trained, tested) == ([], [])
    assert again == results == read_results(tmp_path / "out")


def test_later_tables_need_no_pass_that_earlier_ones_made(photographs, tmp_path, counted):
    trained, tested = counted
    for tables in (["table4"], ["table5"]):
        reproduce(photographs, tiny(), tables, out=tmp_path / "out")
    trained.clear()
    tested.clear()
    reproduce(photographs, tiny(), ["table6", "table7"], out=tmp_path / "out")
    assert trained == ["D-jitter-fc"]
    assert len(tested) == 3  # the scales of the new net


def test_a_row_is_the_mean_of_its_nets_scales_and_methods(photographs, tmp_path):
    out = tmp_path / "out"
    reproduce(photographs, tiny(), ["table6"], out=out)
    row = TABLES["table6"].rows[3]  # D and E, multi-crop and dense
    dataset = open_dataset(photographs, "val")
    net = [weights.load(out / "seed-0" / name) for name in ("D-jitter", "E-jitter")]
    dense = [posteriors(each, dataset, [33, 36, 38], "dense") for each in net]
    crops = [
        np.mean([testing.one_pass(each, dataset, one, *nowhere()) for one in passes_of(2)], axis=0) for each in net
    ]
    mean = np.mean([dense, crops], axis=(0, 1)).astype(np.float32)
    rank, said, loss = outcome(mean, dataset.labels)
    found = read_outcomes(out)
    assert np.array_equal(found.rank[row.key, 0], rank)
    assert np.array_equal(found.said[row.key, 0], said)
    assert np.allclose(found.loss[row.key, 0], loss, atol=2e-3)
    measured = next(each for each in read_results(out).rows if each.key == row.key).seeds[0]
    assert (measured.top1_wrong, measured.top5_wrong) == (int((mean.argmax(1) != dataset.labels).sum()), 0)


def nowhere():
    from verydeep.computing import Computing
    from verydeep.distributed import Ranks

    return Ranks(), Computing(progress=False)


def passes_of(grid):
    from verydeep.evaluation.protocols import passes

    return passes("multi-crop", [33, 36, 38], True, grid)


def test_a_plan_that_was_interrupted_anywhere_ends_the_same(photographs, tmp_path, monkeypatch):
    reproduce(photographs, tiny(), ["table5"], out=tmp_path / "whole")
    one_pass, train = testing.one_pass, procedures.train
    left = [0]

    def stopping(function):
        def call(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(procedures, "train", stopping(train))
    monkeypatch.setattr(testing, "one_pass", stopping(one_pass))
    interruptions = 0
    while True:
        left[0] = 3  # number of trainings and passes before the next interruption
        try:
            reproduce(photographs, tiny(), ["table5"], out=tmp_path / "parts")
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions == 6
    for name in (RESULTS, OUTCOMES):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_a_changed_recipe_is_trained_again_with_all_that_starts_from_it_and_nothing_is_lost(
    photographs, tmp_path, counted, capsys
):
    trained, _ = counted
    out = tmp_path / "out"
    reproduce(photographs, tiny(), ["table5"], out=out)
    before = (out / "seed-0" / "A" / "weights.safetensors").read_bytes()
    trained.clear()
    capsys.readouterr()
    reproduce(photographs, tiny(epochs=3), ["table5"], out=out)
    said = capsys.readouterr().err
    assert trained == ["A", "D", "E", "D-384", "E-384", "D-jitter", "E-jitter"]
    assert "epochs: 3 (there: 2)" in said
    assert "the weights that it starts from" in said
    assert (out / "seed-0" / "A.before-1" / "weights.safetensors").read_bytes() == before


def test_other_data_are_refused_and_another_preset_too(photographs, tmp_path):
    out = tmp_path / "out"
    reproduce(photographs, tiny(), ["table5"], out=out)
    other = parsed("other", TINY.format(controls="false", epochs=2))
    assert "with preset tiny, not other" in refusal(reproduce, photographs, other, ["table5"], 1, out)
    message = refusal(reproduce, "digits", tiny(), ["table5"], 1, out)
    assert "12 tested images of 2 classes; digits has 360 of 10" in message
    assert "seeds" in refusal(reproduce, photographs, tiny(), ["table5"], 0, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_seeds_differ_and_stand_beside_one_another(photographs, tmp_path):
    results = reproduce(photographs, tiny(), ["table5"], 2, tmp_path / "out").results
    assert results.seeds == (0, 1)
    assert all([each.seed for each in row.seeds] == [0, 1] for row in results.rows)
    one, other = (weights.load(tmp_path / "out" / f"seed-{seed}" / "D-jitter") for seed in (0, 1))
    assert not torch.equal(one.conv1_1.weight, other.conv1_1.weight)


def test_what_steers_is_not_what_is_reported(photographs, tmp_path):
    results = reproduce(photographs, tiny(), ["table5"], out=tmp_path / "out").results
    assert (results.training_images, results.held_out_images, results.tested_images) == (12, 4, 12)
    data = json.loads((tmp_path / "out" / "seed-0" / "A" / "data.json").read_text())
    assert (data["images"], data["validation_images"]) == (12, 4)


def test_the_report_is_made_from_the_measurements_that_are_stored(photographs, tmp_path):
    """The report of `reproduce` is made from memory, and `verydeep report` makes the same one from the files."""
    found = reproduce(photographs, tiny(), ["table5"], out=tmp_path / "out")
    assert check_report(tmp_path / "out") == ()
    assert found.checked is found.checked
    assert [each.verdict for each in found.checked.findings].count("undecided") == 1  # complementary testing


def test_times_say_what_each_step_took_and_on_what(photographs, tmp_path):
    reproduce(photographs, tiny(), ["table5"], out=tmp_path / "out")
    times = read_times(tmp_path / "out")
    steps = {step.name: step for step in times.steps}
    assert steps["train A"].images == 2 * 12
    assert steps["test D-jitter, multi-crop, Q = 38"].images == 12 * 4 * 2
    assert all(step.multiply_adds > 0 for step in times.steps)
    assert times.environments[0]["versions"]["verydeep"]


def test_an_outcome_is_by_hand():
    matrix = np.array([[0.5, 0.3, 0.2], [0.25, 0.25, 0.5], [0.4, 0.4, 0.2]], np.float32)
    rank, said, loss = outcome(matrix, np.array([0, 1, 1]))
    assert rank.tolist() == [0, 2, 1]  # of equal ones, the first ranks higher
    assert said.tolist() == [0, 2, 0]
    assert np.allclose(loss, -np.log([0.5, 0.25, 0.4]), atol=1e-3)


def test_photographs_are_kept_in_memory_only_where_that_changes_no_pixel():
    from verydeep.datasets.survey import Survey

    def found(*sizes):
        return Survey(np.array(sizes, np.int32), (), np.zeros(3), np.zeros((3, 3)))

    small = found((144, 144), (500, 127))
    assert experiment._may_be_kept(small, small, 128)
    assert not experiment._may_be_kept(small, found((600, 512)), 128)  # would be decoded at half size
    many = found(*[(500, 400)] * 4000)
    assert not experiment._may_be_kept(many, small, 128)


KILLED = """
import sys
from verydeep.experiments.presets import parsed
from verydeep.experiments.reproduction import reproduce
data, out, preset = sys.argv[1:]
reproduce(data, parsed("tiny", open(preset).read()), ["table5"], out=out, device="cpu")
"""


@pytest.mark.slow
def test_two_ranks_share_every_step_and_measure_what_one_does(photographs, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY.format(controls="false", epochs=2))
    (tmp_path / "plan.py").write_text(KILLED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    words = [*launcher, tmp_path / "plan.py", photographs, tmp_path / "two", tmp_path / "tiny.toml"]
    done = subprocess.run(words, capture_output=True, text=True, env=one_thread(), check=False)
    assert done.returncode == 0, done.stderr
    reproduce(photographs, tiny(), ["table5"], out=tmp_path / "one", device="cpu")
    two, one = read_results(tmp_path / "two"), read_results(tmp_path / "one")
    assert [row.key for row in two.rows] == [row.key for row in one.rows]
    assert read_times(tmp_path / "two").environments[0]["ranks"] == 2
    for row, other in zip(two.rows, one.rows, strict=True):
        assert row.seeds[0].log_loss == pytest.approx(other.seeds[0].log_loss, abs=1e-3)


def one_thread():
    return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_plan_that_is_killed_at_random_moments_ends_the_same(photographs, tmp_path):
    preset_file = tmp_path / "tiny.toml"
    preset_file.write_text(TINY.format(controls="false", epochs=2))

    def run(out, lines=None):
        """Run the plan, or kill it after this many lines of output, and return its exit status."""
        words = [sys.executable, "-c", KILLED, photographs, out, preset_file]
        with subprocess.Popen(words, env=one_thread(), stderr=subprocess.PIPE, text=True) as process:
            for number, _ in enumerate(process.stderr):
                if number == lines:
                    process.kill()
        return process.returncode

    assert run(tmp_path / "whole") == 0
    chance = random.Random(0)
    for _ in range(3):
        assert run(tmp_path / "parts", chance.randint(1, 12)) == -signal.SIGKILL
    assert run(tmp_path / "parts") == 0
    for name in (RESULTS, OUTCOMES):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_what_is_left_is_estimated_from_what_is_done():
    def step(name, seconds, multiply_adds):
        return Step(name, 0, seconds, 1, multiply_adds)

    planned = {(0, name): step(name, 0.0, cost) for name, cost in (("a", 6e9), ("b", 3e9), ("c", 9e9))}
    assert time_left(planned, {}) is None
    assert time_left(planned, {(0, "a"): 2.0}) == pytest.approx((3e9 + 9e9) / 3e9)
    assert time_left(planned, {(0, "a"): 2.0, (0, "b"): 0.0}) == pytest.approx(9e9 / 3e9)  # time unknown
    assert time_left(planned, dict.fromkeys(planned, 1.0)) == 0


def test_a_later_call_reports_what_earlier_ones_measured_from_its_first_step_on(
    photographs, tmp_path, counted, monkeypatch
):
    trained, tested = counted
    out = tmp_path / "out"
    reproduce(photographs, tiny(), ["table5"], out=out)
    first = read_results(out)
    trained.clear()
    tested.clear()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(procedures, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):  # seed 1 has nothing yet
        reproduce(photographs, tiny(), ["table4"], [1], out)
    assert read_results(out) == first
    monkeypatch.undo()
    later = reproduce(photographs, tiny(), ["table6"], [1], out).results
    assert later.seeds == (0, 1)
    assert set(later.tables) == {"table5", "table6"}
    assert {row.key for row in first.rows} <= {row.key for row in later.rows}
    both = next(row for row in later.rows if row.key == first.rows[0].key)
    assert [each.seed for each in both.seeds] == [0, 1]
    assert both.seeds[0] == first.rows[0].seeds[0]


def test_what_a_pass_took_is_known_after_an_interruption(photographs, tmp_path):
    out = tmp_path / "out"
    reproduce(photographs, tiny(), ["table5"], out=out)
    before = {(step.seed, step.name): step.seconds for step in read_times(out).steps}
    (out / "times.json").unlink()
    reproduce(photographs, tiny(), ["table5"], out=out)
    assert {(step.seed, step.name): step.seconds for step in read_times(out).steps} == before


def test_a_net_that_was_trained_again_is_measured_again(photographs, tmp_path):
    out = tmp_path / "out"
    reproduce(photographs, tiny(), ["table5"], out=out)
    before = read_results(out)
    changed = reproduce(photographs, tiny(epochs=3), ["table5"], out=out).results
    fresh = reproduce(photographs, tiny(epochs=3), ["table5"], out=tmp_path / "fresh").results
    assert changed == fresh != before


def test_results_that_cannot_be_read_are_made_again(photographs, tmp_path, capsys):
    out = tmp_path / "out"
    results = reproduce(photographs, tiny(), ["table5"], out=out).results
    (out / RESULTS).write_text("{")
    assert reproduce(photographs, tiny(), ["table5"], out=out).results == results
    assert re.search(r"results\.json.*it will be made again", capsys.readouterr().err)


def test_names_of_photographs_are_kept_whatever_is_in_them(tmp_path):
    names = ("cat/a\nb.jpg", os.fsdecode(b"dog/ch\xe2teau.jpg"), "sch\u00f6n.png")
    write_outcomes(Outcomes(np.array([0, 1, 1]), names), tmp_path / OUTCOMES)
    assert read_outcomes(tmp_path).names == names
