"""Benchmarks store their results in one format, and say that a claim holds only if its numbers do."""

import json
import sys

import pytest

from claims import Claim, Machine, Observation, Record, command, machine, read, record, table

RATIO = Claim("D beside ncnn", 0.44, "of its time", {"at most": 0.5}, {"ncnn": 0.44})


def speed(measured):
    return Claim("two ranks", measured, "times", {"at least": 1.8})


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/some.py"])


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (RATIO, True),
        (Claim("", 0.5, "", {"at most": 0.5}), True),
        (Claim("", 0.501, "", {"at most": 0.5}), False),
        (speed(1.8), True),
        (speed(1.86), True),
        (speed(1.79), False),
    ],
)
def test_a_claim_holds_up_to_its_bound(claim, holds):
    assert claim.holds is holds


@pytest.mark.parametrize(
    ("measured", "bound"),
    [
        (float("nan"), {"at most": 1.0}),
        (float("inf"), {"at least": 1.0}),
        (1.0, {"at most": float("nan")}),
        (1.0, {}),
        (1.0, {"at most": 1.0, "at least": 0.5}),
        (1.0, {"below": 1.0}),
    ],
)
def test_what_cannot_be_judged_is_no_claim(measured, bound):
    with pytest.raises(ValueError, match="the claim"):
        Claim("the claim", measured, "times", bound)


def test_the_exit_status_says_whether_all_claims_hold():
    assert record(None, [RATIO, speed(1.9)]) == 0
    assert record(None, [RATIO, speed(1.7)]) == 1
    assert record(None, [], [Observation("share of the products", 0.7, "of the time")]) == 0


def test_a_record_is_written_and_read(tmp_path, capsys):
    file = tmp_path / "new" / "some.json"
    seen = Observation("two apart", 1.92, "times")
    assert record(file, [RATIO, speed(1.7)], [seen], versions={"ncnn": "1.0"}, details={"rounds": 3}) == 1
    shown = capsys.readouterr().out
    assert "holds  0.44 of its time, at most 0.5: D beside ncnn\n         ncnn: 0.44\n" in shown
    assert "FAILS  1.7 times, at least 1.8: two ranks" in shown
    assert "1.92 times: two apart" in shown
    assert "ncnn 1.0" in shown
    raw = json.loads(file.read_text())
    assert raw["claims"][0] == {
        "claim": "D beside ncnn",
        "measured": 0.44,
        "unit": "of its time",
        "bound": {"at most": 0.5},
        "peers": {"ncnn": 0.44},
        "holds": True,
    }
    assert [claim["holds"] for claim in raw["claims"]] == [True, False]
    assert {"python", "torch", "numpy", "verydeep", "ncnn"} == set(raw["versions"])
    found = read(file)
    assert found.claims == [RATIO, speed(1.7)]
    assert found.observations == [seen]
    assert found.machine == machine()
    assert found.command == "python benchmarks/some.py"
    assert found.as_json() == file.read_text()


def written(file, **changes):
    kept = Record([speed(1.7)], [], "python x.py", Machine("AMD EPYC", 26, 2, 2), {"numpy": None}, None, {})
    raw = json.loads(kept.as_json())
    for place, value in changes.items():
        at, names = raw, place.split("__")
        for name in names[:-1]:
            at = at[int(name) if name.isdigit() else name]
        at[names[-1]] = value
    file.write_text(json.dumps(raw))
    return file


@pytest.mark.parametrize(
    "changes",
    [
        {"claims__0__holds": True},
        {"claims__0__holds": None},
        {"claims__0__measured": "1.7"},
        {"claims__0__measured": float("nan")},
        {"claims__0__bound": {"about": 1.8}},
        {"claims__0__ratio": 1.7},
        {"machine__hostname": "somewhere"},
        {"versions__torch": 2.13},
        {"remark": "fast"},
        {"command": 3},
    ],
)
def test_another_form_is_refused(tmp_path, changes):
    assert read(written(tmp_path / "good.json")).holds is False
    with pytest.raises(ValueError, match=r"\w"):
        read(written(tmp_path / "bad.json", **changes))


def test_a_command_names_no_places_of_the_machine():
    words = ["/home/me/verydeep/benchmarks/ranks.py", "/data/of/mine/imagenette", "--rounds", "5"]
    assert command(words) == "python benchmarks/ranks.py imagenette --rounds 5"


def test_this_machine_has_a_processor_and_cores():
    here = machine()
    assert here.processor
    assert here.cores >= 1


def test_the_table_has_what_was_seen_too():
    found = Record([], [Observation("two apart", 2.0, "times", {"one": 1.0})], None, Machine(), {}, None, {})
    assert "2 times: two apart\n         one: 1" in table(found)
