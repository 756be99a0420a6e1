"""What is packed can be unpacked, and results are kept whatever happens to the plan."""

import os
import sys
import zipfile

import pytest

import gpu_imagenette
from gpu_imagenette import HALVES, RESULTS, copy_results, pack, run, unpack, watch
from synthetic import write
from verydeep.experiments.results import read_outcomes, read_results


@pytest.fixture
def photographs(tmp_path):
    root = tmp_path / "imagenette"
    for seed in range(12):
        for name in ("tench", "church"):
            write(root / "train" / name / f"{seed}.JPEG", seed, 20, 20)
        write(root / "val" / ("tench", "church")[seed % 2] / f"{seed}.JPEG", seed, 20, 20)
    (root / "boxes.csv").write_text("no photograph")
    return root


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.JPEG")}


def child(text):
    return [sys.executable, "-c", text]


def test_what_is_packed_is_unpacked(photographs, tmp_path, capsys):
    pack(photographs, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "there")
    assert contents(tmp_path / "there") == contents(photographs)
    assert len(contents(photographs)) == 36
    assert not (tmp_path / "there" / "boxes.csv").exists()
    assert capsys.readouterr().out.count("MiB") == 2


def test_the_halves_are_halves_and_the_same_every_time(photographs, tmp_path):
    pack(photographs, tmp_path / "packed")
    sizes = [(tmp_path / "packed" / name).stat().st_size for name in HALVES]
    assert abs(sizes[0] - sizes[1]) < 0.1 * sum(sizes)
    before = [(tmp_path / "packed" / name).read_bytes() for name in HALVES]
    for file in photographs.rglob("*.JPEG"):
        os.utime(file, (0, 0))
    pack(photographs, tmp_path / "packed")
    assert [(tmp_path / "packed" / name).read_bytes() for name in HALVES] == before


def test_a_half_that_is_too_large_is_refused(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_imagenette, "LARGEST", 1024)
    with pytest.raises(SystemExit, match=r"photographs-1\.zip"):
        pack(photographs, tmp_path / "packed")


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no folder train"):
        pack(tmp_path, tmp_path / "packed")


def test_a_missing_or_damaged_half_is_named(photographs, tmp_path):
    pack(photographs, tmp_path)
    (tmp_path / HALVES[1]).write_bytes(b"no archive")
    with pytest.raises(SystemExit, match=HALVES[1]):
        unpack(tmp_path, tmp_path / "there")
    (tmp_path / HALVES[0]).unlink()
    with pytest.raises(SystemExit, match=HALVES[0]):
        unpack(tmp_path, tmp_path / "there")


def test_nothing_is_written_outside_of_the_folder(tmp_path):
    for name in HALVES:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("../outside", "")
    unpack(tmp_path, tmp_path / "there")
    assert not (tmp_path / "outside").exists()


def test_results_are_copied_while_the_plan_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_imagenette, "LOOK_SECONDS", 0.05)
    here, out = tmp_path / "here", tmp_path / "out"
    here.mkdir()
    text = f"""
import os, signal
with open({str(here / RESULTS[0])!r}, "w") as file:
    file.write("so far")
while not os.path.exists({str(out / RESULTS[0])!r}):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert watch(child(text), os.environ, here, out, 60) == -9
    assert (out / RESULTS[0]).read_text() == "so far"


def test_a_plan_is_ended_when_its_time_is_up(tmp_path, capsys):
    assert watch(child("import signal; signal.pause()"), os.environ, tmp_path, tmp_path / "out", 0.2) == -15
    assert "the time is up" in capsys.readouterr().out


def test_a_plan_that_does_not_end_when_asked_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_imagenette, "END_SECONDS", 0.1)
    text = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause(); signal.pause()"
    assert watch(child(text), os.environ, tmp_path, tmp_path / "out", 0.2) < 0


def test_the_exit_status_is_the_plans(tmp_path):
    assert watch(child("raise SystemExit(3)"), os.environ, tmp_path, tmp_path / "out", 60) == 3


def test_only_newer_results_are_copied(tmp_path):
    here, out = tmp_path / "here", tmp_path / "out"
    for folder in (here, out):
        folder.mkdir()
    (here / RESULTS[0]).write_text("one")
    copy_results(here, out)
    (out / RESULTS[0]).write_text("kept")
    copy_results(here, out)
    assert (out / RESULTS[0]).read_text() == "kept"
    later = (out / RESULTS[0]).stat().st_mtime_ns + 1
    (here / RESULTS[0]).write_text("two")
    os.utime(here / RESULTS[0], ns=(later, later))
    copy_results(here, out)
    assert (out / RESULTS[0]).read_text() == "two"
    assert sorted(path.name for path in out.iterdir()) == [RESULTS[0]]


@pytest.mark.slow
def test_the_plan_runs_on_what_was_packed(photographs, tmp_path):
    pack(photographs, tmp_path / "packed")
    asked = [
        "--preset",
        "digits",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--workers",
        "0",
        "--tables",
        "table7",
    ]
    assert run(tmp_path / "packed", tmp_path / "out", asked, 300) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(RESULTS)
    results, outcomes = read_results(tmp_path / "out"), read_outcomes(tmp_path / "out")
    assert (results.classes, results.tested_images) == (("church", "tench"), 12)
    assert outcomes.measured(results.rows[0].key) == (0,)
