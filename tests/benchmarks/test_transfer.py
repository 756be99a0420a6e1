"""The evidence for transfer is measured and laid out, at a size that takes seconds."""

import json

import pytest

import transfer
import transfer_rows
import verydeep
from transfer_sets import caltech, net_of
from verydeep import weights
from verydeep.transfer import TransferResult


@pytest.fixture
def folder(tmp_path):
    weights.save(net_of(), tmp_path / "a.safetensors")
    weights.save(net_of("D", 1), tmp_path / "d.safetensors")
    return caltech(tmp_path / "caltech", 8)


def test_everything_is_measured_compared_and_laid_out(folder, tmp_path, capsys):
    miniatures = [str(tmp_path / name) for name in ("a.safetensors", "d.safetensors")]
    words = [str(folder), "--miniatures", *miniatures, "--training-images", "4", "--splits", "2"]
    words += ["--fine-tune", "1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert transfer.main(words) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"transfer.json", "README.md", "README-learning-curve.svg", "neighbours.png"}
    found = transfer.read(tmp_path / "out")
    assert len(found.rows) == 11
    assert all(isinstance(row.result, TransferResult) for row in found.rows)
    values = {row.name: row.result.value for row in found.rows}
    for each in found.comparisons:
        assert each.difference == pytest.approx(values[each.first] - values[each.second])
        assert each.interval[0] <= each.difference <= each.interval[1]
    compared = {(each.first, each.second) for each in found.comparisons}
    assert ("miniature A, three scales, stack", "miniature A, one scale") in compared
    assert ("miniature D, three scales, stack", "miniature D, three scales, average") in compared
    assert ("miniatures together, one scale", "miniature D, one scale") in compared
    assert ("miniature A, one scale", "raw pixels") in compared
    assert ("miniature A, one scale", "miniature A with random weights, one scale") in compared
    assert [each.first for each in found.fine_tuned] == [
        f"miniature {name}, fine-tuned, 1 epochs" for name in "AD"
    ]
    assert list(found.curves["miniature D, one scale"][0].splits[0].by_class)
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| raw pixels |" in page
    assert "Fine-tuning" in page
    assert json.loads((tmp_path / "out" / "transfer.json").read_text())["date"] in page
    (tmp_path / "out" / "README.md").unlink()
    assert transfer.main(["--page", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "README.md").read_text() == page
    assert "miniature A, one scale: caltech, net A: relu7, Q = 32" in capsys.readouterr().out


def test_a_net_of_convolutions_is_measured_at_several_scales_and_gets_new_layers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "FULL_SCALE", 32)
    monkeypatch.setattr(transfer_rows, "CROP", 32)
    monkeypatch.setattr(transfer_rows, "FULLY_CONNECTED", 8)
    weights.save(net_of("D", 2, classes=0), tmp_path / "f.safetensors")
    words = [str(folder), "--full", str(tmp_path / "f.safetensors"), "--scales", "64", "--fine-tune-full", "2"]
    words += ["--training-images", "4", "--splits", "2"]
    words += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert transfer.main(words) == 0
    found = transfer.read(tmp_path / "out")
    assert [row.name for row in found.rows] == [
        "full-size D, Q = 32",
        "full-size D, Q = 64",
        "full-size D, Q = 32, 64, average",
        "full-size D, Q = 32, 64, stack",
        "full-size D with random weights, Q = 32",
        "raw pixels",
    ]
    compared = [(each.first, each.second) for each in found.comparisons]
    assert ("full-size D, Q = 32, 64, stack", "full-size D, Q = 32, 64, average") in compared
    assert ("full-size D, Q = 32, 64, stack", "full-size D, Q = 32") in compared
    assert [each.second for each in found.fine_tuned] == ["full-size D, Q = 32"]
    trained = [verydeep.read_run(tmp_path / "runs" / "f" / name) for name in ("new-layers", "all-layers")]
    assert [len(run.epochs) for run in trained] == [2, 1]
    monkeypatch.setattr(transfer_rows, "judged_on", None)  # what is stored is not measured again
    assert transfer.main(words) == 0
    assert transfer.read(tmp_path / "out").rows == found.rows


def test_the_page_of_results_is_what_the_data_say():
    if not (transfer.RESULTS / "transfer" / transfer.DATA).exists():
        pytest.skip("not measured yet")
    folder = transfer.RESULTS / "transfer"
    files = transfer.page_files(transfer.page(transfer.read(folder)), folder / transfer.PAGE)
    stale = "results/transfer does not match its data; make it with: python benchmarks/transfer.py --page"
    assert all(path.read_text(encoding="utf-8") == text for path, text in files.items()), stale
