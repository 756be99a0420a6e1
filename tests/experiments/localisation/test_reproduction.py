"""The experiments of Appendix A in miniature: run, resume, results, report, findings."""

import json
from dataclasses import replace

import numpy as np
import pytest

from boxed import write_boxed
from synthetic import refusal
from verydeep.experiments.localisation import reproduction
from verydeep.experiments.localisation.findings import box_findings
from verydeep.experiments.localisation.plan import CLAIMS, TABLES, measured_box_rows
from verydeep.experiments.localisation.presets import BoxPreset
from verydeep.experiments.localisation.report import (
    box_document,
    check_box_report,
    make_box_report,
    write_box_report,
)
from verydeep.experiments.localisation.reproduction import reproduce_boxes
from verydeep.experiments.localisation.results import BoxMeasurements, BoxResults, read_box_measurements
from verydeep.experiments.presets import Schedule, parsed
from verydeep.localisation.data import open_boxes
from verydeep.localisation.errors import Hits

CLASSIFICATION = """
hold_out = 0.0
grid = 2
controls = false
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
352 = 64
384 = 66
416 = 68
512 = 70
[schedules]
random = { epochs = 1 }
deeper = { epochs = 1 }
fine-tuning = { epochs = 1 }
jittering = { epochs = 1 }
"""
TINY = BoxPreset("tiny", parsed("tiny", CLASSIFICATION), {"batch": 8}, Schedule(epochs=1))
HERE = {"device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    return open_boxes(write_boxed(tmp_path_factory.mktemp("boxed"), 8, 4))


@pytest.fixture(scope="module")
def done(boxed, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, reproduce_boxes(boxed, TINY, out=out, **HERE)


def test_all_tables_are_measured_beside_the_baselines(done):
    out, found = done
    assert [row.key for row in found.results.rows] == [row.key for row in measured_box_rows(TABLES.values())]
    assert [curve.training for curve in found.results.curves] == ["SCR-fc", "PCR-fc", "PCR", "PCR-384"]
    for row in found.results.rows:
        dense = row.key.endswith("dense")
        assert (row.wrong.top5 is not None) == (row.classes is not None) == dense
        assert set(row.baselines) == {"whole image", "mean training box"}
        assert all((each.top5 is not None) == dense for each in row.baselines.values())
    text = (out / "localisation.md").read_text()
    for words in ("Table 8", "Table 9", "Table 10", "GoogLeNet", "36.4", "undecided"):
        assert words in text
    assert (out / "localisation.html").exists()
    assert (out / "localisation.png").exists()
    assert {path.name for path in (out / "seed-0").iterdir()} == {
        "A", "D", "D-384", "boxes-SCR-fc", "boxes-PCR-fc", "boxes-PCR", "boxes-PCR-384",
    }  # fmt: skip


def test_finished_steps_are_not_repeated_and_lost_ones_are(boxed, done, monkeypatch):
    out, found = done
    trained, measured = [], []
    train, measure = reproduction.train_boxes, reproduction._measured
    monkeypatch.setattr(reproduction, "train_boxes", lambda *a, **b: trained.append(a[2].name) or train(*a, **b))
    monkeypatch.setattr(reproduction, "_measured", lambda *a: measured.append(a[1].key) or measure(*a))
    again = reproduce_boxes(boxed, TINY, out=out, **HERE)
    assert (trained, measured) == ([], [])
    assert again.results == found.results
    there = json.loads((out / "localisation.json").read_text())
    there["rows"] = there["rows"][1:]
    (out / "localisation.json").write_text(json.dumps(there))
    assert len(reproduce_boxes(boxed, TINY, ["table8"], out=out, **HERE).results.rows) == len(found.results.rows)
    assert (trained, measured) == ([], ["SCR-fc@256 centre-crop"])


def test_what_is_given_is_used_and_what_does_not_fit_is_refused(boxed, done, tmp_path):
    out, _ = done
    given = [out / "seed-0" / "D"]
    found = reproduce_boxes(boxed, TINY, ["table8"], out=tmp_path / "given", classifiers=given, **HERE)
    assert len(found.results.rows) == 3
    assert not (tmp_path / "given" / "seed-0" / "D").exists()
    said = refusal(reproduce_boxes, boxed, TINY, ["table9"], out=tmp_path / "given", classifiers=given, **HERE)
    assert "there is no classifier for S = 384" in said
    assert "seeds is 0" in refusal(reproduce_boxes, boxed, TINY, seeds=0, out=tmp_path / "none", **HERE)
    other = replace(TINY, name="other")
    assert "contains a localisation experiment with preset tiny" in refusal(
        reproduce_boxes, boxed, other, out=out, **HERE
    )
    few = open_boxes(write_boxed(tmp_path / "few", 8, 3))
    assert "4 tested photographs" in refusal(reproduce_boxes, few, TINY, out=out, **HERE)


def made_up(missed, seeds=2, images=400):
    """Measurements in which each row misses a share of the same photographs, the first ones."""
    rows = measured_box_rows(TABLES.values())
    results = BoxResults(1, "made up", {}, "", ("a",), 1, images, 0, tuple(TABLES), tuple(range(seeds)))
    hits = {}
    for row in rows:
        wrong = np.arange(images) < missed[row.key] * images
        for seed in range(seeds):
            hits[row.key, seed] = Hits(~wrong, None if row.protocol == "centre-crop" else ~wrong)
    measured = [_measured(key, seed, one) for (key, seed), one in hits.items()]
    return BoxMeasurements(replace(results, rows=tuple(measured)), hits)


def _measured(key, seed, hits):
    from verydeep.experiments.localisation.results import BoxMeasured, Wrong

    wrong = Wrong(int((~hits.top1).sum()), None if hits.top5 is None else int((~hits.top5).sum()))
    baselines = {"whole image": wrong, "mean training box": wrong}
    return BoxMeasured(key, seed, "", "", wrong, None if hits.top5 is None else wrong, baselines, 0.0)


def test_findings_are_decided_by_paired_tests():
    equal = dict.fromkeys((row.key for row in measured_box_rows(TABLES.values())), 0.3)
    assert {each.verdict for each in box_findings(made_up(equal))} == {"undecided"}
    better = equal | {CLAIMS[0].row.key: 0.2}
    first, second, *_ = box_findings(made_up(better))
    assert first.verdict == "confirmed"
    assert first.errors.mean == pytest.approx(0.1)
    assert second.verdict == "refuted", "the row that became better is the other of the second finding"
    assert first.one_by_one[0][:3] == (0, 40, 0)
    assert first.printed == pytest.approx(0.021)
    assert {each.verdict for each in box_findings(made_up(better, seeds=1))} == {"undecided"}, "by one seed"


def test_the_report_is_the_same_for_the_same_results(done, tmp_path):
    out, found = done
    assert box_document(read_box_measurements(out)) == box_document(found)
    assert check_box_report(out) == ()
    assert make_box_report(tmp_path) == (), "there are no results"
    write_box_report(found, tmp_path)
    (tmp_path / "localisation.md").write_text("mine")
    assert "move it away" in refusal(write_box_report, found, tmp_path)


def test_damaged_results_are_refused(done, tmp_path):
    out, _ = done
    for name in ("localisation.json", "localisation.safetensors"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    (tmp_path / "localisation.json").write_text("{}")
    assert "cannot read the results" in refusal(read_box_measurements, tmp_path)
