"""int8 files agree with float32, and say how well."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

import verydeep
from synthetic import refusal, save, touch
from verydeep.exports import quantisation
from verydeep.exports.quantisation import spaced


def scene(seed, height, width):
    """Smooth patches of random colours."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(31):
        (folder / f"{number % 3}").mkdir(exist_ok=True)
        save(folder / f"{number % 3}" / f"{number:02}.png", scene(number, 48 + number % 4, 60))
    return folder


def test_an_int8_file_agrees_with_float32(small, photographs, tmp_path):
    net = small("A-LRN", crop=32, classes=("a", "b", "c"))
    exported = verydeep.export(net, tmp_path / "net.onnx", calibrate=photographs)
    found = exported.quantised
    assert (found.calibrated, found.compared) == (25, 6), "every fifth of 31 is for the comparison"
    assert found.protocol == "centre crop of 32 x 32, Q = 64"
    assert 0.5 <= found.agreement <= 1
    assert found.interval[0] <= found.agreement <= found.interval[1]
    assert found.difference < 0.05
    assert found.bytes == exported.bytes < found.float32_bytes
    assert min(found.seconds, found.float32_seconds) > 0
    assert found.threads == torch.get_num_threads()

    running = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(running.get_modelmeta().custom_metadata_map["classes"]) == ["a", "b", "c"]
    for number, height, width in ((1, 32, 32), (2, 64, 80)):
        top, left = (64 - height) // 2, (80 - width) // 2
        scenes = [scene(100 + seed, 64, 80)[top : top + height, left : left + width] for seed in range(number)]
        pixels = np.stack(scenes)
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous()
        posteriors, score_map = running.run(["posteriors", "score_map"], {"images": batch.numpy()})
        wanted = net.score_map(batch).detach().numpy()
        assert score_map.shape == wanted.shape
        assert np.abs(score_map - wanted).mean() < 0.25 * np.abs(wanted).mean()
        assert np.abs(posteriors - net(batch).softmax(1).detach().numpy()).max() < 0.05


def test_weights_have_seven_bits_but_for_the_first_and_the_last_layer(small, photographs, tmp_path):
    verydeep.export(small("B"), tmp_path / "net.onnx", calibrate=photographs)
    model = onnx.load(tmp_path / "net.onnx")
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    kernels = {name.split(".")[0]: array for name, array in arrays.items() if array.ndim == 4 and "weight" in name}
    assert {name for name, array in kernels.items() if array.dtype == np.float32} == {"conv1_1", "fc8"}
    assert len(kernels) == 13
    for name, array in kernels.items():
        assert array.dtype == np.float32 or (array.dtype == np.int8 and np.abs(array.astype(int)).max() <= 64), (
            name
        )


def test_a_feature_net(small, photographs, tmp_path):
    found = verydeep.export(small("D", 0), tmp_path / "net.onnx", calibrate=photographs).quantised
    assert found.agreement is None
    assert found.interval is None
    assert 0 < found.difference < 0.3


def test_unreadable_photographs_are_named_and_left_out(small, photographs, tmp_path, capfd):
    folder = tmp_path / "some"
    folder.mkdir()
    for number, path in enumerate(sorted(photographs.rglob("*.png"))[:12]):
        (folder / f"{number:02}.png").write_bytes(path.read_bytes())
    touch(folder / "text.jpg", "text")
    cut = sorted(folder.glob("*.png"))[1]
    cut.write_bytes(cut.read_bytes()[:-500])
    found = verydeep.export(small(), tmp_path / "net.onnx", calibrate=folder).quantised
    assert (found.calibrated, found.compared) == (10, 2)
    said = capfd.readouterr().err
    assert "text.jpg" in said
    assert "01.png" in said


def test_too_few_photographs_are_refused(small, photographs, tmp_path):
    message = refusal(
        verydeep.export, small(), tmp_path / "net.onnx", calibrate=sorted(photographs.rglob("*.png"))[0]
    )
    assert (
        "a calibration needs at least 10 photographs that can be read, better some hundred; there are 1" in message
    )
    assert "no photographs in this folder" in refusal(
        verydeep.export, small(), tmp_path / "n.onnx", calibrate=tmp_path
    )
    assert not list(tmp_path.iterdir())


def test_many_photographs_are_thinned_out_evenly():
    assert list(spaced(range(7), 10)) == list(range(7))
    assert list(spaced(range(10), 5)) == [0, 2, 4, 6, 8]
    assert len(set(spaced(range(1001), 256))) == 256


def test_times_are_medians_of_alternating_rounds(monkeypatch):
    durations = (9.0, 9.0, 1.0, 5.0, 100.0, 100.0, 3.0, 7.0)
    now = iter(np.cumsum([[0.0, each] for each in durations]).tolist())
    monkeypatch.setattr(quantisation.time, "perf_counter", lambda: next(now))
    called = []
    runs = [lambda images: called.append("a") or {}, lambda images: called.append("b") or {}]
    assert quantisation.median_seconds(runs, torch.zeros(1), rounds=3) == (3.0, 7.0)
    assert "".join(called) == "ab" * 4
