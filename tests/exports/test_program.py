"""Programs of torch.export compute without this package what the net computes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import verydeep
from synthetic import refusal
from verydeep.exports import program

ALONE = """
import sys
sys.modules["verydeep"] = None
import torch
found = []
for name in ("A-LRN", "C"):
    extra = {"card.json": ""}
    program = torch.export.load(f"{name}.pt2", extra_files=extra).module()
    found.append((extra["card.json"], [program(images) for images in torch.load("images.pt")]))
torch.save(found, "found.pt")
"""


@pytest.mark.skipif(torch.__version__ < program.OLDEST, reason="this torch is too old")
def test_programs_compute_without_this_package(small, images, tmp_path):
    nets = [small("A-LRN", 5), small("C", 0)]
    for net in nets:
        path = tmp_path / f"{net.configuration.name}.pt2"
        assert verydeep.export(net, path).check.difference < 1e-5
        assert str(Path(verydeep.__file__).parent).encode() not in path.read_bytes()
    batches = [images(1, 32, 32), images(3, 97, 70), images(2, 64, 32)]
    torch.save(batches, tmp_path / "images.pt")
    subprocess.run([sys.executable, "-c", ALONE], check=True, cwd=tmp_path)
    for net, (card, found) in zip(nets, torch.load(tmp_path / "found.pt"), strict=True):
        assert json.loads(card)["architecture"]["configuration"] == net.configuration.name
        for batch, outputs in zip(batches, found, strict=True):
            if net.classes:
                wanted = {"posteriors": net(batch).softmax(1), "score_map": net.score_map(batch)}
            else:
                wanted = net.features(batch, ["pool5"])
            assert outputs.keys() == wanted.keys()
            for name, value in wanted.items():
                torch.testing.assert_close(outputs[name], value, rtol=1e-4, atol=1e-5)


def test_an_old_torch_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "OLDEST", "99.10")
    assert "use torch 99.10 or later" in refusal(verydeep.export, small(), tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())
