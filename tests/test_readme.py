"""Every command of the README runs, on a small folder of photographs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import foreign_nets
from synthetic import touch, write

ROOT = Path(__file__).parents[1]
SMALL = ["--crop", "32", "--width", "0.125", "--fully-connected", "8", "--batch", "4"]
"""The size of the nets in the commands for ILSVRC, instead of full size."""


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def photographs(root):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(4):
                write(root / split / name / f"{number}.jpg", number, 80, 100)
    write(root / "val" / "cat" / "tom.jpg", 9, 80, 100)


def boxes(root):
    files = sorted(path.relative_to(root) for path in (root / "photographs").glob("*/*/*.jpg"))
    lines = [f"{file},10,10,90,70,{file.parent.name}\n" for file in files]
    touch(root / "boxes.csv", "file,x0,y0,x1,y1,class\n" + "".join(lines))


def ilsvrc(root):
    for wnid in ("n01440764", "n01443537"):
        for number in range(4):
            write(root / "train" / wnid / f"{wnid}_{number}.JPEG", number, 60, 70)
    for number in range(1, 5):
        write(root / "val" / f"ILSVRC2012_val_{number:08}.JPEG", number, 60, 70)
    touch(root / "ILSVRC2012_validation_ground_truth.txt", "1\n2\n2\n1\n")
    touch(root / "synsets.txt", "n01443537 goldfish\nn01440764 tench\n")


def caltech(root):
    for k, name in enumerate(("anchor", "barrel", "crab")):
        for number in range(32):
            write(root / name / f"image_{number:04}.jpg", 100 * k + number, 40, 48)


def run(line, folder):
    words = shlex.split(line)
    if words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    elif words[0] == "verydeep":
        words = [sys.executable, "-m", *words]
    if "reproduce" in words:
        words += ["--dry-run"]
    if "train" in words:
        if "--epochs" in words:
            words[words.index("--epochs") + 1] = "1"
        else:
            words += ["--epochs", "1"]
        words += SMALL if "ILSVRC" in words else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_the_commands_of_the_readme(tmp_path):
    photographs(tmp_path / "photographs")
    boxes(tmp_path)
    ilsvrc(tmp_path / "ILSVRC")
    caltech(tmp_path / "CALTECH")
    (tmp_path / "results").symlink_to(ROOT / "results")
    torch.save(foreign_nets.torchvision_state(foreign_nets.made("D")), tmp_path / "vgg16-397923af.pth")
    done = []
    for line in commands():
        if line.startswith("make") or "--preset ilsvrc" in line:  # too long; measures full-size nets
            continue
        if "OWNER/NAME" in line:  # a repository on the hub; test_hub.py runs these commands
            continue
        result = run(line, tmp_path)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        done.append(line)
    assert len(done) >= 13
    trained = {"a", "a2", "d", "d-256", "d-384", "d-jitter", "digits"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} >= trained


@pytest.mark.slow
def test_the_python_of_the_readme(tmp_path, monkeypatch, capsys):
    """Run it with small nets instead of full-size ones, and with a small run for `runs/d`."""
    photographs(tmp_path / "photographs")
    small = ["--crop", "32", "--width", "0.125", "--fully-connected", "8", "--initialisation", "glorot"]
    assert run(f"verydeep train photographs {' '.join(small)} --out runs/d", tmp_path).returncode == 0
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    whole, pieces = blocks
    statements = [line for line in whole.splitlines() if line and not line.startswith("import")]
    assert len(statements) <= 10, "it trains, tests and predicts in ten lines"
    small = "crop=32, width=0.125, fully_connected=8, epochs=2"
    exec(whole.replace("crop=64, width=0.25, fully_connected=1024", small), names := {})
    assert [epoch.epoch for epoch in names["run"].epochs] == [1, 2]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 + 2 + 3 + 1  # the run, its epochs, two nets and both together, one photograph
    assert all("top-1 error" in line for line in said[3:6])
    exec(pieces.replace('"D", classes=1000)', '"D", classes=1000, width=0.125, fully_connected=8)'), names)
    assert names["net"].class_names == ("cat", "dog")
    assert names["image"].shape == (80, 100, 3)
