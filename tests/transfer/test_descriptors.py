"""Descriptors: what they are, that each is computed and stored once, and that a killed run resumes."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from synthetic import refusal
from transfer_sets import caltech, memory, net_of, write_picture
from verydeep.computing import Computing
from verydeep.linear import Description
from verydeep.photographs.photograph import ImageError
from verydeep.photographs.rescaling import rescale
from verydeep.transfer import describing, descriptors, store
from verydeep.transfer.data import TransferData, single_labels
from verydeep.transfer.describing import default_scales, describe
from verydeep.transfer.vectors import aggregated, normalised, stacked
from verydeep.weights import save

HERE = {"device": torch.device("cpu"), "computing": Computing(progress=False)}


def files(tmp_path, images=4):
    return caltech_data(caltech(tmp_path / "caltech", images))


def caltech_data(root):
    from verydeep.transfer import open_transfer_data

    return open_transfer_data(root)


def by_torch(net, photograph, scale, layer="relu7"):
    """The descriptor by torch alone, from the net's own layers."""
    found = []
    pixels = rescale(photograph, scale)
    for image in (pixels, pixels[:, ::-1]):
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() - net.mean.view(1, 3, 1, 1)
        for each in net.layers:
            x = net.get_submodule(each.name)(x)
            if each.name == layer:
                found.append(x.detach().numpy()[0].mean((1, 2)))
    return (found[0] + found[1]) / 2


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.fixture
def counted(monkeypatch):
    """The number of times that each photograph is decoded, and that a net is applied."""
    seen = {"decoded": [], "described": []}
    decode, described = descriptors.decode, descriptors.described

    def counting_decode(photograph):
        seen["decoded"].append(photograph)
        return decode(photograph)

    def counting_described(net, images, layer):
        seen["described"].append((net.configuration.name, len(images), tuple(images.shape[2:])))
        return described(net, images, layer)

    monkeypatch.setattr(descriptors, "decode", counting_decode)
    monkeypatch.setattr(descriptors, "described", counting_described)
    return seen


def test_a_descriptor_is_the_mean_over_the_map_and_the_mirror_image(tmp_path):
    net, data = net_of(), files(tmp_path)
    found = describe(net, data, scales=[48], **HERE)
    expected = np.stack([unit(by_torch(net, photograph, 48)) for photograph in data.photographs])
    np.testing.assert_allclose(found.vectors, expected, atol=2e-5)
    assert found.protocol == "net A: relu7, Q = 48"


def test_a_feature_net_is_described_by_pool5(tmp_path):
    net, data = net_of("B", classes=0), files(tmp_path, 2)
    found = describe(net, data, scales=[40], **HERE)
    expected = np.stack([unit(by_torch(net, photograph, 40, "pool5")) for photograph in data.photographs])
    np.testing.assert_allclose(found.vectors, expected, atol=2e-5)
    assert found.protocol == "net B: pool5, Q = 40"


def test_scales_are_averaged_or_stacked_and_nets_stacked(tmp_path):
    nets, data = [net_of(), net_of("B", 1, fully_connected=8)], files(tmp_path, 2)
    one = [[by_torch(net, data.photographs[3], scale) for scale in (32, 64)] for net in nets]
    averaged = describe(nets[0], data, scales=[32, 64], aggregation="average", **HERE).vectors[3]
    np.testing.assert_allclose(averaged, unit(unit(one[0][0]) + unit(one[0][1])), atol=2e-5)
    both = describe(nets, data, scales=[32, 64], aggregation="stack", **HERE)
    parts = [unit(np.concatenate([unit(each) for each in net])) for net in one]
    np.testing.assert_allclose(both.vectors[3], unit(np.concatenate(parts)), atol=2e-5)
    assert both.vectors.shape == (6, 2 * 16 + 2 * 8)
    assert both.protocol == "net A: relu7, Q = 32, 64, stacked + net B: relu7, Q = 32, 64, stacked"


def test_each_photograph_is_decoded_once_for_all_nets_and_scales(tmp_path, counted):
    nets, data = [net_of(), net_of("B", 1)], files(tmp_path)
    first = describe(nets, data, scales=[32, 64], **HERE)
    assert sorted(counted["decoded"]) == sorted(data.photographs)
    assert {name for name, _, _ in counted["described"]} == {"A", "B"}
    assert max(count for _, count, _ in counted["described"]) == 6, "photographs of one size share a batch"
    again = describe(nets, data, scales=[64, 32], aggregation="average", **HERE)
    assert len(counted["decoded"]) == len(data), "another aggregation needs no further pass"
    assert again.vectors.shape != first.vectors.shape
    describe(nets[1], data, scales=[32, 96], **HERE)
    assert {size for _, _, size in counted["described"][-2:]} <= {(96, 96 * 40 // 36 + 1), (96, 107), (96, 128)}
    assert len(counted["decoded"]) == 2 * len(data)


def test_a_descriptor_does_not_depend_on_what_is_computed_along_with_it(tmp_path, cache, monkeypatch):
    path = write_picture(tmp_path / "a" / "large.jpg", ["red", "blue"], height=700, width=900)
    photographs = (path, write_picture(tmp_path / "b" / "b.jpg", ["green"]))
    data = TransferData("a", ("a", "b"), photographs, single_labels(np.array([0, 1]), 2), "class-recall")
    net = net_of()
    alone = describe(net, data, scales=[32], **HERE).vectors
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "other"))
    several = describe([net, net_of("B", 1)], data, scales=[32, 320], aggregation="stack", **HERE).vectors[:, :16]
    np.testing.assert_allclose(normalised(several), alone, atol=1e-6)


def test_a_killed_run_resumes(tmp_path, counted, monkeypatch):
    net, data = net_of(), files(tmp_path)
    expected = describe(net_of(), data, scales=[32], **HERE).vectors
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "fresh"))
    monkeypatch.setattr(describing, "SAVE_SECONDS", 0.0)
    counted["decoded"].clear()
    usual = store.add
    stored = []

    def killed(folder, names, vectors):
        if len(stored) == 1:
            raise KeyboardInterrupt
        stored.append(names)
        return usual(folder, names, vectors)

    monkeypatch.setattr(store, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        describe(net, data, scales=[32], **HERE)
    monkeypatch.setattr(store, "add", usual)
    counted["decoded"].clear()
    found = describe(net, data, scales=[32], **HERE)
    assert 0 < len(counted["decoded"]) == len(data) - len(stored[0])
    np.testing.assert_array_equal(found.vectors, expected)


def test_what_identifies_a_descriptor(tmp_path, counted):
    net, data = net_of(), files(tmp_path, 2)
    describe(net, data, scales=[32], **HERE)
    counted["decoded"].clear()
    describe(net_of(), data, scales=[32], **HERE)
    assert counted["decoded"] == [], "the same weights"
    save(net, tmp_path / "net.safetensors")
    describe(tmp_path / "net.safetensors", data, scales=[32], **HERE)
    assert len(counted["decoded"]) == len(data), "a file is known by its own digest"
    counted["decoded"].clear()
    write_picture(data.photographs[1], ["red"], 77, width=52)
    describe(net, data, scales=[32], **HERE)
    assert counted["decoded"] == [data.photographs[1]], "a photograph that has changed"
    describe(net_of(seed=1), data, scales=[32], **HERE)
    assert len(counted["decoded"]) == 1 + len(data), "other weights"


def test_descriptors_of_a_run_are_in_the_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    save(net_of(), run / "weights.safetensors")
    describe(run, files(tmp_path, 2), scales=[32], **HERE)
    assert len(list((run / "descriptors").glob("relu7-Q32-*/*.safetensors"))) == 1


def test_damaged_descriptors_are_computed_again(tmp_path, cache, counted):
    net, data = net_of(), files(tmp_path, 2)
    expected = describe(net, data, scales=[32], **HERE).vectors
    (file,) = (cache / "verydeep" / "descriptors").rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))
    counted["decoded"].clear()
    np.testing.assert_array_equal(describe(net, data, scales=[32], **HERE).vectors, expected)
    assert len(counted["decoded"]) == len(data)


def test_without_a_cache_folder_nothing_is_kept(tmp_path, monkeypatch, counted):
    net, data = net_of(), files(tmp_path, 2)
    expected = describe(net, data, scales=[32], **HERE).vectors
    monkeypatch.setattr(describing, "cache_folder", lambda: None)
    np.testing.assert_array_equal(describe(net, data, scales=[32], **HERE).vectors, expected)
    assert len(counted["decoded"]) == 2 * len(data)


def test_unreadable_photographs_are_named_and_left_out_if_so_wanted(tmp_path, capsys):
    net, data = net_of(), files(tmp_path)
    data.photographs[1].write_bytes(b"\xff\xd8\xff no photograph")
    content = data.photographs[6].read_bytes()
    data.photographs[6].write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"blue/image_0001\.jpg"):
        describe(net, data, scales=[32], **HERE)
    found = describe(net, data, scales=[32], skip_unreadable=True, **HERE)
    said = capsys.readouterr().err
    assert "left out: " in said
    assert "image_0001.jpg" in said
    assert len(found.data) == len(found.vectors) in (10, 11)
    assert data.photographs[1] not in list(found.data.photographs)


def test_boxes_are_stacked_with_the_whole_photograph():
    net = net_of()
    photograph = memory().photographs[0].copy()
    photograph[:, 20:] = (200, 30, 30)
    boxes = np.array([[0, 0, 20, 36], [20, 0, 99, 99], [0, 0, 20, 36]])
    labels = np.array([[1, -1], [-1, 1], [1, -1]], np.int8)
    data = TransferData("people", ("a", "b"), (photograph,) * 3, labels, "ap-area", {}, boxes)
    found = describe(net, data, scales=[32], **HERE)
    whole = unit(by_torch(net, photograph, 32))
    for row, piece in enumerate((photograph[:, :20], photograph[:, 20:], photograph[:, :20])):
        own = unit(by_torch(net, np.ascontiguousarray(piece), 32))
        np.testing.assert_allclose(found.vectors[row], unit(np.concatenate([whole, own])), atol=2e-5)
    assert found.protocol.endswith("whole image and box")
    alone = describe(net, data, scales=[32], boxes=False, **HERE)
    np.testing.assert_allclose(alone.vectors[1], whole, atol=2e-5)
    outside = TransferData(
        "people", ("a", "b"), (photograph,) * 3, labels, "ap-area", {}, boxes + np.array([90, 0, 90, 0])
    )
    assert "lies outside of its 44 x 36 pixels" in refusal(describe, net, outside, scales=[32], **HERE)


def test_default_scales_are_the_papers_in_proportion_to_the_crop():
    assert default_scales(net_of(crop=224).architecture, True) == (256, 384, 512)
    assert default_scales(net_of(crop=224).architecture, False) == (256, 384, 512, 640, 768)
    assert default_scales(net_of(classes=0).architecture, True) == (256, 384, 512)
    assert default_scales(net_of(crop=64).architecture, True) == (64, 96, 160)
    assert default_scales(net_of(crop=32).architecture, True) == (32, 64)
    found = describe(net_of(), memory(2), **HERE)
    assert found.descriptions == (Description("relu7", (32, 64), "stack"),)


def test_wrong_arguments_are_refused(tmp_path):
    net, data = net_of(crop=64), memory(2)
    assert "needs at least 64" in refusal(describe, net, data, scales=[32], **HERE)
    assert "each once" in refusal(describe, net, data, scales=[64, 64], **HERE)
    assert "at least 32, each once" in refusal(describe, net_of(classes=0), data, scales=[16], **HERE)
    assert "no net to transfer" in refusal(describe, [], data, **HERE)
    assert "is given twice" in refusal(describe, [net, net], data, **HERE)
    assert "does not exist" in refusal(describe, tmp_path / "none", data, **HERE)


def test_vectors_of_zeros_stay_zeros():
    zeros = np.zeros((2, 3), np.float32)
    ones = np.ones((2, 3), np.float32)
    assert (normalised(zeros) == 0).all()
    np.testing.assert_allclose(aggregated([zeros, ones], "average"), normalised(ones))
    np.testing.assert_allclose(stacked([lambda: normalised(ones), lambda: zeros])[0], [3**-0.5] * 3 + [0] * 3)


def test_parts_of_a_run_become_one_file(tmp_path):
    names = [bytes([number]) * store.IDENTITY for number in range(5)]
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    parts = [store.add(tmp_path, names[:2], vectors[:2]), store.add(tmp_path, names[2:], vectors[2:])]
    assert store.stored(tmp_path) == set(names)
    store.merge(tmp_path, parts)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    np.testing.assert_array_equal(store.read(tmp_path, names[::-1], 2), vectors[::-1])
    with pytest.raises(KeyError, match="has lost 1 descriptors"):
        store.read(tmp_path, [b"?" * store.IDENTITY], 2)
    assert store.stored(tmp_path / "none") == set()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from verydeep.computing import Computing
from verydeep.transfer import describing, open_transfer_data, store

describing.SAVE_SECONDS = 0.0
add, added = store.add, []

def killing(folder, names, vectors):
    if len(added) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    added.append(names)
    return add(folder, names, vectors)

store.add = killing
describing.describe(
    sys.argv[1], open_transfer_data(sys.argv[2]), scales=[32, 64], device=torch.device("cpu"),
    computing=Computing(progress=False),
)
"""


def test_a_run_that_was_killed_keeps_what_it_had_stored(tmp_path, counted, monkeypatch):
    net, data = net_of(), files(tmp_path)
    save(net, tmp_path / "net.safetensors")
    words = [sys.executable, "-c", KILLED, tmp_path / "net.safetensors", tmp_path / "caltech"]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    found = describe(tmp_path / "net.safetensors", data, scales=[32, 64], **HERE)
    assert 0 < len(counted["decoded"]) < len(data)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "fresh"))
    np.testing.assert_array_equal(describe(net, data, scales=[32, 64], **HERE).vectors, found.vectors)
