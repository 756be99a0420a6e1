"""Tables 11 and 12 on made-up data: the protocol of each column, nothing computed twice, the page."""

from dataclasses import replace

import numpy as np
import pytest

from synthetic import refusal
from transfer_sets import actions, caltech, net_of, voc, write_picture
from verydeep import procedures, weights
from verydeep.experiments import transfer_tables
from verydeep.experiments.presets import PRESETS, parsed, preset
from verydeep.experiments.report import report
from verydeep.experiments.transfer_dry_run import plan_transfer
from verydeep.experiments.transfer_plan import FIVE, PROTOCOLS, TABLES, THREE, comparisons_of, settings_of
from verydeep.experiments.transfer_report import check_transfer_report, difference_limits
from verydeep.experiments.transfer_results import RESULTS, read_transfer_tables
from verydeep.experiments.transfer_tables import reproduce_transfer
from verydeep.transfer import described, descriptors, open_transfer_data, transfer
from verydeep.transfer.measures import difference_interval
from verydeep.transfer.paper import ACTIONS, TABLE_11, TABLE_12
from verydeep.transfer.procedure import judged_on

TINY = """
hold_out = 0.25
grid = 2
controls = false
[recipe]
crop = 32
width = 0.0625
fully_connected = 8
batch = 64
initialisation = "glorot"
[scales]
224 = 32
256 = 33
288 = 34
352 = 35
384 = 36
416 = 37
512 = 40
640 = 64
768 = 66
[schedules]
random = { epochs = 1 }
deeper = { epochs = 1 }
fine-tuning = { epochs = 1 }
jittering = { epochs = 1 }
"""
QUIET = {"device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Folders of all data sets, and weight files of D and E."""
    root = tmp_path_factory.mktemp("transfer")
    voc(root / "VOC2007")
    voc(root / "VOC2012", ("train", "val"))
    actions(root / "VOC2012")
    caltech(root / "caltech", 32)
    for number, name in enumerate("DE"):
        weights.save(net_of(name, number), root / f"{name}.safetensors")
    return root


@pytest.fixture
def nets(there):
    return [there / "D.safetensors", there / "E.safetensors"]


@pytest.fixture
def folders(there):
    names = {"voc2007": "VOC2007", "voc2012": "VOC2012", "caltech101": "caltech"}
    return {flag: there / name for flag, name in names.items()}


@pytest.fixture
def counted(monkeypatch):
    """Every photograph that is decoded, and every set of classifiers that is trained."""
    seen = {"decoded": [], "judged": []}
    decode, judge = descriptors.decode, transfer_tables.judged_on

    def counting_decode(photograph):
        seen["decoded"].append(photograph)
        return decode(photograph)

    def counting_judge(found, *rest):
        seen["judged"].append((found.data.name, found.protocol))
        return judge(found, *rest)

    monkeypatch.setattr(descriptors, "decode", counting_decode)
    monkeypatch.setattr(transfer_tables, "judged_on", counting_judge)
    return seen


def made(folders, nets, out, tables=("table11", "table12"), size=None):
    return reproduce_transfer(folders, size or parsed("tiny", TINY), tables, nets, out=out, **QUIET)


def test_the_plan_is_that_of_appendix_b():
    ours = [(row, name) for row in (*TABLE_11, *TABLE_12) if row.nets for name in row.printed]
    planned = {name: settings_of(table, name) for table in TABLES.values() for name in table.columns}
    assert list(planned) == ["VOC-2007", "VOC-2012", "Caltech-101", "Caltech-256", ACTIONS]
    assert {(each.nets, name) for name, several in planned.items() for each in several} >= {
        (row.nets, name) for row, name in ours
    }
    for name, several in planned.items():
        assert several[0].nets == ("D", "E"), "the first describes what all others need"
        assert (several[0].scales, several[0].aggregation) == (
            (THREE, "stack") if name.startswith("Caltech") else (FIVE, "average")
        )
    assert [(each.nets, each.boxes) for each in planned[ACTIONS]] == [(("D", "E"), True), (("D", "E"), False)]
    assert PROTOCOLS["Caltech-101"].training_images == 30
    assert PROTOCOLS["Caltech-101"].test_images == 50
    assert PROTOCOLS["Caltech-256"].training_images == 60
    assert len(comparisons_of(TABLES["table11"], "VOC-2007")) == 3


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_the_scales_of_the_appendix(name):
    found = preset(name)
    scales = [found.scale(each) for each in FIVE]
    assert scales == sorted(set(scales))
    assert scales[0] >= found.recipe.get("crop", 224)


def test_every_column_is_what_transfer_measures(there, folders, nets, tmp_path, counted):
    found = made(folders, nets, tmp_path / "out")
    for flag, name, options in (
        ("voc2007", "VOC-2007", {"scales": [33, 36, 40, 64, 66], "aggregation": "average"}),
        ("caltech101", "Caltech-101", {"scales": [33, 36, 40], "aggregation": "stack", "training_images": 30}),
    ):
        (both,) = [each for each in found.measured if each.setting == settings_of(TABLES["table11"], name)[0]]
        assert both.result == transfer(nets, folders[flag], **options, **QUIET)
    people = [each.result for each in found.measured if each.setting.data_set == ACTIONS]
    assert [each.measure for each in people] == ["ap-area", "ap-area"]
    assert people[0].value > people[1].value, "the box tells two people in a photograph apart"
    measures = {each.setting.data_set: each.result.measure for each in found.measured}
    assert measures["VOC-2007"] == "ap-11"
    assert measures["Caltech-101"] == "class-recall"
    assert not any(each.setting.data_set == "Caltech-256" for each in found.measured)


def test_each_photograph_is_decoded_once_and_nothing_is_measured_twice(folders, nets, tmp_path, counted):
    made(folders, nets, tmp_path / "out")
    photographs = {
        path
        for flag, task in [*((flag, "classification") for flag in folders), ("voc2012", "actions")]
        for path in open_transfer_data(folders[flag], task).photographs
    }
    assert sorted(counted["decoded"]) == sorted(photographs)
    settings = [each for table in TABLES.values() for name in table.columns for each in settings_of(table, name)]
    assert len(counted["judged"]) == len([each for each in settings if each.data_set != "Caltech-256"])
    counted["judged"].clear()
    again = made(folders, nets, tmp_path / "out")
    assert counted["judged"] == []
    assert again == read_transfer_tables(tmp_path / "out")


def test_an_interrupted_run_resumes_and_ends_the_same(folders, nets, tmp_path, monkeypatch):
    wanted = {"voc2007": folders["voc2007"]}
    expected = made(wanted, nets, tmp_path / "whole", ["table11"])
    judge, done = transfer_tables.judged_on, []

    def interrupted(found, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(found)
        return judge(found, *rest)

    monkeypatch.setattr(transfer_tables, "judged_on", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(wanted, nets, tmp_path / "parts", ["table11"])
    assert len(read_transfer_tables(tmp_path / "parts").measured) == 2
    done.clear()
    monkeypatch.setattr(transfer_tables, "judged_on", judge)
    assert made(wanted, nets, tmp_path / "parts", ["table11"]) == expected
    one, other = (tmp_path / name / RESULTS for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


def test_what_has_changed_is_measured_again(tmp_path, nets, counted):
    root = voc(tmp_path / "VOC2007")
    first = made({"voc2007": root}, nets, tmp_path / "out", ["table11"])
    counted["judged"].clear()
    write_picture(root / "JPEGImages" / "train_0000.jpg", ["blue"], 77, width=60)
    second = made({"voc2007": root}, nets, tmp_path / "out", ["table11"])
    assert len(counted["judged"]) == len(first.measured) == len(second.measured)
    counted["judged"].clear()
    only = made({"voc2007": root}, nets[:1], tmp_path / "out", ["table11"])
    assert counted["judged"] == [], "what D alone measures is there already"
    assert only == second


def test_the_difference_of_two_settings_has_the_interval_of_pairs(folders, nets, tmp_path):
    found = made({"caltech101": folders["caltech101"]}, nets[:1], tmp_path / "out", ["table11"])
    by_aggregation = {each.setting.aggregation: each for each in found.measured}
    data = open_transfer_data(folders["caltech101"])
    judged = {}
    for how in ("stack", "average"):
        vectors = described(nets[0], data, scales=[33, 36, 40], aggregation=how, **QUIET)
        judged[how] = judged_on(vectors, transfer_tables.splits_for("Caltech-101", data))[1]
    expected = difference_interval("class-recall", judged["stack"], judged["average"])
    limits = difference_limits(by_aggregation["stack"], by_aggregation["average"])
    np.testing.assert_allclose(limits, expected, atol=2e-6)


def test_the_page_has_the_papers_numbers_next_to_ours(folders, nets, tmp_path):
    out = tmp_path / "out"
    found = made(folders, nets[:1], out, ["table11"])
    page = (out / "transfer-tables.md").read_text()
    (d,) = [each for each in found.measured if each.setting == settings_of(TABLES["table11"], "VOC-2007")[1]]
    assert f"| VGG Net-D (16 layers) | **{100 * d.result.value:.1f}** |" in page
    assert "| VGG Net-D \\& Net-E | not yet |  |  | 89.7 |" in page
    assert "| Zeiler \\& Fergus (2013) |  |  |  | 86.5 ± 0.5 |" in page
    assert "Nothing measured yet: Caltech-256 (--caltech256)." in page
    assert "**Caltech-101, measured on caltech: 3 classes**" in page
    assert (out / "transfer-tables.html").exists()
    assert check_transfer_report(out) == ()
    (out / "transfer-tables.md").unlink()
    assert [path.name for path in check_transfer_report(out)] == ["transfer-tables.md"]
    assert {path.name for path in report([out])} == {"transfer-tables.md", "transfer-tables.html"}
    assert (out / "transfer-tables.md").read_text() == page
    assert report([out], tmp_path / "other.md") == (tmp_path / "other.md",)


def test_without_nets_those_of_the_plan_are_trained_first(tmp_path, monkeypatch):
    trained = []
    train = procedures.train

    def counting(data, recipe, out, **options):
        trained.append(out.name)
        return train(data, recipe, out, **options)

    monkeypatch.setattr(procedures, "train", counting)
    data = caltech(tmp_path / "colours", 40, ("blue", "red"))
    size = parsed("tiny", TINY)
    arguments = ({"caltech101": data}, size, ["table11"], (), data, 1, tmp_path / "out")
    found = reproduce_transfer(*arguments, **QUIET)
    assert trained == ["A", "D", "E", "D-384", "E-384", "D-jitter", "E-jitter"]
    assert {each.seed for each in found.measured} == {0}
    assert found.measured[0].result.sources[0].endswith("seed-0/D-jitter")
    assert "| VGG Net-D \\& Net-E | 0 |" in (tmp_path / "out" / "transfer-tables.md").read_text()
    trained.clear()
    assert reproduce_transfer(*arguments, **QUIET) == found
    assert trained == []


def test_the_plan_is_shown_and_nothing_is_computed(folders, nets, tmp_path, counted):
    out = tmp_path / "out"
    planned = plan_transfer(folders, parsed("tiny", TINY), ["table12"], nets, out=out)
    assert [(each.photographs, each.images, each.state) for each in planned] == [
        (18, 2 * 2 * 5 * 2 * 18, "to do"),
        (18, 2 * 2 * 5 * 18, "to do"),
    ]
    assert counted["decoded"] == []
    assert not out.exists()
    made({"voc2012": folders["voc2012"]}, nets, out, ["table12"])
    planned = plan_transfer(folders, parsed("tiny", TINY), ["table12"], nets, out=out)
    assert {each.state for each in planned} == {"measured"}
    named = plan_transfer(folders, parsed("tiny", TINY), ["table12"], data="anything", seeds=2, out=out)
    assert [(each.seed, each.nets) for each in named][::2] == [(seed, ("D-jitter", "E-jitter")) for seed in (0, 1)]


def test_wrong_requests_are_refused_before_any_work(there, folders, nets, tmp_path, counted):
    out, size = tmp_path / "out", parsed("tiny", TINY)

    def refused(where=folders, tables=("table11",), given=nets, sized=size, **more):
        return refusal(reproduce_transfer, where, sized, tables, given, out=out, **more, **QUIET)

    assert "unknown table 'table4'" in refused(tables=["table4"])
    assert "no table is named" in refused(tables=[])
    assert "unknown data set 'imagenet'" in refused({"imagenet": there})
    assert "table12 needs the folder of a data set; pass --voc2012" in refused(
        {"voc2007": folders["voc2007"]}, ["table12"]
    )
    assert "VOC-2007 needs several classes per photograph" in refused({"voc2007": folders["caltech101"]})
    assert "Caltech-101 needs exactly one class per photograph" in refused({"caltech101": folders["voc2007"]})
    assert "32 photographs; 60 for training" in refused({"caltech256": folders["caltech101"]})
    assert "no such folder" in refused({"voc2007": there / "none"})
    assert "pass --nets with weights of D and E, or --data" in refused(given=())
    weights.save(net_of("A"), tmp_path / "a.safetensors")
    assert "is a net A; Tables 11 and 12 are of nets D and E" in refused(given=[tmp_path / "a.safetensors"])
    assert "table12 is of nets D and E together" in refused(tables=["table12"], given=nets[:1])
    assert "are both nets D" in refused(given=[nets[0], nets[0]])
    few = replace(size, scales={paper: here for paper, here in size.scales.items() if paper < 640})
    assert "no scale for the paper's 640, 768" in refused(sized=few)
    assert counted["decoded"] == []
    made({"voc2012": folders["voc2012"]}, nets, out, ["table12"])
    assert "with preset tiny, not digits" in refused(sized="digits")
