"""Nets from other systems' files: for raw RGB, their scores are those of the other system with its preprocessing.

`foreign_nets` writes the files according to the formats' specifications, and computes the reference scores in
float64 from preprocessed input.
"""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import foreign_nets as there
import verydeep
from verydeep.interop.conventions import Convention
from verydeep.interop.loading import convert, load

SHARED = Path(__file__).parents[3] / "shared" / "data"
H5 = SHARED / "vgg16" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
CAFFE = SHARED / "caffe"


def save_torch(path, net):
    torch.save(there.torchvision_state(net), path)


def save_legacy(path, net):
    torch.save(there.torchvision_state(net), path, _use_new_zipfile_serialization=False)


def save_checkpoint(path, net):
    state = {f"module.{name}": tensor for name, tensor in there.torchvision_state(net).items()}
    torch.save({"state_dict": state, "epoch": 3}, path)


def save_timm(path, net):
    save_file({name: tensor.contiguous() for name, tensor in there.timm_state(net).items()}, path)


def save_timm_bin(path, net):
    torch.save(there.timm_state(net), path)


def write(make, path, net, *sizes):
    path.write_bytes(make(net, *sizes))


def save_old_caffe(path, net):
    path.write_bytes(there.caffe_old(there.caffe_layers(net)))


def save_new_caffe(path, net):
    path.write_bytes(there.caffe_new(there.caffe_layers(net)))


RGB = lambda images: there.caffe_input(images).flip(1)  # noqa: E731

SYSTEMS = {
    "torchvision": (save_torch, there.torchvision_input, "CHW"),
    "torch 1.5": (save_legacy, there.torchvision_input, "CHW"),
    "checkpoint": (save_checkpoint, there.torchvision_input, "CHW"),
    "timm": (save_timm, there.torchvision_input, "CHW"),
    "timm .bin": (save_timm_bin, there.torchvision_input, "CHW"),
    "keras published": (there.write_keras_published, there.caffe_input, "HWC"),
    "keras 2": (there.write_keras_2, there.caffe_input, "HWC"),
    "keras 3": (there.write_keras_3, there.caffe_input, "HWC"),
    ".keras": (there.write_keras_archive, there.caffe_input, "HWC"),
    "caffe old": (save_old_caffe, there.caffe_input, "CHW"),
    "caffe new": (save_new_caffe, there.caffe_input, "CHW"),
    "matconvnet": (there.write_matconvnet, RGB, "CHW"),
    "matconvnet older": (partial(there.write_matconvnet, older=True, do_compression=True), RGB, "CHW"),
    "onnx of pytorch": (partial(write, lambda net: there.onnx_pytorch(net, 64)), there.torchvision_input, "CHW"),
    "onnx of keras": (partial(write, lambda net: there.onnx_keras(net, 64)), there.caffe_input, "HWC"),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_scores_of_raw_rgb_are_the_other_systems_own(system, tmp_path):
    save, preprocess, order = SYSTEMS[system]
    net = there.made("D" if "pytorch" in system else "A", side=2)
    save(tmp_path / "file", net)
    ours = load(tmp_path / "file")
    images = there.photographs(64)
    with torch.no_grad():
        assert there.difference(ours(images), there.scores(net, preprocess(images), order)) <= 1e-5
    sizes = ours.architecture
    assert (sizes.crop, sizes.width, sizes.fully_connected, sizes.classes) == (64, 1 / 16, 12, 5)
    assert not ours.training


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_borders_are_exact_too(system, tmp_path):
    """A mean folded into a bias would be wrong where the kernel meets the padding."""
    save, preprocess, _ = SYSTEMS[system]
    net = there.made("A", side=2)
    save(tmp_path / "file", net)
    images = torch.full((1, 3, 64, 96), 255, dtype=torch.uint8)  # white is far from the mean colour
    with torch.no_grad():
        found = load(tmp_path / "file").features(images, ["conv1_1", "pool5"])
    for mine, theirs in zip(found.values(), there.maps(net, preprocess(images)), strict=True):
        assert there.difference(mine, theirs) <= 1e-5
    border = found["conv1_1"][..., 0, :]
    assert (border - found["conv1_1"][..., 5, :]).abs().max() > 0.01, (
        "the border does not differ from the interior, so this tests nothing"
    )


@pytest.mark.parametrize("name", there.TABLE)
def test_configuration_classes_width_and_crop_follow_from_the_weights(name, tmp_path):
    for width, side, hidden, classes in ((16, 1, 6, 2), (32, 3, 9, 7)):
        net = there.made(name, side, width, hidden, classes)
        save_torch(tmp_path / "vgg.pth", net)
        found = load(tmp_path / "vgg.pth").architecture
        assert found.configuration == name
        assert (found.crop, found.width, found.fully_connected, found.classes) == (
            32 * side,
            1 / width,
            hidden,
            classes,
        )


@pytest.mark.parametrize("name", ["A", "E"])
def test_batch_normalisation_is_folded_exactly(name, tmp_path):
    net = there.made(name, batch_norm=True)
    save_torch(tmp_path / "vgg_bn.pth", net)
    ours = load(tmp_path / "vgg_bn.pth")
    images = there.photographs(32)
    with torch.no_grad():
        assert there.difference(ours(images), there.scores(net, there.torchvision_input(images))) <= 1e-5
    assert "batch normalisation into the convolutions" in ours.card.provenance["folded"]


def test_a_card_says_where_the_weights_come_from(tmp_path):
    path = tmp_path / "vgg16-abc.pth"
    save_torch(path, there.made())
    provenance = load(path).card.provenance
    assert provenance["source"] == "vgg16-abc.pth"
    assert provenance["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert provenance["format"] == "state dict of torchvision or timm"
    assert provenance["folded"] == [
        "torchvision: (x - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375] for RGB x in 0..255, fed as RGB"
    ]


@pytest.mark.parametrize("first", [0x08, 0x10, 0x80])
def test_a_safetensors_file_is_known_whatever_its_first_byte_is(first, tmp_path):
    """The first byte belongs to the header's length, and files of other formats begin with these bytes, too."""
    save_timm(tmp_path / "vgg.safetensors", there.made())
    content = (tmp_path / "vgg.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    longer = length + (first - length) % 256
    padded = longer.to_bytes(8, "little") + content[8 : 8 + length].ljust(longer) + content[8 + length :]
    (tmp_path / "vgg.safetensors").write_bytes(padded)
    assert load(tmp_path / "vgg.safetensors").classes == 5


@pytest.mark.parametrize("half", [False, True])
def test_a_converted_net_is_a_weight_file_of_this_project(half, tmp_path):
    save_torch(tmp_path / "vgg.pth", there.made("C", side=2))
    net = convert(tmp_path / "vgg.pth", tmp_path / "net.safetensors", half=half)
    again = verydeep.load(tmp_path / "net.safetensors")
    assert again.card == net.card
    images = there.photographs(64)
    with torch.no_grad():
        assert there.difference(again(images), net(images).double()) <= (3e-3 if half else 0)
    with safe_open(tmp_path / "net.safetensors", "np") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds.pop("mean") == "F32"
    assert set(kinds.values()) == {"F16" if half else "F32"}


def test_weights_too_large_for_float16_are_refused(tmp_path):
    state = there.torchvision_state(there.made())
    state["classifier.6.bias"][0] = 1e5
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(verydeep.UserError, match=r"fc8\.bias holds values beyond float16"):
        convert(tmp_path / "vgg.pth", tmp_path / "net.safetensors", half=True)
    assert not (tmp_path / "net.safetensors").exists()


def test_class_names_of_matconvnet_are_kept(tmp_path):
    there.write_matconvnet(tmp_path / "vgg.mat", there.made())
    assert load(tmp_path / "vgg.mat").class_names == ("cat", "dog", "owl", "ox", "yak")


def test_another_preprocessing_may_be_given(tmp_path):
    """One use is the authors' weights under torchvision's names, which take BGR minus the mean colour."""
    net = there.made(seed=3)
    save_torch(tmp_path / "vgg.pth", net)
    images = there.photographs(32)
    own = Convention("own", (10.0, 20.0, 30.0), (2.0, 3.0, 4.0), bgr=True)
    mean, std = (torch.tensor(values).double().view(3, 1, 1) for values in (own.mean, own.std))
    cases = {
        "caffe": there.caffe_input,
        "caffe-rgb": RGB,
        "half": lambda x: x.double() / 127.5 - 1,
        "unit": lambda x: x.double() / 255,
        "raw": lambda x: x.double(),
        own: lambda x: ((x.double() - mean) / std).flip(1),
    }
    for given, preprocess in cases.items():
        with torch.no_grad():
            found = load(tmp_path / "vgg.pth", given)(images)
        assert there.difference(found, there.scores(net, preprocess(images))) <= 1e-5, given
    with pytest.raises(verydeep.UserError, match="unknown preprocessing 'bgr'; choose one of torchvision, caffe"):
        load(tmp_path / "vgg.pth", "bgr")


def test_a_file_of_this_project_states_its_preprocessing(tmp_path):
    verydeep.save(verydeep.ConvNet("A", 2, width=1 / 16, crop=32, fully_connected=4), tmp_path / "a.safetensors")
    with pytest.raises(verydeep.UserError, match="states its own preprocessing; do not pass caffe"):
        load(tmp_path / "a.safetensors", "caffe")


def test_a_mean_image_cannot_be_folded(tmp_path):
    """A bias that compensated for it would vary between pixels and at the borders."""
    image = np.random.default_rng(0).uniform(100, 130, (32, 32, 3))
    net = there.made()
    there.write_matconvnet(tmp_path / "vgg.mat", net, mean=image)
    with pytest.raises(verydeep.UserError, match=r"mean is an image of shape \(32, 32, 3\).*caffe-rgb"):
        load(tmp_path / "vgg.mat")
    assert load(tmp_path / "vgg.mat", "caffe-rgb").classes == 5
    there.write_matconvnet(tmp_path / "vgg.mat", net, mean=np.broadcast_to([1.0, 2.0, 3.0], (32, 32, 3)))
    assert load(tmp_path / "vgg.mat").mean.tolist() == [1, 2, 3]  # equal at each pixel, hence a mean colour


# Convolutions alone


@pytest.mark.parametrize("system", ["torchvision", "keras published", ".keras", "caffe old", "onnx of pytorch"])
def test_convolutions_alone_are_a_feature_net(system, tmp_path):
    save, preprocess, _ = SYSTEMS[system]
    net = there.made("D", head=False)
    save(tmp_path / "file", net)
    ours = load(tmp_path / "file")
    assert (ours.classes, ours.class_names, ours.layers[-1].name) == (0, None, "pool5")
    images = there.photographs(64)
    with torch.no_grad():
        found = ours.features(images, ["pool5"])["pool5"]
        assert there.difference(found, there.maps(net, preprocess(images))[1]) <= 1e-5
        with pytest.raises(verydeep.UserError, match="feature net without fc6, fc7 and fc8"):
            ours(images)
    with pytest.raises(verydeep.UserError, match="has no layer 'fc7'"):
        ours.features(images, ["fc7"])
    verydeep.save(ours, tmp_path / "features.safetensors")
    again = verydeep.load(tmp_path / "features.safetensors")
    assert again.card == ours.card
    assert torch.equal(again.features(images, ["pool5"])["pool5"], ours.features(images, ["pool5"])["pool5"])


def test_torchvisions_features_have_no_scores_either(tmp_path):
    """IMAGENET1K_FEATURES contains the authors' convolutions and a classifier of NaN."""
    net = there.made()
    state = there.torchvision_state(net)
    torch.save(
        {n: t * float("nan") if n.startswith("classifier") else t for n, t in state.items()}, tmp_path / "v.pth"
    )
    ours = load(tmp_path / "v.pth")
    assert ours.classes == 0
    images = there.photographs(32)
    mean = torch.tensor([0.48235, 0.45882, 0.40784], dtype=torch.float64).view(3, 1, 1)
    with torch.no_grad():
        found = ours.features(images, ["pool5"])["pool5"]
    assert there.difference(found, there.maps(net, (images.double() / 255 - mean) * 255)[1]) <= 1e-5


# Real files


@pytest.mark.skipif(not H5.exists(), reason="the authors' convolutions are not available")
def test_the_authors_own_convolutions_load():
    import h5py

    net = load(H5)
    assert (net.configuration.name, net.architecture.width, net.classes) == ("D", 1.0, 0)
    assert sum(parameter.numel() for parameter in net.parameters()) == 14_714_688
    images = there.photographs(64, count=1)
    x = there.caffe_input(images)
    with h5py.File(H5) as file, torch.no_grad():
        for block, number in enumerate((2, 2, 3, 3, 3), start=1):
            for c in range(1, number + 1):
                name = f"block{block}_conv{c}"
                kernel = torch.from_numpy(file[f"{name}/{name}_W_1:0"][()]).double().permute(3, 2, 0, 1)
                x = torch.nn.functional.conv2d(
                    x, kernel, torch.from_numpy(file[f"{name}/{name}_b_1:0"][()]).double(), padding=1
                )
                x = x.relu()
            x = torch.nn.functional.max_pool2d(x, 2)
        assert there.difference(net.features(images, ["pool5"])["pool5"], x) <= 1e-5


@pytest.mark.skipif(not CAFFE.exists(), reason="the Caffe nets are not available")
@pytest.mark.parametrize("name", ["det1", "det2", "det3"])
def test_real_caffe_nets_parse_layer_by_layer(name):
    """The layers with weights, and their sizes, are those in the net's prototxt."""
    from verydeep.interop.caffe import layers

    stated = prototxt(CAFFE / f"{name}.prototxt")
    weighted = ("Convolution", "InnerProduct", "PReLU")
    found = [(each.name, each.type) for each in layers(CAFFE / f"{name}.caffemodel") if each.blobs]
    wanted = {(each["name"], each["type"]) for each in stated if each["type"] in weighted}
    assert wanted <= set(found), "the files also have layers that only training needs"
    outputs = {each["name"]: int(each["num_output"]) for each in stated if "num_output" in each}
    shapes = {each.name: [blob.shape for blob in each.blobs] for each in layers(CAFFE / f"{name}.caffemodel")}
    assert {layer: shapes[layer][0][0] for layer in outputs} == outputs
    assert {layer: shapes[layer][1] for layer in outputs} == {
        layer: (number,) for layer, number in outputs.items()
    }
    with pytest.raises(verydeep.UserError, match=r"det\d\.caffemodel: .* a VGG (has|does not have)"):
        load(CAFFE / f"{name}.caffemodel")


@pytest.mark.skipif(not CAFFE.exists(), reason="the released layer lists are not available")
@pytest.mark.parametrize(("number", "name"), [(16, "D"), (19, "E")])
def test_the_released_layer_lists_are_read(number, name, tmp_path):
    """A file with the layers of the authors' prototxt, in the same order and with the same names, but narrow."""
    listed = prototxt(CAFFE / f"VGG_ILSVRC_{number}_layers_deploy.prototxt")
    net = there.made(name)
    layers = list(there.caffe_layers(net))
    old = {
        "CONVOLUTION": "Convolution",
        "INNER_PRODUCT": "InnerProduct",
        "RELU": "ReLU",
        "POOLING": "Pooling",
        "DROPOUT": "Dropout",
        "SOFTMAX": "Softmax",
    }
    assert [(each["name"], old[each["type"]]) for each in listed] == [(layer[0], layer[1]) for layer in layers]
    (tmp_path / "vgg.caffemodel").write_bytes(there.caffe_old(layers))
    assert load(tmp_path / "vgg.caffemodel").configuration.name == name


def prototxt(path):
    """Return the layers of a net's description, with those settings that fit on one line."""
    found, depth = [], 0
    for line in path.read_text().splitlines():
        words = line.split("#")[0].replace("{", " { ").split()
        if depth == 0 and words[:1] in (["layer"], ["layers"]):
            found.append({})
        elif depth and len(words) == 2 and words[0].endswith(":"):
            found[-1].setdefault(words[0][:-1], words[1].strip('"'))
        depth += line.count("{") - line.count("}")
    return found


def test_a_real_export_of_torch_loads(tmp_path):
    pytest.importorskip("onnx")
    net = there.made("B", side=2, batch_norm=True)
    state = there.torchvision_state(net)
    layers, channels = [], 3
    for block in net.blocks:
        for weight, _ in block:
            layers += [
                torch.nn.Conv2d(channels, len(weight), 3, padding=1),
                torch.nn.BatchNorm2d(len(weight)),
                torch.nn.ReLU(),
            ]
            channels = len(weight)
        layers.append(torch.nn.MaxPool2d(2))
    model = torch.nn.Module()
    model.features = torch.nn.Sequential(*layers)
    dense = [torch.nn.Linear(*reversed(weight.shape)) for weight, _ in net.dense]
    drop, relu = torch.nn.Dropout(), torch.nn.ReLU()
    model.classifier = torch.nn.Sequential(dense[0], relu, drop, dense[1], relu, drop, dense[2])
    model.load_state_dict(state)
    model.forward = lambda x: model.classifier(
        torch.nn.functional.adaptive_avg_pool2d(model.features(x), 2).flatten(1)
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (torch.zeros(1, 3, 64, 64),), tmp_path / "vgg.onnx", dynamo=False)
    images = there.photographs(64)
    with torch.no_grad():
        found = load(tmp_path / "vgg.onnx")(images)
    assert there.difference(found, there.scores(net, there.torchvision_input(images))) <= 1e-5


def test_numbers_of_onnx_may_be_in_a_file_next_to_it(tmp_path):
    net = there.made()
    model, name, array = there.onnx_pytorch(net, 32), "conv0.0.w", net.blocks[0][0][0]
    inside = there.onnx_tensor(name, array)
    dims = b"".join(there.number(1, side) for side in array.shape)
    for location, words in (
        ("vgg.data", ""),
        ("../vgg.data", "a file in the same folder"),
        ("gone", "not a file next to"),
    ):
        where = {"location": location, "offset": "8", "length": str(array.nbytes)}
        entries = b"".join(
            there.data(13, there.data(1, key) + there.data(2, value)) for key, value in where.items()
        )
        outside = dims + there.number(2, 1) + there.data(8, name) + entries + there.number(14, 1)
        graph_at = model.index(there.data(5, inside))
        graph = bytearray(model)
        graph[graph_at : graph_at + len(there.data(5, inside))] = there.data(5, outside)
        # The graph is shorter now, so write its new length.
        head = there.number(1, 8) + there.data(2, "pytorch")
        start = len(head) + 1
        old = there.varint(len(model) - start - len(there.varint(len(model) - start - 3)))
        body = bytes(graph[start + len(old) :])
        (tmp_path / "vgg.onnx").write_bytes(head + there.data(7, body))
        (tmp_path / "vgg.data").write_bytes(bytes(8) + array.tobytes())
        if words:
            with pytest.raises(verydeep.UserError, match=words):
                load(tmp_path / "vgg.onnx")
        else:
            images = there.photographs(32)
            with torch.no_grad():
                found = load(tmp_path / "vgg.onnx")(images)
            assert there.difference(found, there.scores(net, there.torchvision_input(images))) <= 1e-5


def test_provenance_of_a_converted_net_is_in_its_header(tmp_path):
    there.write_keras_published(tmp_path / "vgg16.h5", there.made(head=False))
    convert(tmp_path / "vgg16.h5", tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", "np") as file:
        card = json.loads(file.metadata()["verydeep"])
    assert card["provenance"]["source"] == "vgg16.h5"
    assert card["architecture"]["classes"] == 0


# Our own files, made smaller


def test_a_net_of_ours_can_be_stored_smaller(tmp_path):
    torch.manual_seed(0)
    whole = verydeep.ConvNet("B", ["a", "b"], crop=64, width=1 / 8, fully_connected=64).eval()
    whole.card = replace(whole.card, provenance={"data": "pets", "epochs": 3})
    source = tmp_path / "net.safetensors"
    verydeep.save(whole, source)
    images = there.photographs(64)
    sizes = [source.stat().st_size]
    for half, convolutions in ((True, False), (False, True), (True, True)):
        path = tmp_path / "smaller.safetensors"
        returned = convert(source, path, half=half, convolutions=convolutions)
        sizes.append(path.stat().st_size)
        loaded = load(path)
        assert loaded.card == returned.card
        provenance = loaded.card.provenance
        assert provenance["source"] == "net.safetensors"
        assert provenance["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert provenance["origin"] == {"data": "pets", "epochs": 3}
        assert loaded.class_names == (None if convolutions else ("a", "b"))
        found = loaded.features(images, ["conv5_2"])["conv5_2"]
        expected = whole.features(images, ["conv5_2"])["conv5_2"]
        assert torch.equal(found, expected) or (half and there.difference(found, expected.double()) < 1e-2)
    assert sizes[1] < 0.52 * sizes[0]
    assert sizes[3] < 0.52 * sizes[2]
    assert sizes[2] < sizes[0]


def test_another_systems_net_can_be_stored_without_its_head(tmp_path):
    save_torch(tmp_path / "vgg.pth", there.made("A", side=2))
    made = convert(tmp_path / "vgg.pth", tmp_path / "a.safetensors", convolutions=True)
    assert made.card.provenance["dropped"] == ["fc6", "fc7", "fc8"]
    assert made.card.provenance["source"] == "vgg.pth"
    images = there.photographs(64)
    expected = load(tmp_path / "vgg.pth").features(images, ["pool5"])["pool5"]
    assert torch.equal(load(tmp_path / "a.safetensors").features(images, ["pool5"])["pool5"], expected)
