"""`verydeep transfer`, and `verydeep predict` with the file that it saves."""

import json

import pytest

from transfer_sets import actions, caltech, net_of, voc
from verydeep import weights


@pytest.fixture(autouse=True)
def nets(tmp_path):
    weights.save(net_of(), tmp_path / "a.safetensors")
    weights.save(net_of("D", 1), tmp_path / "d.safetensors")


def refused(result, *words):
    code, out, err = result
    assert code == 2, (code, out, err)
    (last,) = err.strip().splitlines()[-1:]
    assert last.startswith("verydeep: ")
    assert all(word in last for word in words), last
    return True


def test_a_folder_of_class_folders(verydeep, tmp_path):
    caltech(tmp_path / "caltech", 10)
    code, out, err = verydeep("transfer", "a.safetensors", "d.safetensors", "caltech", "--training-images", 5)
    assert code == 0, err
    words = " ".join(out.split())
    assert words.startswith("caltech, net A: relu7, Q = 32, 64, stacked + net D: relu7, Q = 32, 64, stacked ")
    assert "mean class" in words
    assert "5 per class" in out
    (row,) = json.loads(verydeep("transfer", "a.safetensors", "caltech", "--training-images", 5, "--json")[1])
    assert (row["data"], row["measure"], len(row["splits"])) == ("caltech", "class-recall", 3)
    assert row["interval"][0] <= row["value"] <= row["interval"][1]
    assert row["deviation"] >= 0


def test_a_learning_curve_neighbours_and_a_saved_classifier(verydeep, tmp_path):
    caltech(tmp_path / "caltech", 10)
    code, out, err = verydeep(
        *("transfer", "a.safetensors", "caltech", "--training-images", 1, 5, "--splits", 2, "--scales", 32),
        *("--curve", "curve.svg", "--neighbours", "near.png", "--save", "colours.safetensors"),
    )
    assert code == 0, err
    assert out.splitlines()[-3:] == ["near.png", "curve.svg", "colours.safetensors"]
    assert all((tmp_path / name).stat().st_size > 500 for name in out.splitlines()[-3:])
    code, out, _ = verydeep("predict", "colours.safetensors", "caltech/red/image_0003.jpg")
    assert code == 0
    assert out.splitlines()[0] == "linear classifier of relu7, Q = 32"
    assert "score" in out.splitlines()[1]
    assert "posterior" not in out
    (row,) = json.loads(verydeep("predict", "colours.safetensors", "caltech/red/image_0003.jpg", "--json")[1])
    assert {each["class"] for each in row["classes"]} == {"red", "green", "blue"}
    assert all(isinstance(each["score"], float) for each in row["classes"])
    assert verydeep("predict", "colours.safetensors", "caltech", "--csv")[1].startswith("image,rank,class,score\n")
    assert refused(
        verydeep("predict", "colours.safetensors", "caltech", "--scales", 64), "was trained on relu7, Q = 32"
    )


def test_voc_and_actions(verydeep, tmp_path):
    voc(tmp_path / "VOC2007")
    code, out, _ = verydeep("transfer", "d.safetensors", "VOC2007", "--scales", 32)
    assert code == 0
    assert "mean average" in out
    assert "89.3 (D)" in out, "what the paper printed"
    actions(tmp_path / "VOC2012")
    found = [
        json.loads(
            verydeep("transfer", "a.safetensors", "VOC2012", "--actions", *flags, "--scales", 32, "--json")[1]
        )[0]
        for flags in ([], ["--no-boxes"])
    ]
    assert [one["protocol"].endswith("and box") for one in found] == [True, False]


def test_wrong_use_is_one_line(verydeep, tmp_path):
    caltech(tmp_path / "caltech", 8)
    assert refused(verydeep("transfer", "a.safetensors"), "and a data set; given: a.safetensors")
    assert refused(verydeep("transfer", "a.safetensors", "nowhere"), "nowhere: no such folder")
    assert refused(verydeep("transfer", "none.safetensors", "caltech", "--training-images", 5), "none.safetensors")
    assert refused(verydeep("transfer", "a.safetensors", "caltech"), "class blue has 8 photographs")
    few = ["--training-images", 5]
    assert refused(
        verydeep("transfer", "a.safetensors", "d.safetensors", "caltech", *few, "--save", "x"), "holds one net"
    )
    assert refused(verydeep("transfer", "a.safetensors", "caltech", *few, "--neighbours", "x.jpg"), ".png")
    assert refused(verydeep("transfer", "a.safetensors", "caltech", *few, "--curve", "x.png"), ".svg")
    assert refused(verydeep("transfer", "a.safetensors", "caltech", *few, "--scales", 16), "at least 32")
    assert refused(verydeep("transfer", "a.safetensors", "caltech", *few, "--aggregation", "max"), "average")
    (tmp_path / "caltech/blue/image_0002.jpg").write_bytes(b"none")
    assert refused(verydeep("transfer", "a.safetensors", "caltech", *few), "image_0002.jpg")
    code, _, err = verydeep("transfer", "a.safetensors", "caltech", *few, "--skip-unreadable")
    assert code == 0
    assert "left out: " in err


def test_the_help_has_examples(verydeep):
    code, out, _ = verydeep("transfer", "--help")
    assert code == 0
    assert "For example" in out
    assert "verydeep transfer" in out
