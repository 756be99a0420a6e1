"""ONNX files compute in ONNX Runtime what the net computes, for images of any size."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import verydeep
from synthetic import refusal
from verydeep.exports import checking
from verydeep.exports import onnx as exporter


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def difference(found, wanted):
    wanted = wanted.detach().numpy()
    assert found.shape == wanted.shape
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("configuration", verydeep.CONFIGURATIONS)
def test_every_net_of_the_paper(configuration, small, images, tmp_path):
    net = small(configuration, crop=64)
    exported = verydeep.export(net, tmp_path / "net.onnx")
    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)
    running = session(tmp_path / "net.onnx")
    assert [each.name for each in running.get_inputs()] == ["images"]
    assert [each.name for each in running.get_outputs()] == ["posteriors", "score_map"]
    batch = images(3, 130, 101)
    posteriors, score_map = running.run(None, {"images": batch.numpy()})
    assert difference(score_map, net.score_map(batch)) < 1e-5
    assert difference(posteriors, net(batch).softmax(1)) < 1e-5
    assert exported.check.difference < 1e-5
    assert len(exported.check.sizes) == 3
    assert exported.bytes == (tmp_path / "net.onnx").stat().st_size


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    net = verydeep.ConvNet("D", 3, crop=64, width=1 / 32, fully_connected=8).eval()
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    verydeep.export(net, path)
    return net, session(path)


@given(st.integers(1, 3), st.integers(64, 200), st.integers(64, 200))
@settings(max_examples=25, deadline=None)
def test_any_number_height_and_width(exported, number, height, width):
    net, running = exported
    batch = torch.randint(
        0, 256, (number, 3, height, width), generator=torch.Generator().manual_seed(height)
    ).float()
    posteriors, score_map = running.run(None, {"images": batch.numpy()})
    assert difference(score_map, net.score_map(batch)) < 1e-5
    assert difference(posteriors, net(batch).softmax(1)) < 1e-5


def test_a_feature_net_returns_pool5(small, images, tmp_path):
    net = small("D", classes=0)
    verydeep.export(net, tmp_path / "net.onnx")
    running = session(tmp_path / "net.onnx")
    assert [each.name for each in running.get_outputs()] == ["pool5"]
    for size in ((1, 32, 32), (2, 65, 97)):
        batch = images(*size)
        (found,) = running.run(None, {"images": batch.numpy()})
        assert difference(found, net.features(batch, ["pool5"])["pool5"]) < 1e-5


def test_the_file_knows_its_card_classes_and_scale(small, tmp_path):
    names = ("a\nb", "Ähre", "", '"<&', "\udcff", "a\nb")
    net = small("B", classes=names)
    net.card = verydeep.Card(net.architecture, names, (40, 60), provenance={"licence": "CC-BY"})
    verydeep.export(net, tmp_path / "net.onnx")
    metadata = session(tmp_path / "net.onnx").get_modelmeta().custom_metadata_map
    assert tuple(json.loads(metadata["classes"])) == names
    assert metadata["test_scale"] == "64"
    card = json.loads(metadata["verydeep"])
    assert card["architecture"]["configuration"] == "B"
    assert card["provenance"] == {"licence": "CC-BY"}
    assert tuple(card["class_names"]) == names


def test_the_file_depends_only_on_the_net_and_names_its_layers(small, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        verydeep.export(small("A-LRN"), tmp_path / name)
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes()
    assert str(Path(verydeep.__file__).parent).encode() not in content
    model = onnx.load(tmp_path / "a.onnx")
    assert [(node.op_type, node.name) for node in model.graph.node[:5]] == [
        ("Sub", "centred"),
        ("Conv", "conv1_1"),
        ("Relu", "relu1_1"),
        ("LRN", "lrn1_1"),
        ("MaxPool", "pool1"),
    ]
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 13)]


def test_weights_beyond_a_protocol_buffer_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "LIMIT", 1000)
    assert "an ONNX file contains less than 2 GiB" in refusal(verydeep.export, small(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_disagrees_with_its_net_is_not_written(small, tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_text("the earlier one")
    monkeypatch.setattr(exporter, "ALPHA", 1.0)
    message = refusal(verydeep.export, small("A-LRN"), tmp_path / "net.onnx")
    assert "returns values that differ from the net's by" in message
    assert (tmp_path / "net.onnx").read_text() == "the earlier one"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_net_whose_outputs_are_all_zero_can_be_checked(small, tmp_path):
    net = small("A", classes=0)
    torch.nn.init.zeros_(net.conv5_2.weight)
    torch.nn.init.constant_(net.conv5_2.bias, -1)
    assert verydeep.export(net, tmp_path / "net.onnx").check.difference == 0


def test_a_check_compares_shapes(small):
    def wrong(images):
        return {name: value[..., :1] for name, value in checking.expected(net, images).items()}

    net = small("A", crop=32)
    assert "returns posteriors of shape (1, 1); the net, (1, 5)" in refusal(checking.checked, net, "it", wrong)
