"""`verydeep reproduce table11 table12`."""

import json

import pytest

from transfer_sets import actions, caltech, net_of, voc
from verydeep import weights

CALTECH = (
    "--nets",
    "D.safetensors",
    "E.safetensors",
    "--caltech101",
    "caltech",
    "--preset",
    "digits",
    "--out",
    "out",
)


@pytest.fixture(autouse=True)
def there(tmp_path):
    for number, name in enumerate("DE"):
        weights.save(net_of(name, number), tmp_path / f"{name}.safetensors")
    caltech(tmp_path / "caltech", 31)


def test_the_tables_are_printed_with_the_papers_numbers(verydeep):
    code, out, err = verydeep("reproduce", "table11", *CALTECH)
    assert code == 0, err
    words = " ".join(out.split())
    assert words.startswith("Caltech-101, measured on caltech: 3 classes")
    assert "92.7 ± 0.5" in words
    assert "not yet" not in words
    assert out.splitlines()[-1] == "report: out/transfer-tables.html"
    assert "Caltech-101, D & E, Q = 256, 384, 512 stacked" in err
    found = json.loads(verydeep("reproduce", "table11", *CALTECH, "--json")[1])["transfer"]
    assert [each["setting"]["nets"] for each in found["measured"]] == [["D", "E"], ["D"], ["E"], ["D"]]
    assert 0 < found["measured"][0]["result"]["interval"][1] <= 1
    code, out, _ = verydeep("report", "out")
    assert (code, out.split()) == (0, ["out/transfer-tables.md", "out/transfer-tables.html"])


def test_actions_with_and_without_boxes(verydeep, tmp_path):
    actions(voc(tmp_path / "VOC2012", ("train", "val")))
    words = ("reproduce", "table12", "--nets", "D.safetensors", "E.safetensors", "--voc2012", "VOC2012")
    code, out, err = verydeep(*words, "--preset", "digits")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if line.startswith("VGG")]
    assert [row[-1] for row in rows] == ["79.2", "84.0"]


def test_a_dry_run_shows_the_settings(verydeep, tmp_path):
    code, out, _ = verydeep("reproduce", "table11", *CALTECH, "--dry-run")
    assert code == 0
    assert out.count("to do") == 4
    assert f"{93 * 2 * 2 * 3:,}" in out
    assert not (tmp_path / "out").exists()
    (first, *_) = json.loads(verydeep("reproduce", "table11", *CALTECH, "--dry-run", "--json")[1])["transfer"]
    assert (first["photographs"], first["nets"]) == (93, ["D.safetensors", "E.safetensors"])


def test_wrong_use_is_one_line(verydeep):
    def refused(*words):
        code, _, err = verydeep("reproduce", *words)
        assert code == 2, err
        return err.strip().splitlines()[-1]

    assert "needs --data" in refused("table4", "--preset", "digits")
    assert "needs --data" in refused("--preset", "digits")
    assert "pass --voc2012" in refused("table12", *CALTECH)
    assert "pass --nets with weights of D and E, or --data" in refused(
        "table11", "--preset", "digits", "--caltech101", "caltech"
    )
    assert "table13" in refused("table13", *CALTECH)
