"""The command line as users see it: results, JSON, errors of one line, exit codes."""

import csv
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.cells import cell_len
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError

import foreign_nets
from synthetic import write
from verydeep import cli, terminal
from verydeep.configurations import CONFIGURATIONS
from verydeep.recipe import Recipe

SMALL = [
    "--crop",
    "32",
    "--width",
    "0.125",
    "--fully-connected",
    "8",
    "--batch",
    "4",
    "--epochs",
    "1",
    "--workers",
    "0",
]


def refused(result, *words):
    """Check for exit code 2, and that the last line on standard error contains all words."""
    code, out, err = result
    assert code == 2, (code, out, err)
    last = err.strip().splitlines()[-1]
    assert last.startswith("verydeep: ")
    assert all(word in last for word in words), last
    assert "Traceback" not in err
    return True


def test_configurations(verydeep):
    code, out, _ = verydeep("configurations")
    assert code == 0
    assert "138,357,544" in out
    rows = json.loads(verydeep("configurations", "--json")[1])
    assert {row["net"]: row["parameters"] for row in rows} == {
        name: each.parameters() for name, each in CONFIGURATIONS.items()
    }
    layers = {row["layer"]: row for row in json.loads(verydeep("configurations", "D", "--json")[1])}
    assert layers["conv3_3"]["receptive_field"] == 40
    assert sum(row["parameters"] for row in layers.values()) == 138_357_544
    assert sum(row["multiply_adds"] for row in layers.values()) == CONFIGURATIONS["D"].multiply_adds()


def test_engine(verydeep):
    from verydeep.engine.native import library

    rows = {row["layer"]: row for row in json.loads(verydeep("engine", "C", "--json")[1])}
    assert len(rows) == 16
    built = library() is not None
    assert rows["conv1_1"]["path"] == ("direct" if built else "torch")
    assert rows["conv4_2"]["path"] == ("winograd" if built else "torch")
    assert rows["conv5_3"]["path"] == "torch"
    assert refused(verydeep("engine", "--images", "0"), "images is 0")


@pytest.mark.parametrize(
    "command",
    [
        *(
            "configurations",
            "engine",
            "train",
            "resume",
            "test",
            "predict",
            "features",
            "map",
            "inspect",
            "report",
        ),
        *("convert", "describe", "push"),
    ],
)
def test_every_command_has_examples_in_its_help(verydeep, command):
    code, out, _ = verydeep(command, "--help")
    assert code == 0
    assert "For example" in out
    assert f"verydeep {command}" in out


def test_the_flags_of_train_are_the_fields_of_the_recipe(verydeep):
    """A few more say where and how to train. This list makes sure that no flag is added unnoticed."""
    import re

    flags = set(re.findall(r"^│ \*? *(--[a-z-]+)", verydeep("train", "--help")[1], re.MULTILINE))
    fields = {f"--{name.replace('_', '-')}" for name in Recipe.model_fields}
    assert flags - fields == {
        "--out", "--recipe", "--device", "--precision", "--micro-batch", "--workers", "--compile", "--recompute",
        "--deterministic", "--skip-unreadable", "--preset",
    }  # fmt: skip
    assert fields <= flags


def test_wrong_use_is_one_line_and_exit_code_2(verydeep, tmp_path):
    assert refused(verydeep("trian"), "trian")
    assert refused(verydeep("train"), "DATA")
    assert refused(verydeep("train", "nowhere"), "nowhere", "train")
    assert refused(verydeep("train", "digits", "--bath", "3"), "--bath", "--batch")
    assert refused(verydeep("train", "digits", "--batch", "many"), "--batch", "many")
    assert refused(verydeep("train", "digits", "--crop", "50"), "crop is 50", "64")
    assert refused(verydeep("train", "digits", "--net", "VGG16"), "'VGG16'", "A-LRN")
    assert refused(verydeep("train", "digits", "--micro-batch", "-1"), "micro_batch is -1")
    assert refused(verydeep("train", "digits", "--workers", "-1"), "workers is -1")
    assert refused(verydeep("train", "digits", "--workers", "100000"), "workers is 100000", "at most")
    assert refused(verydeep("train", "digits", "--epochs", "1.5"), "--epochs", "'1.5' is not a whole number")
    assert refused(
        verydeep("test", "runs/none", "digits", "--scales", "32", "32.5"), "'32.5' is not a whole number"
    )
    assert refused(
        verydeep("train", "digits", "--crop", "32", "--training-scale", "32", "36", "40"),
        "training_scale",
        "give one number, or Smin and Smax",
    )
    assert refused(verydeep("train", "digits", "--device", "tpu"), "'tpu'", "cpu")
    assert refused(verydeep("train", "digits", "--recipe", "none.toml"), "none.toml")
    assert refused(verydeep("train", "digits", "--start-from", "runs/none"), "runs/none")
    assert refused(verydeep("test", "runs/none"), "at least one run and a data set")
    assert refused(verydeep("test", "runs/none", "digits"), "runs/none")
    assert refused(verydeep("predict", "runs/none"), "image")
    assert refused(verydeep("inspect", "nowhere"), "nowhere")
    assert refused(verydeep("configurations", "F"), "'F'")
    assert not (tmp_path / "runs").exists()


def test_train_test_and_predict(verydeep, folder):
    code, out, err = verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    assert code == 0
    assert "verydeep test a" in out
    assert "signal:" in err
    assert "epoch 1 of 1:" in err

    code, out, _ = verydeep("test", "a", folder, "--scales", "32", "40", "--json")
    (row,) = json.loads(out)
    assert (row["nets"], row["runs"], row["images"]) == (["A"], ["a"], 2)
    assert row["protocols"] == ["dense, Q = 32, 40, with mirror images"]
    assert row["top1_error"] in (0, 0.5, 1)
    low, high = row["top1_interval95"]
    assert 0 <= low <= row["top1_error"] <= high <= 1
    assert row["top1_wrong"] == 2 * row["top1_error"]
    shutil.copytree("a", "b")
    code, out, err = verydeep("test", "a", "b", folder, "--scales", "32", "--method", "both")
    assert "dense & multi-crop, Q = 32" in out
    assert "A + A" in out
    assert "already stored" in err
    assert refused(verydeep("test", "a", "./a", folder), "./a is given twice")

    image = folder / "train" / "cat" / "b.png"
    code, out, _ = verydeep("predict", "a", image, "--json")
    (row,) = json.loads(out)
    assert {each["class"] for each in row["classes"]} == {"cat", "Dog"}
    assert sum(each["posterior"] for each in row["classes"]) == pytest.approx(1)
    assert "cat" in verydeep("predict", "a", image)[1]


def test_resume_needs_no_other_words(verydeep, folder):
    command = ["train", folder, "--initialisation", "glorot", *SMALL, "--no-flip", "--out", "a"]
    assert verydeep(*command, "--micro-batch", "2", "--device", "cpu")[0] == 0
    code, out, err = verydeep("resume", "a")
    assert (code, "for more epochs: verydeep resume a --epochs N" in err) == (0, True)
    assert out.startswith("a: net A, 1 epochs, loss ")
    code, out, err = verydeep("resume", "a", "--epochs", "3")
    assert (code, "epoch 3 of 3: " in err) == (0, True), err
    assert "2 images at once" in err
    assert "data:       4 training images, 2 validation images, 2 classes\n" in err
    assert "a: net A, 3 epochs" in out
    assert "epochs = 3" in Path("a/recipe.toml").read_text()
    folder.rename(folder.with_name("moved"))
    assert refused(verydeep("resume", "a", "--epochs", "4"), "the data set of a", "--data")
    code, _, err = verydeep("resume", "a", "--epochs", "4", "--data", folder.with_name("moved"))
    assert (code, "epoch 4 of 4: " in err) == (0, True), err
    assert refused(verydeep("resume", "a", "--epochs", "2"), "epochs is 2")
    assert refused(verydeep("resume", "nowhere"), "nowhere is not a run directory")


def test_a_run_that_has_not_ended_is_marked_everywhere(verydeep, folder):
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    shutil.copytree("a", "b")
    recipe, log = Path("b/recipe.toml"), Path("b/log.jsonl")
    recipe.write_text(recipe.read_text().replace("epochs = 1", "epochs = 74"))
    log.write_text("\n".join(line for line in log.read_text().splitlines() if "reason" not in line))
    (one, two, both) = json.loads(verydeep("test", "a", "b", folder, "--json")[1])
    mark = "epoch 1 of 74"
    assert (one["unfinished"], two["unfinished"], both["unfinished"]) == ([None], [mark], [None, mark])
    assert re.search(rf"^A +b \({mark}\) +dense", verydeep("test", "b", folder)[1], re.MULTILINE)
    (one,) = json.loads(verydeep("test", "b/best.safetensors", folder, "--json")[1])
    assert (one["runs"], one["unfinished"]) == (["b/best.safetensors"], [None])
    image = folder / "val" / "cat" / "c.png"
    assert verydeep("predict", "b", image)[1].startswith(f"b ({mark}), dense, Q = 64, with mirror images\n")
    assert verydeep("predict", "a", image)[1].startswith("dense, Q = 64, with mirror images\n")
    (row,) = json.loads(verydeep("predict", "b", image, "--json")[1])
    assert row["unfinished"] == mark
    assert verydeep("report", "a", "b", "-o", "page.md")[0] == 0
    page = Path("page.md").read_text()
    assert f"# Training of a, b ({mark})" in page
    assert f"b: net A, {mark}, loss" in page
    assert f"b ({mark})" in Path("page-curves.svg").read_text()
    assert "Validation loss" in Path("page-curves.svg").read_text()


def test_convert_makes_a_weight_file_that_predict_takes(verydeep, tmp_path):
    torch.save(foreign_nets.torchvision_state(foreign_nets.made("B", side=2)), tmp_path / "vgg.pth")
    code, out, _ = verydeep("convert", "vgg.pth", "-o", "vgg.safetensors", "--half")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "vgg.safetensors: net B, 5 classes, crop 64, width 0.0625"
    assert lines[1].startswith("from vgg.pth, state dict of torchvision or timm, SHA-256 ")
    assert lines[2].startswith("folded: torchvision: (x - [123.675")
    write(tmp_path / "cat.png", 1, 80, 90)
    found = [
        json.loads(verydeep("predict", net, "cat.png", "--json")[1]) for net in ("vgg.safetensors", "vgg.pth")
    ]
    names = [[each["class"] for each in one[0]["classes"]] for one in found]
    assert names[0] == names[1], "converted or not, in half precision or not"
    code, out, _ = verydeep("convert", "vgg.pth", "-o", "vgg.safetensors", "--preprocessing", "caffe", "--json")
    assert json.loads(out)["provenance"]["folded"][0].startswith("caffe: ")
    code, out, _ = verydeep("convert", "vgg.safetensors", "-o", "features.safetensors", "--convolutions")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "features.safetensors: net B, a feature net, width 0.0625"
    assert lines[1].startswith("from vgg.safetensors, weight file of verydeep, SHA-256 ")
    assert lines[2] == "dropped: fc6, fc7, fc8"


def test_convert_refuses_in_a_line(verydeep, tmp_path):
    (tmp_path / "vgg.pth").write_bytes(b"PK\x03\x04 and no archive")
    refused(verydeep("convert", "vgg.pth", "-o", "a.safetensors"), "cannot read vgg.pth")
    refused(verydeep("convert", "gone.pth", "-o", "a.safetensors"), "gone.pth does not exist")
    torch.save(foreign_nets.torchvision_state(foreign_nets.made()), tmp_path / "vgg.pth")
    refused(
        verydeep("convert", "vgg.pth", "-o", "a.safetensors", "--preprocessing", "bgr"),
        "choose one of torchvision",
    )
    assert verydeep("convert", "vgg.pth", "-o", "a.safetensors")[0] == 0
    refused(
        verydeep("convert", "a.safetensors", "-o", "b.safetensors"),
        "is already a weight file or run of verydeep",
        "--half or --convolutions",
    )


def test_predict_names_what_it_cannot_read_and_goes_on(verydeep, folder):
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    code, out, err = verydeep("predict", "a", "gone.jpg", folder / "val" / "cat" / "c.png", "--json")
    assert code == 2
    assert err.splitlines()[-2:] == [
        "left out: gone.jpg: no such file",
        "verydeep: 1 of 2 photographs could not be read; they are named above",
    ]
    assert len(json.loads(out)) == 1


def test_predict_takes_folders_patterns_and_lists_and_keeps_their_order(verydeep, folder, monkeypatch):
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    c, d = f"{folder}/val/cat/c.png", f"{folder}/val/Dog/d.png"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{c}\n".encode())))
    code, out, err = verydeep("predict", "a", "-", f"{folder}/*/Dog/d.*", folder / "val", "--top", "1", "--csv")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["image"] for row in rows] == [c, d, d, c]
    assert [row["rank"] for row in rows] == ["1"] * 4
    assert rows[0] == rows[3]
    assert rows[1] == rows[2]

    wanted = ["--scales", "40", "48", "--method", "both"]
    (row,) = json.loads(verydeep("predict", "a", d, "--json", *wanted)[1])
    expected = {each["class"]: each["posterior"] for each in row["classes"]}
    found = list(csv.DictReader(io.StringIO(verydeep("predict", "a", d, "--csv", *wanted)[1])))
    assert {each["class"]: float(each["posterior"]) for each in found} == expected
    assert "dense & multi-crop, Q = 40, 48, with mirror images" in verydeep("predict", "a", d, *wanted)[1]
    assert refused(verydeep("predict", "a", d, "--csv", "--json"), "--json and --csv")
    assert refused(verydeep("predict", "a", d, "--jsn"), "unknown option: --jsn")
    assert refused(verydeep("predict", "a", "-x", "--csv"), "unknown option: -x")
    assert refused(verydeep("predict", "a", d, "--scales", "16"), "16 pixels")


def test_features_are_written_with_their_names(verydeep, folder):
    from safetensors.numpy import load_file

    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    words = ["features", "a", folder / "val", "gone.jpg", "--layers", "conv3_1", "fc7", "-o", "out.safetensors"]
    code, out, err = verydeep(*words)
    assert (code, "gone.jpg: no such file" in err, "1 of 3 photographs" in err) == (2, True, True)
    assert "whole photograph" in out
    assert {name: array.shape for name, array in load_file("out.safetensors").items()} == {
        "conv3_1": (2, 32),
        "fc7": (2, 8),
    }
    words = ["features", "a", folder, "--split", "train", "--maps", "-o", "maps.safetensors", "--layers", "fc8"]
    code, out, _ = verydeep(*words)
    assert (code, "fc8: 4 x 2 x 1 x 1" in out) == (0, True)
    assert load_file("maps.safetensors")["labels"].tolist() == [0, 0, 1, 1]
    assert refused(verydeep("features", "a", folder, "--layers", "fc7", "-o", "x.csv"), ".safetensors or .parquet")
    assert refused(verydeep("features", "a", folder, "--layers", "fc9", "-o", "x.safetensors"), "no layer 'fc9'")
    assert refused(verydeep("features", "a", "-o", "x.safetensors", "--layers", "fc7"), "no image was given")


def test_maps_are_drawn(verydeep, folder):
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    image = folder / "val" / "cat" / "c.png"
    code, out, _ = verydeep("map", "a", image, "-o", "map.png")
    assert (code, "cat" in out, "Dog" in out) == (0, True, True)
    with Image.open("map.png") as picture:
        assert picture.format == "PNG"
    assert refused(verydeep("map", "a", image, "-o", "map.jpg"), ".png")
    assert refused(verydeep("map", "a", "gone.jpg", "-o", "map2.png"), "gone.jpg: no such file")
    assert refused(verydeep("map", "a", image, "-o", "map2.png", "--scales", "16"), "16 pixels")


def test_other_files_are_said_to_be_left_out(verydeep, folder):
    (folder / "train" / "cat" / "notes.txt").write_text("nothing to see")
    _, _, err = verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    assert "files or folders left out: 1, such as" in err
    assert "notes.txt" in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_predict_waits_for_no_pipe(verydeep, folder):
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    os.mkfifo("pipe.jpg")
    code, out, err = verydeep("predict", "a", "pipe.jpg")
    assert (code, out) == (2, "")
    assert "pipe.jpg: is not a regular file" in err


def test_a_start_that_came_to_nothing_does_not_stand_in_the_way(verydeep, folder):
    words = ["train", folder, "--initialisation", "glorot", *SMALL, "--out", "a"]
    assert refused(verydeep(*words, "--learning-rate", "1e30"), "diverged")
    assert verydeep(*words)[0] == 0
    assert refused(verydeep(*words, "--learning-rate", "1e-3"), "another recipe", "learning_rate")


def test_ctrl_c_is_said(verydeep, folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("verydeep.inspection.survey", interrupt)
    code, _, err = verydeep("inspect", folder)
    assert code == 130
    assert "interrupted" in err


def test_too_little_memory_is_said_in_a_sentence(verydeep, folder):
    words = ["train", folder, "--crop", "32", "--workers", "0", "--fully-connected", str(10**13), "--out", "a"]
    assert refused(verydeep(*words), "not enough memory", "--fully-connected")


def test_the_recipe_of_another_run_with_other_flags(verydeep, folder):
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a", "--no-flip")
    code, _, err = verydeep(
        "train", folder, "--recipe", "a/recipe.toml", "--net", "B", "--start-from", "a", "--out", "b"
    )
    assert code == 0, err
    assert "conv1_1, conv2_1, conv3_1, conv3_2, fc6, fc7, fc8 from a" in err
    text = Path("b/recipe.toml").read_text()
    assert 'net = "B"' in text
    assert "flip = false" in text
    assert "learning rate 0.01 (Sect. 3.1)" in err
    assert "no mirror images" in verydeep("test", "b", folder, "--scales", "32")[1]


def test_a_start_from_the_same_net_is_at_a_lower_rate_and_is_not_needed_again(verydeep, folder, tmp_path):
    small = [*SMALL, "--initialisation", "glorot"]
    verydeep("train", folder, *small, "--out", "a")
    command = ["train", folder, *small, "--start-from", "a", "--out", "c"]
    code, _, err = verydeep(*command)
    assert code == 0, err
    assert "all layers from a" in err
    (tmp_path / "a").rename(tmp_path / "gone")
    code, _, err = verydeep(*command)
    assert code == 0, err
    assert "has ended" in err
    assert json.loads(Path("c/start.json").read_text())["rate"] == 0.001


def test_the_rate_of_a_start_is_the_same_from_flags_and_from_a_recipe(verydeep, folder):
    small = [*SMALL, "--initialisation", "glorot"]
    verydeep("train", folder, *small, "--out", "a")
    by_flags = verydeep("train", folder, *small, "--start-from", "a", "--out", "b")[2]
    by_recipe = verydeep("train", folder, "--recipe", "a/recipe.toml", "--start-from", "a", "--out", "c")[2]
    for said in (by_flags, by_recipe):
        assert "learning rate 0.001: it starts from a net of its own configuration" in said
    given = verydeep("train", folder, *small, "--start-from", "a", "--learning-rate", "0.01", "--out", "d")[2]
    assert "learning rate 0.01, as given" in given


def test_a_start_is_the_weights_that_it_names_however_its_path_is_spelled(verydeep, folder, tmp_path):
    small = [*SMALL, "--initialisation", "glorot"]
    verydeep("train", folder, *small, "--out", "a")
    verydeep("train", folder, *small, "--seed", "1", "--out", "other")
    command = ["train", folder, *small, "--out", "c", "--start-from"]
    assert verydeep(*command, "a")[0] == 0
    for spelled in ("./a/", "a/weights.safetensors", tmp_path / "a"):
        code, _, err = verydeep(*command, spelled)
        assert (code, "has ended" in err) == (0, True), err
    assert refused(verydeep(*command, "other"), "start_from: other, SHA-256", "(there: a, SHA-256")
    assert refused(verydeep(*command[:-1]), "start_from: None (there: a)")
    shutil.copy("other/weights.safetensors", "a/weights.safetensors")
    code, _, err = verydeep(*command, "a")
    assert code == 0
    assert "has other weights now than this run started from" in err


def test_another_recipe_in_a_run_directory_is_refused(verydeep, folder):
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    again = verydeep("train", folder, "--initialisation", "he", *SMALL, "--out", "a")
    assert refused(again, "initialisation: he (there: glorot)", "--out")


def test_other_classes_than_the_nets_are_refused_with_the_first_difference(verydeep, folder):
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    for split in ("train", "val"):
        (folder / split / "cat").rename(folder / split / "lynx")
    assert refused(verydeep("test", "a", folder, "--scales", "32"), '"lynx"', '"cat"')
    for split in ("train", "val"):
        (folder / split / "lynx").rename(folder / split / "cat")
        write(folder / split / "zebra" / "z.png")
    assert refused(verydeep("test", "a", folder, "--scales", "32"), "3 classes", "2", '"zebra"')


def test_unreadable_images_stop_a_training_unless_they_are_skipped(verydeep, folder):
    (folder / "train" / "cat" / "a.JPG").write_bytes(b"")
    (folder / "val" / "Dog" / "broken.jpg").write_text("no image")
    command = ["train", folder, "--initialisation", "glorot", *SMALL, "--out", "a"]
    assert refused(verydeep(*command), "a.JPG", "empty", "--skip-unreadable")
    code, _, err = verydeep(*command, "--skip-unreadable")
    assert code == 0, err
    assert "a.JPG" in err
    assert "1 of 4 images left out" in err
    assert "broken.jpg" in err

    code, out, _ = verydeep("inspect", folder)
    assert code == 1
    assert "a.JPG" in out
    rows = {row["split"]: row for row in json.loads(verydeep("inspect", folder, "--json")[1])}
    assert rows["train"]["counts"] == {"Dog": 2, "cat": 2}
    (line,) = rows["val"]["unreadable"]
    assert "broken.jpg" in line


def test_inspect_lists_classes_and_what_is_wrong(verydeep, folder):
    data = (folder / "train/cat/a.JPG").read_bytes()
    (folder / "val/cat/again.jpg").write_bytes(data)
    write(folder / "train/Dog/strip.png", 0, 2, 90)
    write(folder / "train/Dog/more/1.png")
    code, out, _ = verydeep("inspect", folder)
    assert code == 0
    assert re.search(r"cat\W+2\W+2\W", out)
    assert re.search(r"Dog\W+3\W+1\W", out)
    for title, line in (
        ("Suspicious", "strip.png: 90 x 2 pixels"),
        ("In train and in val", f"again.jpg: has the same content as {folder}/train/cat/a.JPG"),
        ("Other files, left out", "train/Dog/more (images below it: 1)"),
    ):
        assert re.search(rf"{title}:\n.*{re.escape(line)}", out)
    train, val = json.loads(verydeep("inspect", folder, "--json")[1])
    assert "strip.png" in train["suspicious"][0]
    assert "again.jpg" in val["also_in_train"][0]


def test_the_digits_need_no_download(verydeep):
    rows = json.loads(verydeep("inspect", "digits", "--json")[1])
    assert [(row["images"], len(row["counts"])) for row in rows] == [(1437, 10), (360, 10)]


TINY_PRESET = """
hold_out = 0.25
grid = 2
controls = false
recipe = { crop = 32, width = 0.0625, fully_connected = 8, batch = 8, initialisation = "glorot" }
scales = { 224 = 32, 256 = 33, 288 = 34, 352 = 35, 384 = 36, 416 = 37, 512 = 38 }
[schedules]
random = { epochs = 1 }
deeper = { epochs = 1 }
fine-tuning = { epochs = 1 }
jittering = { epochs = 1 }
"""


@pytest.fixture
def tiny_preset(monkeypatch):
    from verydeep.experiments import experiment
    from verydeep.experiments.presets import parsed

    monkeypatch.setattr(experiment, "preset", lambda name: parsed(name, TINY_PRESET))


def pictures(root):
    for split, count in (("train", 4), ("val", 3)):
        for name in ("cat", "dog"):
            for number in range(count):
                write(root / split / name / f"{number}.png", number, 40, 50)
    return root


def test_reproduce_prints_tables_findings_and_the_report(verydeep, tiny_preset, tmp_path, monkeypatch):
    monkeypatch.setattr(terminal, "PIPE_WIDTH", 80)
    data = pictures(tmp_path / "pictures")
    words = ["reproduce", "table5", "--data", data, "--preset", "digits", "--out", "out"]
    code, out, err = verydeep(*words)
    assert code == 0, err
    assert "Table 5" in out
    assert "Table 3" not in out
    assert "24.8" in out  # the paper's error
    assert "undecided" in out
    assert out.splitlines()[-1] == "report: out/report.html"
    assert max(map(cell_len, out.splitlines())) <= 80
    assert re.search(r"\[7/7.*\] E-jitter, seed 0: testing, 6 passes", err)
    assert (tmp_path / "out" / "report.html").exists()
    code, out, _ = verydeep(*words, "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["key"] == "D-jitter@256,384,512 dense"


def test_reproduce_shows_its_plan_and_does_nothing(verydeep, tiny_preset, tmp_path, monkeypatch):
    monkeypatch.setattr(terminal, "PIPE_WIDTH", 80)
    data = pictures(tmp_path / "pictures")
    words = ["reproduce", "--data", data, "--preset", "digits", "--out", "out", "--seeds", "2", "--dry-run"]
    code, out, err = verydeep(*words)
    assert code == 0, err
    assert "D-jitter-fc," in out
    assert "seed 1" in out
    assert max(cell_len(line) for line in out.splitlines() if not line.startswith("in all")) <= 80
    assert "left to do:" in out
    assert not (tmp_path / "out").exists()
    steps = json.loads(verydeep(*words, "--json")[1])["steps"]
    assert len(steps) == 2 * 14
    assert all(step["state"] == "to do" for step in steps)


def test_reproduce_refuses_in_one_line(verydeep, tiny_preset, tmp_path):
    data = pictures(tmp_path / "pictures")
    assert refused(verydeep("reproduce", "table9", "--data", data, "--preset", "digits"), "table9")
    assert refused(verydeep("reproduce", "--data", data, "--preset", "cifar"), "cifar")
    assert refused(verydeep("reproduce", "--data", data, "--preset", "digits", "--seeds", "0"), "seeds")
    assert refused(verydeep("reproduce", "--data", "nowhere", "--preset", "digits"), "nowhere")
    assert not (tmp_path / "runs").exists()


def test_report(verydeep, folder):
    assert verydeep("train", folder, *SMALL, "--out", "a")[0] == 0
    code, out, _ = verydeep("report", "a", "-o", "page.html")
    assert (code, out) == (0, "page.html\n")
    assert "<title>Training of a</title>" in Path("page.html").read_text(encoding="utf-8")
    refused(verydeep("report", "a"), "-o")
    refused(verydeep("report"), "none was given")
    Path("notes.md").write_text("mine", encoding="utf-8")
    refused(verydeep("report", "a", "-o", "notes.md"), "notes.md", "move it away")


def keys(data):
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from () if key == "counts" else keys(value)  # the keys are class names
    elif isinstance(data, list):
        for value in data:
            yield from keys(value)


def test_json_has_names_of_one_kind_and_tables_fit_80_columns(verydeep, folder, monkeypatch):
    monkeypatch.setattr(terminal, "PIPE_WIDTH", 80)
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    shutil.copytree("a", "runs/jitter-and-more")
    for words in (
        ["configurations"],
        ["configurations", "E"],
        ["engine", "E"],
        ["inspect", folder],
        ["test", "a", "runs/jitter-and-more", folder, "--method", "both"],
        ["predict", "a", folder / "val" / "cat" / "c.png"],
    ):
        rows = json.loads(verydeep(*words, "--json")[1])
        found = list(keys(rows))
        assert found
        assert [key for key in found if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", key)] == []
        out = verydeep(*words)[1]
        table = [line for line in out.splitlines() if not line.startswith("(")]  # below the table are sentences
        assert max(map(cell_len, table)) <= 80
        numbers = [row[name] for row in rows for name in ("parameters", "multiply_adds") if name in row]
        assert all(f"{number:,}" in out for number in numbers)


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux may names be any bytes")
def test_names_that_are_not_utf_8(verydeep, tmp_path):
    """A class, a photograph and the folder of the data set, as after unpacking an archive in another encoding."""
    data = tmp_path / "p\udce9ts"
    for split in ("train", "val"):
        for name in ("caf\udce9", "dog"):
            write(data / split / name / "\udcff.png", len(name), 40, 50)
    train = ["train", data, "--initialisation", "glorot", *SMALL, "--out", "a"]
    code, out, err = verydeep(*train)
    assert code == 0, err
    assert r"p\xe9ts" in out
    code, _, err = verydeep(*train)
    assert (code, "has ended" in err) == (0, True), err
    assert verydeep("test", "a", data)[0] == 0
    photograph = data / "val" / "dog" / "\udcff.png"
    (row,) = json.loads(verydeep("predict", "a", photograph, "--json")[1])
    assert row["image"] == str(photograph)
    assert {each["class"] for each in row["classes"]} == {r"caf\xe9", "dog"}
    assert r"dog/\xff.png" in verydeep("predict", "a", photograph)[1].replace("\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux may names be any bytes")
def test_runs_in_folders_that_are_not_utf_8(verydeep, folder, tmp_path, monkeypatch):
    """Weights cannot be read back from such a path. A run there is refused; below it, relative paths work."""
    train = ["train", folder, "--initialisation", "glorot", *SMALL]
    assert refused(verydeep(*train, "--out", "caf\udce9"), r"caf\xe9: ", "not UTF-8")
    assert not Path("caf\udce9").exists()
    place = tmp_path / "p\udce9"
    place.mkdir()
    monkeypatch.chdir(place)
    assert verydeep(*train, "--out", "a")[0] == 0
    for _ in range(2):
        code, _, err = verydeep(*train, "--out", "b", "--start-from", "a")
        assert code == 0, err
    assert "has ended" in err
    assert refused(verydeep(*train, "--out", "c", "--start-from", "../p\udce9/a"), "UTF-8")


def test_a_name_that_the_output_cannot_encode_loses_no_result(verydeep, folder, monkeypatch):
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    named = [shutil.copy(folder / "val" / "cat" / "c.png", name) for name in ("a.png", "写.png", "b.png")]
    held = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(held, "ascii"))
        assert verydeep("predict", "a", *named)[0] == 0
        out = held.getvalue()
    assert all(name in out for name in (b"a.png", rb"\u5199.png", b"b.png"))


def test_names_reach_the_terminal_neither_as_markup_nor_as_escape_sequences(verydeep, folder):
    for split in ("train", "val"):
        (folder / split / "cat").rename(folder / split / "[red]cat\x1b[2J")
    (folder / "train" / "Dog" / "\x1b]0;x\x07.jpg").write_text("no image")
    code, out, err = verydeep("inspect", folder)
    assert (code, "\x1b" in out + err) == (1, False)
    assert r"\x1b]0;x\x07.jpg" in out
    command = ["train", folder, "--initialisation", "glorot", *SMALL, "--out", "a"]
    assert "\x1b" not in verydeep(*command)[2]
    code, out, err = verydeep(*command, "--skip-unreadable")
    assert (code, "\x1b" in out + err) == (0, False)
    _, out, err = verydeep("predict", "a", folder / "val" / "Dog" / "d.png", "\x1b[2J.png")
    assert r"[red]cat\x1b[2J" in out
    assert "\x1b" not in out + err


def test_what_the_system_refuses_is_one_line(verydeep, folder, tmp_path):
    verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")
    os.symlink("loop", "loop")
    os.symlink("x.jpg", folder / "train" / "cat" / "x.jpg")
    for name, words in (("x" * 300, "too long"), ("loop", "links")):
        for command in (
            ["inspect", name],
            ["test", name, folder],
            ["predict", name, "a.jpg"],
            ["train", folder, *SMALL, "--skip-unreadable", "--recipe", name],
            ["train", folder, *SMALL, "--skip-unreadable", "--out", "b", "--start-from", name],
            ["report", name, "-o", "page.html"],
            ["report", "a", "-o", f"{name}/page.html"],
        ):
            assert refused(verydeep(*command), name, words)
        code, out, err = verydeep("predict", "a", name)
        assert (code, out, name in err, words in err) == (2, "", True, True)
    assert refused(verydeep("train", folder, *SMALL, "--skip-unreadable", "--out", "x" * 300), "too long")
    assert refused(verydeep("report", "a", "-o", "x" * 300 + ".html"), "too long")
    assert refused(verydeep("train", folder, *SMALL, "--out", "c"), "x.jpg", "links", "--skip-unreadable")


def test_a_training_ends_though_nobody_can_be_told(verydeep, folder, monkeypatch):
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", pipe)
        assert verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")[0] == 0
    assert (Path("a") / "weights.safetensors").exists()
    assert "has ended" in verydeep("train", folder, "--initialisation", "glorot", *SMALL, "--out", "a")[2]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("[pair.cc:553] Connection closed by peer [::1]:1"), "another rank has stopped; see its"),
        (DistBackendError("NCCL error\nncclRemoteError: a remote process exited"), "another rank has stopped"),
        (
            DistBackendError("NCCL error in: a.cpp\nx"),
            "cannot exchange data with the other ranks (NCCL error in",
        ),
        (DistNetworkError("failed to recv, got 0 bytes"), "(failed to recv, got 0 bytes); if another rank has"),
        (DistStoreError(""), "(DistStoreError); if another rank has stopped, see its message"),
    ],
)
def test_the_loss_of_a_rank_is_one_line_on_the_others(verydeep, monkeypatch, error, line):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(cli, "app", failing)
    with pytest.raises(type(error)):  # without other ranks it is an error like any other
        verydeep("train")
    monkeypatch.setenv("RANK", "1")
    assert refused_on_rank(verydeep("train"), line)


def refused_on_rank(result, *words):
    code, _, err = result
    last = err.strip().splitlines()[-1]
    assert (code, last.startswith("verydeep (rank 1): ")) == (2, True), err
    assert all(word in last for word in words), last
    return True


def test_a_precision_that_the_device_lacks_is_refused_before_any_work(verydeep):
    for command in (("train", "digits"), ("reproduce", "--data", "digits", "--preset", "digits")):
        assert refused(verydeep(*command, "--device", "cpu", "--precision", "tf32"), "tf32", "the device is cpu")


def test_resume_is_deterministic_if_the_run_was(verydeep):
    few = ["--batch", "512", "--initialisation", "glorot", "--deterministic", "--out", "a"]
    assert verydeep("train", "digits", *SMALL[:6], "--epochs", 1, *few)[0] == 0
    assert verydeep("resume", "a", "--epochs", 2)[0] == 0
    assert verydeep("resume", "a", "--epochs", 3, "--no-deterministic")[0] == 0
    starts = json.loads(Path("a/environment.json").read_text())
    assert [start["computing"]["deterministic"] for start in starts] == [True, True, False]
    assert {start["computing"]["precision"] for start in starts} == {"fp32"}
