"""What all exports have in common: endings, failures, and nets that stay as they are."""

import json
from contextlib import suppress

import pytest
import torch

import verydeep
from synthetic import refusal
from verydeep import cli
from verydeep.exports import exporting, missing


def test_the_ending_decides(small, tmp_path):
    for name in ("net", "net.txt", "net.ONNX", "net.onnx.gz"):
        assert "must end in .onnx, .pt2, .pth, .pt" in refusal(verydeep.export, small(), tmp_path / name)
    for name in ("net.pt2", "net.pth"):
        message = refusal(verydeep.export, small(), tmp_path / name, calibrate=tmp_path)
        assert "only .onnx files can be calibrated for int8" in message
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_refused(small, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.onnx").mkdir()
    for name in ("file/net.onnx", "folder.onnx"):
        assert "cannot write" in refusal(verydeep.export, small(), tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.onnx"]


def test_the_net_stays_as_it_is(small, tmp_path):
    net = small("A").to(torch.bfloat16).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    verydeep.export(torch.compile(net), tmp_path / "net.onnx")
    verydeep.export(net, tmp_path / "net.pth")
    assert net.training
    assert net.conv1_1.weight.dtype == net.fc8.bias.dtype == torch.bfloat16
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(tensor.dtype == torch.float32 for tensor in torch.load(tmp_path / "net.pth").values())


def test_nets_with_other_layers_are_refused(small, tmp_path):
    net = small("A")
    net.relu1_1 = torch.nn.GELU()
    for name in exporting.FORMATS:
        assert "relu1_1 is GELU" in refusal(verydeep.export, net, tmp_path / f"net{name}")


def test_missing_packages(small, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "installed", lambda package: False)
    notes = verydeep.export(small(), tmp_path / "net.onnx").notes
    assert notes[-1] == "not checked: onnxruntime is not installed (pip install 'verydeep[onnx]')"

    def gone(name):
        raise ImportError(name)

    monkeypatch.setattr(missing, "import_module", gone)
    message = refusal(verydeep.export, small(), tmp_path / "other.onnx")
    assert message == "this export needs onnx; run pip install 'verydeep[onnx]'"
    verydeep.export(small(), tmp_path / "net.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.pth"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def command(*words):
        monkeypatch.setattr("sys.argv", ["verydeep", "export", *map(str, words)])
        with suppress(SystemExit):
            cli.main()
        return capsys.readouterr()

    return command


def test_the_command(run, small, tmp_path):
    verydeep.save(small("A"), "net.safetensors")
    said = run("net.safetensors", "-o", "new/net.onnx").out.splitlines()
    assert said[0].startswith("new/net.onnx: ONNX, operator set 13, ")
    assert said[1] == "input: images, N x 3 x H x W, float32, RGB in 0..255; H and W at least 32"
    assert said[2] == "output: posteriors, N x 5; score_map, N x 5 x h x w"
    assert "at 1 x 32 x 32, 1 x 64 x 128, 2 x 96 x 73: largest relative difference" in said[3]
    found = json.loads(run("net.safetensors", "-o", "net.pth", "--json").out)
    assert found["path"] == "net.pth"
    assert found["format"] == "state dict of torchvision"
    assert found["check"] is None
    assert "net.xyz: the name of an exported file must end in" in run("net.safetensors", "-o", "net.xyz").err


def test_the_command_for_int8(run, small, folder, tmp_path):
    verydeep.save(small("A"), "net.safetensors")
    assert "at least 10 photographs" in run("net.safetensors", "-o", "net.onnx", "--calibrate", folder / "val").err
    for number in range(2):
        for path in sorted(folder.rglob("*.*")):
            path.with_name(f"{number}-{path.name}").write_bytes(path.read_bytes())
    words = ("net.safetensors", "-o", "net.onnx", "--calibrate", folder)
    said = run(*words).out
    assert "calibrated with 20 photographs, compared on 4 others; centre crop of 32 x 32, Q = 64" in said
    assert "difference: mean absolute, of a posterior" in said
    found = json.loads(run(*words, "--json").out)["quantised"]
    assert (found["calibrated"], found["compared"]) == (20, 4)
