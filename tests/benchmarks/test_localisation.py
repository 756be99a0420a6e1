"""The localisation experiments on a small data set, in one command."""

import sys

import localisation
import verydeep
from boxed import write_boxed
from verydeep.experiments.localisation import reproduction
from verydeep.experiments.localisation.presets import BoxPreset
from verydeep.experiments.localisation.results import read_box_measurements
from verydeep.experiments.presets import Schedule, preset

TINY = BoxPreset("tiny", preset("imagenette"), {"batch": 8}, Schedule(epochs=1))


def test_classifiers_and_tables_from_convolutions_and_boxes(tmp_path, monkeypatch):
    boxes = write_boxed(tmp_path / "boxed", 8, 4)
    net = verydeep.ConvNet("D", classes=2, crop=96, width=1 / 32, fully_connected=8)
    verydeep.initialise(net, "glorot")
    verydeep.save(verydeep.feature_net(net), tmp_path / "convolutions.safetensors")
    sizes = {"width": 1 / 32, "fully_connected": 8, "batch": 8}
    monkeypatch.setattr(localisation, "CLASSIFIERS", localisation.CLASSIFIERS | sizes)
    monkeypatch.setattr(localisation, "FEW_EPOCHS", 1)
    monkeypatch.setattr(reproduction, "box_preset", lambda name: TINY)
    words = [boxes, tmp_path / "convolutions.safetensors", tmp_path / "out", "--seeds", 1]
    monkeypatch.setattr(sys, "argv", ["localisation.py", *map(str, words)])
    localisation.main()
    found = read_box_measurements(tmp_path / "out")
    assert len(found.results.rows) == 7
    assert found.results.classifiers == "classifier-256/weights.safetensors, classifier-384/weights.safetensors"
    assert found.results.data == "boxes.csv"
