"""A net is described in full, whatever file it is in and whatever its names contain."""

import hashlib
import json
import re
import unicodedata
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

import foreign_nets
import verydeep
from synthetic import refusal
from verydeep import cli, terminal, weights
from verydeep.card import Card
from verydeep.configurations import Architecture
from verydeep.description import Description
from verydeep.network import ConvNet

SMALL = {"crop": 32, "width": 0.125, "fully_connected": 8}


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = ConvNet("D", ["cat", "dog", "über"], **SMALL).eval()
    made.mean.copy_(torch.tensor([1.0, 2.5, 3.0]))
    made.card = replace(made.card, training_scale=(64, 128), flip=False, rescaling="bicubic")
    return made


@pytest.fixture
def described(monkeypatch, capsys):
    """A function that runs `verydeep describe` for 80 columns; returns the exit code and what was printed."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["verydeep", "describe", *map(str, words)])
        monkeypatch.setattr(terminal, "PIPE_WIDTH", 80)
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out if code == 0 else said.err

    return run


def joined(out):
    """The values of a table by their names, without the breaks of lines."""
    found, name = {}, ""
    at = re.search(r"^net +", out, re.MULTILINE).end() - re.search(r"^net +", out, re.MULTILINE).start()
    for line in out.splitlines()[3:]:
        name = line[:at].strip() or name
        found[name] = f"{found.get(name, '')} {line[at:]}".strip()
    return found


def test_a_weight_file(net, tmp_path, described):
    path = tmp_path / "net.safetensors"
    for half, kind in ((False, "float32"), (True, "float16")):
        verydeep.save(net, path, half=half)
        found = verydeep.describe(path)
        assert found.card == net.card
        assert found.mean == (1.0, 2.5, 3.0)
        assert (found.file.type, found.file.size) == (kind, path.stat().st_size)
        assert found.file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        code, out = described(path)
        assert code == 0
        shown = joined(out)
        assert shown["net"] == "D (VGG-16), 16 weight layers"
        assert shown["Table 1"].startswith("3-8 3-8 | 3-16 3-16 | ")
        assert shown["Table 1"].endswith("| FC-8 FC-8 FC-3")
        assert shown["parameters"] == f"{sum(each.numel() for each in net.parameters()):,}"
        assert shown["classes"] == "3: cat, dog, über"
        assert shown["mean colour"] == "1.00, 2.50, 3.00"
        assert shown["training scale S"] == "64 to 128"
        assert shown["mirror images"] == "no"
        assert shown["rescaling"] == "bicubic"
        assert shown["test scale Q"] == "96 (dense), 96 (multi-crop)"
        assert shown["format"].startswith(f"weight file of verydeep, {kind}, ")
        data = json.loads(described(path, "--json")[1])
        assert data["file"]["type"] == kind
        assert data["class_names"] == ["cat", "dog", "über"]
        assert data["architecture"]["configuration"] == "D"


def test_a_run_and_its_best_epoch(folder, tmp_path, described):
    recipe = verydeep.Recipe(net="A", batch=4, initialisation="glorot", epochs=1, **SMALL)
    run = verydeep.train(folder, recipe, out=tmp_path / "run", workers=0)
    for source in (run, tmp_path / "run", tmp_path / "run" / weights.BEST_FILE_NAME):
        facts = verydeep.describe(source).facts()
        assert facts["trained on"] == ("pets/train, 4 images",)
        assert facts["epochs"] == ("1",)
        assert facts["started from"] == ("random weights",)
        assert re.fullmatch(r"\d+\.\d\d% \(top-1\), .+", facts["validation error"][0])
        assert "learning_rate 0.0" in facts["recipe"][0]
    assert verydeep.describe(run).unfinished == ""
    (tmp_path / "run" / "log.jsonl").write_text("")
    assert "not ended" in verydeep.describe(run).facts()["training"][0]
    code, out = described(tmp_path / "run")
    assert code == 0
    assert max(map(cell_len, out.splitlines())) <= 80


def test_a_feature_net(net, tmp_path, described):
    verydeep.save(net, tmp_path / "net.safetensors")
    verydeep.convert(tmp_path / "net.safetensors", tmp_path / "conv.safetensors", convolutions=True)
    shown = joined(described(tmp_path / "conv.safetensors")[1])
    assert shown["net"] == "D (VGG-16), 13 weight layers; a feature net: convolutions only"
    assert shown["classes"] == "none: it has features, but no class scores"
    assert shown["dropped layers"] == "fc6, fc7, fc8"
    assert shown["made from"] == "net.safetensors, weight file of verydeep"
    markdown = verydeep.describe(tmp_path / "conv.safetensors").markdown("owner/name")
    assert "pipeline_tag: image-feature-extraction" in markdown
    assert "net.features(images" in markdown


def test_another_systems_file_is_described_as_load_would_load_it(tmp_path, described):
    path = tmp_path / "vgg.pth"
    torch.save(foreign_nets.torchvision_state(foreign_nets.made("B", side=2)), path)
    found = verydeep.describe(path)
    assert found.card == verydeep.load(path).card
    assert found.mean == pytest.approx((123.675, 116.28, 103.53))
    shown = joined(described(path)[1])
    assert shown["format"] == f"a file of torch.save, {path.stat().st_size:,} bytes"
    assert shown["made from"] == "vgg.pth, state dict of torchvision or timm"
    assert (
        shown["SHA-256 of that file"]
        == hashlib.sha256(path.read_bytes()).hexdigest()[:58]
        + " "
        + (hashlib.sha256(path.read_bytes()).hexdigest()[58:])
    )
    assert shown["folded"].startswith("torchvision: (x - [123.675, 116.28, 103.53])")


def test_a_net_in_memory(net):
    found = verydeep.describe(net)
    assert (found.card, found.file) == (net.card, None)
    assert "SHA-256" not in found.facts()


def test_every_field_of_a_provenance_is_shown_once(net):
    provenance = {
        "source": "a.h5",
        "licence": "CC BY 4.0",
        "errors": {"top-1": 0.285, "protocol": "dense"},
        "surprise": ["x", 1, None],
        "origin": {"data": "ILSVRC", "images": 1281167, "epochs": 74, "origin": {"note": "first"}},
    }
    net.card = replace(net.card, provenance=provenance)
    found = verydeep.describe(net)
    facts = found.facts()
    assert found.licence == "CC BY 4.0"
    assert facts["made from"] == ("a.h5",)
    assert facts["errors"] == ("top-1 0.285, protocol dense",)
    assert facts["surprise"] == ("x 1 none",)
    assert facts["origin: trained on"] == ("ILSVRC, 1,281,167 images",)
    assert facts["origin: origin: note"] == ("first",)
    assert found.data()["provenance"] == provenance


def test_a_thousand_classes_take_no_more_room_than_six(described, tmp_path):
    verydeep.save(ConvNet("A", [f"class number {n}" for n in range(1000)], **SMALL), tmp_path / "a.safetensors")
    code, out = described(tmp_path / "a.safetensors")
    assert code == 0
    assert max(map(cell_len, out.splitlines())) <= 80
    names = ", ".join(f"class number {n}" for n in range(5))
    assert joined(out)["classes"] == f"1,000: {names}, ..."


def test_odd_class_names_reach_neither_terminal_nor_page_as_markup(described, tmp_path):
    odd = ["\x1b[31mred", "a|b", "[link](http://x)", "<script>", "\u202ertl", "---\n---", "日本" * 100]
    verydeep.save(ConvNet("A", odd, **SMALL), tmp_path / "a.safetensors")
    code, out = described(tmp_path / "a.safetensors")
    assert code == 0
    assert out.replace("\n", "").isprintable()
    assert max(map(cell_len, out.splitlines())) <= 80
    code, markdown = described(tmp_path / "a.safetensors", "--markdown")
    assert markdown.replace("\n", "").isprintable()
    assert r"\\x1b\[31mred" in markdown
    assert r"a\|b" in markdown
    assert "](http" not in markdown.partition("arxiv.org")[2].replace("](https://arxiv", "")
    assert "<script" not in markdown.replace(r"\<script", "")


text = st.text(max_size=30)


@settings(max_examples=200, deadline=None)
@given(names=st.lists(text, min_size=1, max_size=7), licence=text, data=text)
def test_the_metadata_of_a_model_card_parses_whatever_the_names_are(names, licence, data):
    yaml = pytest.importorskip("yaml")
    card = Card(
        Architecture("A", classes=len(names), **SMALL),
        tuple(names),
        provenance={"licence": licence, "data": data, data: names},
    )
    markdown = Description(card, (1.0, 2.0, 3.0), None).markdown("owner/name")
    head, found, body = markdown.partition("\n---\n\n# owner/name\n")
    assert found
    assert head.startswith("---\n")
    parsed = yaml.safe_load(head.removeprefix("---\n"))
    assert (parsed["library_name"], parsed["pipeline_tag"]) == ("verydeep", "image-classification")
    assert parsed["tags"] == ["vgg", "image-classification"]
    assert ("license" in parsed) == bool(licence.strip())
    rows = [line for line in body.splitlines() if line.startswith("| ") and line != "| | |"]
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3 for row in rows), "a name has broken a table"
    assert not {"Cc", "Zl", "Zp", "Cs"} & set(map(unicodedata.category, markdown.replace("\n", "")))


def test_licences_are_named_as_the_hub_names_them(net):
    yaml = pytest.importorskip("yaml")
    for licence, license, name in (
        ("BSD-3-Clause", "bsd-3-clause", None),
        ("CC-BY-4.0", "cc-by-4.0", None),
        ('as you like: "it\'s free" #1', "other", 'as you like: "it\'s free" #1'),
    ):
        net.card = replace(net.card, provenance={"licence": licence})
        parsed = yaml.safe_load(verydeep.describe(net).markdown().split("---\n")[1])
        assert (parsed["license"], parsed.get("license_name")) == (license, name)


def test_what_cannot_be_described_is_refused_in_one_line(net, tmp_path, described):
    assert "does not exist" in refusal(verydeep.describe, tmp_path / "gone")
    verydeep.save(net, tmp_path / "a.safetensors")
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "a.safetensors").write_bytes(content)
    code, said = described(tmp_path / "a.safetensors")
    assert code == 2
    assert "is damaged" in said
    assert "exclude each other" in described(tmp_path / "a.safetensors", "--json", "--markdown")[1]
    nested = {}
    for _ in range(60):
        nested = {"origin": nested}
    net.card = replace(net.card, provenance=nested)
    assert "nested more than 50 levels deep" in refusal(verydeep.describe, net)
