"""`verydeep weights`, and names where other commands take a run or a file."""

import hashlib
import json

import pytest
import torch
from rich.cells import cell_len

import foreign_nets
from synthetic import write
from verydeep.published.download import place
from verydeep.published.registry import Entry, registry


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file of torchvision that is published as test/vgg, at an address where nothing is."""
    path = tmp_path / "mine.pth"
    torch.save(foreign_nets.torchvision_state(foreign_nets.made("A", width=32, classes=1000)), path)
    of = Entry(
        name="test/vgg",
        net="A",
        address="http://127.0.0.1:9/vgg.pth",
        algorithm="md5",
        hash=hashlib.md5(path.read_bytes()).hexdigest(),
        hash_source="this test",
        licence="CC BY 4.0",
        licence_source="this test",
        preprocessing="torchvision",
        error=(30.0, 10.0),
        protocol="centre crop",
        errors_source="this test",
    )
    monkeypatch.setitem(registry(), of.name, of)
    return path


def test_the_list_fits_80_columns_and_names_licence_and_protocol(verydeep, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = verydeep("weights")
    assert code == 0
    assert max(map(cell_len, out.splitlines())) <= 80
    for each in registry().values():
        assert f"{each.name} " in out
        assert f"licence {each.licence}" in out
    row = next(line for line in out.splitlines() if line.startswith("torchvision/vgg16 "))
    assert row.split() == ["torchvision/vgg16", "D", "553", "28.408", "9.618", "no"]
    assert "centre crop 224 at Q = 256" in " ".join(out.split())


def test_the_list_as_json(verydeep):
    found = json.loads(verydeep("weights", "--json")[1])
    assert [each["name"] for each in found] == list(registry())
    one = next(each for each in found if each["name"] == "authors/vgg19")
    assert (one["licence"], one["preprocessing"], one["error"]) == ("CC BY 4.0", "caffe", [25.5, 8.0])
    assert one["dense"][1]["scales"] == [256, 384, 512]
    assert one["path"] is None
    assert one["class_order"].startswith("the 1000 classes of ILSVRC-2012")


def test_one_entry_with_all_that_is_known(verydeep):
    _, out, _ = verydeep("weights", "keras/vgg16")
    for words in (
        "same weights   authors/vgg16",
        "553,467,096 bytes",
        "MD5 64373286793e3c8b2b4e3219cbf3544b (from: Keras",
        "CC BY 4.0",
        "top-1 28.732%, top-5 9.95%",
        "should give top-1 24.8%, top-5 7.5% at Q = 256, 384, 512",
        "(not downloaded)",
    ):
        assert words in out
    assert "dense testing  unknown" in verydeep("weights", "torchvision/vgg16")[1]
    assert "SHA-256 8a719046..." in verydeep("weights", "torchvision/vgg11")[1]


def test_a_file_that_one_has_is_enough(verydeep, mine):
    code, _, err = verydeep("weights", "test/vgg", "--download")
    assert code == 2
    assert "cannot download test/vgg from http://127.0.0.1:9/vgg.pth (Connection refused)" in err
    of = registry()["test/vgg"]
    assert verydeep("weights", "test/vgg", "--from", mine)[:2] == (0, f"test/vgg: {place(of)}\n")
    assert json.loads(verydeep("weights", "test/vgg", "--json")[1])["path"] == str(place(of))


def test_commands_take_names(verydeep, mine, tmp_path):
    verydeep("weights", "test/vgg", "--from", mine)
    write(tmp_path / "cat.jpg", 0, 64, 64)
    code, out, err = verydeep("predict", "test/vgg", "cat.jpg", "--scales", "32", "--top", "1000")
    assert code == 0, err
    assert "n01440764 (tench, Tinca tinca)" in out
    code, out, _ = verydeep("convert", "test/vgg", "-o", "vgg.safetensors")
    assert code == 0
    assert "published as test/vgg, licence: CC BY 4.0" in out


def test_a_training_starts_from_a_name_and_resumes(verydeep, mine, folder):
    verydeep("weights", "test/vgg", "--from", mine)
    words = (
        "train",
        folder,
        "--net",
        "A",
        "--start-from",
        "test/vgg",
        "--out",
        "run",
        "--workers",
        0,
        "--batch",
        4,
    )
    code, out, err = verydeep(*words, "--epochs", 1)
    assert code == 0, err
    assert "from test/vgg" in out + err
    code, _, err = verydeep("resume", "run", "--epochs", 2)
    assert code == 0, err
    registry().pop("test/vgg")  # an existing run no longer needs it
    assert verydeep("resume", "run", "--epochs", 3)[0] == 0


def test_an_unknown_name(verydeep):
    code, _, err = verydeep("weights", "timm/vgg16")
    assert (code, err) == (
        2,
        "verydeep: no published weights are called timm/vgg16; did you mean timm/vgg16.tv_in1k?\n",
    )
