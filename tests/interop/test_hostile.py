"""Third-party files never run code, and files that are not nets are refused in one line that says why."""

import io
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import foreign_nets as there
import verydeep
from verydeep.interop.loading import convert, load

NARROW = {"width": 64, "hidden": 3, "classes": 2}


@pytest.fixture(scope="module")
def net():
    return there.made("A", **NARROW)


def refusal(path):
    with pytest.raises(verydeep.UserError) as error:
        load(path)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 600
    assert "Type-check" not in line, "a reader got an argument of an unexpected type"
    return line


def altered(net, path, **tensors):
    """Write a state dict with some tensors replaced, or left out if None."""
    state = there.torchvision_state(net) | {name.replace("_", "."): value for name, value in tensors.items()}
    torch.save({name: value for name, value in state.items() if value is not None}, path)


# torch


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_torch_file_is_not_run(zipped, tmp_path, capsys):
    torch.save({"features.0.weight": there.Hostile()}, tmp_path / "a", _use_new_zipfile_serialization=zipped)
    assert "cannot be read as a file of torch.save" in refusal(tmp_path / "a")
    (tmp_path / "b").write_bytes(there.hostile_pickle())
    refusal(tmp_path / "b")
    assert "run" not in capsys.readouterr().out.split()


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(net, tmp_path):
    altered(net, tmp_path / "a", features_0_weight=torch.zeros(1).expand(10**6, 3, 10**3, 10**3))
    assert "features.0.weight has shape (1000000, 3, 1000, 1000), which is larger than the file" in refusal(
        tmp_path / "a"
    )


def test_a_compressed_torch_file_is_refused(net, tmp_path):
    altered(net, tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as old, zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert "which torch.save never writes" in refusal(tmp_path / "b")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"features_0_weight": None}, "tensor features.0.weight is missing"),
        ({"features_0_bias": None}, "tensor features.0.bias is missing"),
        ({"features_0_bias": torch.zeros(2)}, r"weights of shape \(1, 3, 3, 3\) and a bias of shape \(2,\)"),
        (
            {"features_0_weight": torch.zeros(1, 4, 3, 3)},
            "weight layer 1 takes 4 channels, but its input has 3",
        ),
        ({"features_0_weight": torch.zeros(1, 3, 3, 1)}, "weight layer 1 has a 3 x 1 kernel"),
        (
            {"features_0_weight": torch.zeros(1, 3, 5, 5)},
            "no net of Table 1 has these 8 convolutions .5-1, 3-2, ",
        ),
        ({"features_0_weight": torch.zeros(1, 3, 3, 3).long()}, "features.0.weight is of type torch.int64"),
        (
            {"features_0_weight": torch.full((1, 3, 3, 3), np.nan)},
            "conv1_1.weight holds values that are not finite",
        ),
        ({"classifier_6_weight": None}, "tensor classifier.6.weight is missing"),
        ({"classifier_6_weight": None, "classifier_6_bias": None}, "2 fully connected layers; three are expected"),
        (
            {"classifier_0_weight": torch.zeros(3, 25)},
            "25 inputs, which do not form a square map of the 8 channels",
        ),
        (
            {"classifier_3_weight": torch.zeros(4, 3), "classifier_3_bias": torch.zeros(4)},
            "weight layer 11 takes 3",
        ),
        ({"classifier_9_weight": torch.zeros(4, 3)}, "tensor classifier.9.bias is missing"),
        ({"surprise": torch.zeros(4)}, "tensor surprise is not part of torchvision's or timm's"),
        ({"surprise": 3}, "'surprise' is of type int"),
        (
            {"features_0_weight": torch.full((1, 3, 3, 3), 1e45, dtype=torch.float64)},
            "conv1_1.weight holds values that are not",
        ),
        ({"features_1_running.mean": torch.zeros(1)}, "features.1.weight is missing"),
        ({"features_0_weight": torch.zeros(1, 3, 3, 3).to_sparse()}, "dense tensors by name are expected"),
    ],
)
def test_what_is_not_a_vgg_of_torchvision_is_refused(net, tensors, words, tmp_path):
    altered(net, tmp_path / "a", **tensors)
    line = refusal(tmp_path / "a")
    assert __import__("re").search(words, line), line


def test_other_files_of_torch_are_refused(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "a")
    assert "it contains a Tensor; a state dict is expected" in refusal(tmp_path / "a")
    torch.save({}, tmp_path / "a")
    assert "no tensor is named features.N.weight; found no tensors" in refusal(tmp_path / "a")
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "b")
    assert "no tensor is named features.N.weight; found conv1.weight" in refusal(tmp_path / "b")


# HDF5 and .keras


def hdf5_with(net, path, change):
    h5py = pytest.importorskip("h5py")
    there.write_keras_published(path, net)
    with h5py.File(path, "r+") as file:
        change(h5py, file)
    return path


def replaced(make):
    """Replace the first kernel."""

    def change(h5py, file):
        group = file["block1_conv1"]
        del group["block1_conv1_W_1:0"]
        make(h5py, group, "block1_conv1_W_1:0")

    return change


def virtual(h5py, group, name):
    layout = h5py.VirtualLayout((3, 3, 3, 1), "f4")
    layout[...] = h5py.VirtualSource("/etc/passwd", "data", (3, 3, 3, 1))
    group.create_virtual_dataset(name, layout)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced(lambda h5py, group, name: group.__setitem__(name, h5py.SoftLink("/block1_conv1"))), "is a link"),
        (
            replaced(lambda h5py, group, name: group.__setitem__(name, h5py.ExternalLink("/etc/a.h5", "/"))),
            "is a link",
        ),
        (replaced(virtual), "is stored elsewhere"),
        (
            replaced(
                lambda h5py, group, name: group.create_dataset(
                    name, (3, 3, 3, 1), "f4", external=[("/etc/passwd", 0, 108)]
                )
            ),
            "is stored elsewhere",
        ),
        (
            replaced(
                lambda h5py, group, name: group.create_dataset(
                    name, (2**20,) * 2, "f4", chunks=(9, 9), compression=9
                )
            ),
            "is compressed, which Keras weights never are",
        ),
        (
            replaced(lambda h5py, group, name: group.create_dataset(name, (2**20, 2**20, 3, 3), "f4")),
            "which is larger than the file",
        ),
        (replaced(lambda h5py, group, name: group.create_dataset(name, data=["a", "b"])), "weights are expected"),
        (
            replaced(lambda h5py, group, name: group.create_dataset(name, data=np.zeros(3, "f4"))),
            "a kernel and a bias",
        ),
        (replaced(lambda h5py, group, name: None), "a kernel and a bias are expected"),
        (
            lambda h5py, file: file.__setitem__("block1_conv1/again", file["block1_conv1"]),
            "groups nested more than 8 deep",
        ),
        (lambda h5py, file: file.move("block1_conv1", "first"), "do not tell the order of the layers"),
        (lambda h5py, file: file.move("block1_conv1", "conv2d"), "do not tell the order of the layers"),
        (lambda h5py, file: file.__setitem__("type", np.dtype("f4")), "neither a group nor a dataset"),
    ],
)
def test_what_is_not_a_vgg_of_keras_is_refused(net, change, words, tmp_path):
    assert words in refusal(hdf5_with(net, tmp_path / "a.h5", change))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"padding": "valid"}, "block1_conv1 has padding 'valid'; 'same' is expected"),
        ({"strides": [2, 2]}, "has strides [2, 2]"),
        ({"activation": "tanh"}, "has the activation 'tanh'"),
        ({"activation": "linear"}, "there is a layer of kind pool where net A has relu1_1"),
        ({"class_name": "Rescaling"}, "is a layer of type Rescaling, which a VGG does not have"),
        ({"class_name": "Lambda"}, "is a layer of type Lambda"),
        ({"class_name": 3, "name": {"a": [1]}}, "is a layer of type 3"),
    ],
)
def test_a_keras_archive_that_computes_something_else_is_refused(net, changed, words, tmp_path):
    there.write_keras_archive(tmp_path / "a.keras", net, **changed)
    assert words in refusal(tmp_path / "a.keras")


def test_archives_that_inflate_are_refused(net, tmp_path):
    there.write_keras_archive(tmp_path / "a.keras", net)
    for name, size in (("config.json", 2**23), ("model.weights.h5", 2**26)):
        with (
            zipfile.ZipFile(tmp_path / "a.keras") as old,
            zipfile.ZipFile(tmp_path / "b.keras", "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for each in old.namelist():
                new.writestr(each, bytes(size) if each == name else old.read(each))
        assert f"{name} has {size} bytes; at most" in refusal(tmp_path / "b.keras")


# Protocol buffers


def test_what_is_not_a_vgg_of_caffe_is_refused(net, tmp_path):
    layers = list(there.caffe_layers(net))
    first, pooling, last = layers[0], layers[2], layers[-2]
    wide = there.data(7, there.data(1, there.varint(2**40) * 2)) + there.data(5, bytes(8))
    claims = there.data(100, there.data(1, "conv1_1") + there.data(2, "Convolution") + there.data(7, wide))
    cases = {
        "no net of Table 1 has these": layers[:2],
        "where net A has pool1": layers[:2] + layers[3:],
        "conv1_1 has pad 0": [(*first[:3], there.number(4, 3)), *layers[1:]],
        "conv1_1 has stride 2": [(*first[:3], first[3] + there.number(6, 2)), *layers[1:]],
        "pool1 is not a 2 x 2 max-pooling": [
            *layers[:2],
            (*pooling[:3], pooling[3] + there.number(1, 1)),
            *layers[3:],
        ],
        "fc8 has 0 blobs": [*layers[:-2], (last[0], last[1], (), last[3]), layers[-1]],
        "follows the soft-max": [*layers, ("again", "ReLU", (), b"")],
        "odd is a layer of type Python": [*layers, ("odd", "Python", (), b"")],
        "it contains no layers": [],
    }
    for words, changed in cases.items():
        (tmp_path / "a").write_bytes(there.caffe_new(changed))
        assert words in refusal(tmp_path / "a")
    (tmp_path / "a").write_bytes(there.data(1, "VGG") + claims)
    assert "a blob of shape (1099511627776, 1099511627776) contains 2 numbers" in refusal(tmp_path / "a")
    (tmp_path / "a").write_bytes(there.data(1, "VGG") + there.data(2, there.data(1, b"")))
    assert "oldest format; upgrade it" in refusal(tmp_path / "a")


def test_messages_of_many_fields_or_many_levels_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(there.data(1, "VGG") + there.data(2, b"") * 300_000)
    assert "more than 200000 fields" in refusal(tmp_path / "a")
    nested = b""
    for _ in range(5000):
        nested = there.data(100, nested)
    (tmp_path / "a").write_bytes(there.data(1, "VGG") + nested)
    assert "is a layer of type ," in refusal(tmp_path / "a")


def test_what_is_not_a_vgg_of_onnx_is_refused(net, tmp_path):
    good = there.onnx_pytorch(net, 32)
    resize = there.onnx_node("Resize", ["fc2"], "more")
    twice = there.onnx_node("Relu", ["conv0.0"], "more")
    cases = {
        "is a node of type Resize, which a plain VGG does not have here": there.onnx_pytorch(net, 32, resize),
        "conv0.0 is the input of 2 nodes; a VGG is a single chain": there.onnx_pytorch(net, 32, twice),
        "it was written by mxnet": good.replace(there.data(2, "pytorch"), there.data(2, "mxnet")),
        "it contains no graph": there.number(1, 8),
        "goes beyond the end of its message": good[: len(good) // 2],
        "is of ONNX type 3": good.replace(
            there.number(2, 1) + there.data(8, "conv0.0.w"), there.number(2, 3) + there.data(8, "conv0.0.w")
        ),
    }
    for words, content in cases.items():
        (tmp_path / "a.onnx").write_bytes(content)
        assert words in refusal(tmp_path / "a.onnx")


# MATLAB


def test_what_is_not_a_vgg_of_matconvnet_is_refused(net, tmp_path):
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"weights": np.zeros(3)})
    assert "it has no cell array named layers" in refusal(tmp_path / "a.mat")
    savemat(tmp_path / "a.mat", {"layers": np.zeros(3)})
    assert "it has no cell array named layers" in refusal(tmp_path / "a.mat")
    cell = np.empty((1, 1), object)
    cell[0, 0] = 3.0
    savemat(tmp_path / "a.mat", {"layers": cell})
    assert "layer 1 is not a struct" in refusal(tmp_path / "a.mat")
    savemat(tmp_path / "a.mat", {"layers": np.zeros(2**24)}, do_compression=True)
    assert "far more than the size of the file" in refusal(tmp_path / "a.mat")
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(600))
    assert "save it with MATLAB's -v7" in refusal(tmp_path / "a.mat")


# Any


def test_what_is_of_no_format_is_refused_with_those_that_are(tmp_path):
    for content in (b"", b"GIF89a", b"\x00" * 100):
        (tmp_path / "a").write_bytes(content)
        assert "has an unknown format; pass a run directory" in refusal(tmp_path / "a")
    assert "does not exist" in refusal(tmp_path / "gone")
    assert "is not a regular file" in refusal("/dev/zero")
    assert "holds no weights.safetensors" in refusal(tmp_path)


def test_damaged_files_of_this_project_are_still_called_that(tmp_path):
    path = tmp_path / "a.safetensors"
    verydeep.save(verydeep.ConvNet("A", 2, width=1 / 64, crop=32, fully_connected=3), path)
    whole = path.read_bytes()
    for content, words in (
        (whole[:-3], "damaged"),
        (whole[:-1] + b"\x01", "is damaged: it is not what was written"),
    ):
        path.write_bytes(content)
        assert words in refusal(path)


def test_nothing_is_written_of_what_cannot_be_read(tmp_path):
    (tmp_path / "a").write_bytes(b"PK\x03\x04")
    with pytest.raises(verydeep.UserError, match="cannot read"):
        convert(tmp_path / "a", tmp_path / "net.safetensors")
    assert not (tmp_path / "net.safetensors").exists()


def test_a_missing_package_is_named(net, tmp_path, monkeypatch):
    there.write_keras_published(tmp_path / "a.h5", net)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    assert "this format needs h5py; run pip install 'verydeep[interop]'" in refusal(tmp_path / "a.h5")


def samples():
    """Return a small file of each format, as bytes."""
    net = there.made("A", **NARROW)
    found = {}
    for name, write in (
        ("hdf5", there.write_keras_published),
        ("keras", there.write_keras_archive),
        ("mat", there.write_matconvnet),
    ):
        target = io.BytesIO()
        write(target, net, **({"names": ("a", "b")} if name == "mat" else {}))
        found[name] = target.getvalue()
    for name, zipped in (("torch", True), ("legacy", False)):
        target = io.BytesIO()
        torch.save(there.torchvision_state(net), target, _use_new_zipfile_serialization=zipped)
        found[name] = target.getvalue()
    found["caffe old"] = there.caffe_old(there.caffe_layers(net))
    found["caffe new"] = there.caffe_new(there.caffe_layers(net))
    found["onnx"] = there.onnx_keras(net, 32)
    return found


SAMPLES = samples()


@st.composite
def mutations(draw, content):
    """Replace some bytes, most of them near the start, where lengths and names are; then cut or repeat a piece."""
    mutated = bytearray(content)
    for _ in range(draw(st.integers(0, 6))):
        end = draw(st.sampled_from([64, 2048, len(content)]))
        mutated[draw(st.integers(0, min(end, len(content)) - 1))] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    at, length = draw(st.integers(0, len(content))), draw(st.integers(0, 600))
    match draw(st.sampled_from(["keep", "keep", "cut", "drop", "double"])):
        case "cut":
            del mutated[at:]
        case "drop":
            del mutated[at : at + length]
        case "double":
            mutated[at:at] = mutated[at : at + length]
    return bytes(mutated)


@pytest.mark.parametrize("name", SAMPLES)
def test_mutated_files_load_or_are_refused(name, tmp_path_factory):
    path = tmp_path_factory.mktemp("mutated") / "file"

    @given(mutations(SAMPLES[name]))
    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def check(content):
        path.write_bytes(content)
        with suppress(verydeep.UserError):
            load(path)
            return
        refusal(path)

    check()
