"""`verydeep localise train`, `test` and `predict`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from boxed import write_boxed
from verydeep import terminal
from verydeep.recipe import Recipe

SMALL = [
    "--net", "A", "--crop", "32", "--width", "0.125", "--fully-connected", "16", "--training-scale", "40",
    "--initialisation", "glorot", "--batch", "8", "--epochs", "1", "--device", "cpu", "--workers", "0",
]  # fmt: skip


def refused(result, *words):
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert len(err.strip().splitlines()) == 1
    assert all(word in err for word in words), err
    return True


@pytest.fixture
def trained(verydeep, tmp_path):
    """Boxes, a classifier and a regressor that starts from it."""
    boxes = write_boxed(tmp_path / "boxed")
    for number in range(8):
        for split in ("train", "val"):
            folder = tmp_path / "classes" / split / ("even" if number % 2 else "odd")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 40, 3), 30 * number, np.uint8)).save(folder / f"{number}.png")
    assert verydeep("train", tmp_path / "classes", *SMALL, "--out", "c")[0] == 0
    words = ["localise", "train", boxes, "--start-from", "c", "--batch", "8", "--epochs", "1", "--out", "b"]
    code, out, err = verydeep(*words, "--device", "cpu", "--workers", "0")
    assert code == 0, err
    assert out == f"trained: b/weights.safetensors; test it with: verydeep localise test b {boxes}\n"
    assert "centre crop, Q = 40, true class" in err
    return boxes


@pytest.mark.parametrize("command", ["train", "test", "predict"])
def test_every_command_has_examples_in_its_help(verydeep, command):
    code, out, _ = verydeep("localise", command, "--help")
    assert code == 0
    assert f"verydeep localise {command}" in out
    assert "For example" in out


def test_the_flags_of_train_are_those_of_classification_and_a_few(verydeep):
    flags = set(re.findall(r"^│ \*? *(--[a-z-]+)", verydeep("localise", "train", "--help")[1], re.MULTILINE))
    fields = {f"--{name.replace('_', '-')}" for name in Recipe.model_fields}
    assert fields <= flags
    assert flags - fields == {
        "--out", "--recipe", "--device", "--precision", "--micro-batch", "--workers", "--deterministic",
        "--skip-unreadable", "--regression", "--photographs",
    }  # fmt: skip


def test_wrong_use_is_one_line_and_exit_code_2(verydeep, tmp_path):
    boxes = write_boxed(tmp_path / "boxed", 4, 2)
    assert refused(verydeep("localise", "train"), "DATA")
    assert refused(verydeep("localise", "train", "nowhere.csv", "--out", "b"), "nowhere.csv does not exist")
    assert refused(verydeep("localise", "train", boxes), "--out")
    assert refused(verydeep("localise", "train", boxes, "--out", "b", "--regression", "both"), "both", "SCR")
    assert refused(verydeep("localise", "train", boxes, "--out", "b", "--start-from", "none"), "none")
    assert refused(verydeep("localise", "train", boxes, "--out", "b", "--learns", "fc6"), "give start_from")
    assert refused(verydeep("localise", "test", "b"), "at least one run and the boxes")
    assert refused(verydeep("localise", "test", "none", boxes), "none")
    assert refused(verydeep("localise", "predict", "b", "--classifier", "c"), "no image was given")
    assert refused(verydeep("localise", "predict", "b", "a.png"), "--classifier")
    bad = boxes.read_text().splitlines()
    bad[2] = bad[2].replace(",", ",99999,", 1)
    boxes.write_text("\n".join(bad) + "\n")
    assert refused(verydeep("localise", "train", boxes, "--out", "b"), "boxes.csv, line 3")
    assert not (tmp_path / "b").exists()


def test_results_are_beside_both_baselines(verydeep, trained, monkeypatch):
    monkeypatch.setattr(terminal, "PIPE_WIDTH", 100)
    code, out, err = verydeep("localise", "test", "b", trained, "--device", "cpu", "--workers", "0")
    assert code == 0, err
    assert "localisation error, 8 images of" in out
    assert "baseline: whole image" in out
    assert "baseline: mean training box" in out
    assert max(map(cell_len, out.splitlines())) <= 100
    words = ["localise", "test", "b", trained, "--classifier", "c", "--scales", "32", "64", "--json"]
    (row,) = json.loads(verydeep(*words, "--device", "cpu", "--workers", "0")[1])
    assert (row["runs"], row["regressions"], row["images"]) == (["b"], ["PCR"], 8)
    assert row["protocol"] == "dense, Q = 32, 64, predicted classes"
    assert {"top1_error", "top1_interval95", "top1_wrong", "top5_error", "class_top1_error"} <= row.keys()
    assert [each["name"] for each in row["baselines"]] == ["whole image", "mean training box"]
    assert all("top5_error" in each for each in row["baselines"])


def test_boxes_are_printed_and_drawn(verydeep, trained, tmp_path):
    images = sorted((tmp_path / "boxed" / "val").glob("*.png"))[:2]
    here = ["--device", "cpu", "--workers", "0"]
    code, out, err = verydeep("localise", "predict", "b", *images, "--classifier", "c", "-o", "drawn", *here)
    assert code == 0, err
    assert "even" in out
    assert "odd" in out
    for image in images:
        assert f"drawn/{image.stem}.png" in out
        with Image.open(Path("drawn") / f"{image.stem}.png") as picture:
            drawn = np.asarray(picture)
        assert (drawn == (214, 39, 40)).all(2).sum() > 20, "there is a red box"
    words = ["localise", "predict", "b", images[0], "--classifier", "c", "--top", "1", "--json", *here]
    (found,) = json.loads(verydeep(*words)[1])
    assert found["image"] == str(images[0])
    (first,) = found["boxes"]
    with Image.open(images[0]) as photograph:
        width, height = photograph.size
    x0, y0, x1, y1 = first["box"]
    assert 0 <= x0 <= x1 <= width
    assert 0 <= y0 <= y1 <= height
    assert refused(
        verydeep("localise", "predict", "b", *images, "--classifier", "c", "-o", "one.png", *here), "pass a folder"
    )
    assert refused(verydeep("localise", "predict", "c", images[0], "--classifier", "c", *here), "not boxes")
    assert refused(verydeep("predict", "b", images[0], "--device", "cpu"), "verydeep localise predict")
    assert refused(verydeep("test", "b", "classes", "--device", "cpu"), "verydeep localise test")
