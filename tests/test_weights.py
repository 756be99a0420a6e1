"""The weight file contains everything that a net needs, and files from elsewhere may be hostile."""

import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize, prune

from synthetic import refusal
from verydeep import weights
from verydeep.errors import UserError
from verydeep.network import ConvNet

SMALL = {"crop": 32, "width": 0.125, "fully_connected": 8}


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = ConvNet("C", ["cat", "dog", "über"], **SMALL, dropout=0.3)
    made.mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    return made.eval()


def altered(path, tensors=None, card=None, raw=None):
    """Write the file again with other tensors or another card."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    there = load_file(path)
    if card is not None:
        card = dict(card)
        fields = json.loads(metadata["verydeep"])
        sizes = fields["architecture"]
        fields["architecture"] = {name: card.pop(name, size) for name, size in sizes.items()}
        metadata = {"verydeep": json.dumps(fields | card)}
    save_file(there | (tensors or {}), path, raw if raw is not None else metadata)


def test_a_net_comes_back_as_it_was(net, tmp_path):
    card = replace(net.card, training_scale=(37, 74), flip=False, provenance={"epochs": 3})
    net.card = card
    weights.save(net, tmp_path / weights.FILE_NAME)
    for source in (tmp_path, tmp_path / weights.FILE_NAME, str(tmp_path)):
        loaded = weights.load(source)
        images = torch.randint(0, 256, (2, 3, 40, 33), dtype=torch.uint8)
        assert torch.equal(loaded(images), net(images))
        assert (loaded.class_names, loaded.architecture.dropout) == (("cat", "dog", "über"), 0.3)
        assert not loaded.training
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        assert weights.read_card(source) == loaded.card == card
        weights.save(loaded, tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / weights.FILE_NAME).read_bytes()


def test_a_bilinear_net_has_the_card_of_versions_that_know_no_other_filter(net, tmp_path):
    """Earlier versions refuse a field that they do not know, and rightly so if it names another filter."""
    for rescaling in ("bilinear", "bicubic"):
        net.card = replace(net.card, rescaling=rescaling)
        weights.save(net, tmp_path / weights.FILE_NAME)
        with safe_open(tmp_path / weights.FILE_NAME, "pt") as file:
            fields = json.loads(file.metadata()["verydeep"])
        assert fields.get("rescaling") == (None if rescaling == "bilinear" else "bicubic")
        assert weights.read_card(tmp_path).rescaling == weights.load(tmp_path).card.rescaling == rescaling


def test_an_unknown_filter_is_refused(net, tmp_path):
    weights.save(net, tmp_path / "a.safetensors")
    altered(tmp_path / "a.safetensors", card={"rescaling": "lanczos"})
    with pytest.raises(UserError, match=r"card cannot be read: rescaling.*bicubic"):
        weights.load(tmp_path / "a.safetensors")


def test_a_file_that_exists_is_replaced_whole(net, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_text("old")
    weights.save(net, path)
    assert weights.load(path).configuration.name == "C"
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_an_unwritable_place_is_refused_in_a_sentence(net, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        weights.save(net, tmp_path / "file" / "net.safetensors")


def test_a_full_disk_is_refused_in_a_sentence_and_keeps_the_old_file(net, tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    weights.save(net, path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device; the file that was there is kept"):
        weights.save(net, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.safetensors"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b""), "is not a whole safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "is damaged"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is not a whole safetensors file"),
        (lambda path: altered(path, raw={}), "another system"),
        (lambda path: altered(path, raw={"verydeep": "{"}), "card cannot be read"),
        (lambda path: altered(path, card={"format": "verydeep-9"}), "format"),
        (lambda path: altered(path, card={"surprise": 1}), "surprise"),
        (lambda path: altered(path, card={"configuration": "VGG"}), "'VGG' is not known"),
        (lambda path: altered(path, card={"classes": 10**12}), "has 3 class names for a net with"),
        (lambda path: altered(path, card={"classes": 10**12, "class_names": None}), "fc8.bias has shape"),
        (lambda path: altered(path, card={"crop": 64}), "fc6.weight has shape"),
        (lambda path: altered(path, {"fc7.bias": torch.zeros(8, dtype=torch.int32)}), "fc7.bias is of type I32"),
        (lambda path: altered(path, {"extra": torch.zeros(1)}), "extra has shape"),
        (lambda path: altered(path, {"fc7.bias": torch.full((8,), float("nan"))}), "fc7.bias holds values"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_reason(net, tmp_path, make, words):
    path = tmp_path / "net.safetensors"
    weights.save(net, path)
    make(path)
    with pytest.raises(UserError, match=words) as refusal:
        weights.load(path)
    assert "net.safetensors" in str(refusal.value)


def test_a_flipped_bit_is_refused(net, tmp_path):
    """A flipped bit of a weight would give another net, silently."""
    path = tmp_path / "net.safetensors"
    weights.save(net, path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    tensors = 8 + int.from_bytes(whole[:8], "little")
    for at in (*random.integers(0, tensors, 20), *random.integers(tensors, len(whole), 40)):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(random.integers(8))
        path.write_bytes(changed)
        for read in (weights.load, weights.read_card):
            assert "net.safetensors" in refusal(read, path)


def test_a_file_of_the_first_version_is_read(net, tmp_path):
    """In that version the sizes were fields of the card itself."""
    path = tmp_path / "net.safetensors"
    weights.save(net, path)
    sizes = {"configuration": "C", "classes": 3, "crop": 32, "width": 0.125, "fully_connected": 8, "dropout": 0.3}
    rest = {"class_names": ["cat", "dog", "über"], "training_scale": [37, 74], "flip": False, "provenance": {}}
    preprocessing = {"preprocessing": "RGB in 0..255; the net subtracts its mean colour"}
    card = {"format": "verydeep-1"} | sizes | rest | preprocessing
    altered(path, raw={"verydeep": json.dumps(card)})
    loaded = weights.load(path)
    assert (loaded.card.training_scale, loaded.card.flip, loaded.classes) == ((37, 74), False, 3)


# What save accepts, and what it refuses before it touches a file


def test_wrapped_nets_are_saved_as_what_they_wrap(net, tmp_path):
    expected = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for wrapped in (
        torch.compile(net, backend="eager"),
        nn.DataParallel(net),
        torch.optim.swa_utils.AveragedModel(net),
    ):
        weights.save(wrapped, tmp_path / "net.safetensors")
        loaded = weights.load(tmp_path / "net.safetensors").state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_another_last_layer_is_saved_with_its_number_of_classes(net, tmp_path):
    net.fc8 = nn.Conv2d(8, 5, 1)
    weights.save(net, tmp_path / "net.safetensors")
    loaded = weights.load(tmp_path / "net.safetensors")
    assert (loaded.classes, loaded.class_names) == (5, None)
    images = torch.randint(0, 256, (2, 3, 40, 33), dtype=torch.uint8)
    assert torch.equal(loaded(images), net(images))
    net.fc8 = nn.Conv2d(8, 3, 1)  # the same number as before keeps the names
    assert net.class_names == ("cat", "dog", "über")


def test_tied_parameters_are_saved_each(net, tmp_path):
    net.conv4_2.bias = net.conv4_1.bias
    weights.save(net, tmp_path / "net.safetensors")
    assert torch.equal(weights.load(tmp_path / "net.safetensors").conv4_2.bias, net.conv4_1.bias)


def without_bias(net):
    net.fc8 = nn.Conv2d(8, 3, 1, bias=False)


def with_nan(net):
    net.fc8.bias.data[0] = float("nan")


def pruned(net):
    prune.l1_unstructured(net.conv3_1, "weight", 0.5)


def parametrized(net):
    parametrize.register_parametrization(net.conv3_1, "weight", nn.Identity())


def with_another_buffer(net):
    net.register_buffer("surprise", torch.zeros(1))


def with_another_activation(net):
    net.relu3_1 = nn.GELU()


def with_another_padding(net):
    net.conv3_1.padding_mode = "reflect"


def beyond_float32(net):
    net.double().fc8.bias.data[0] = 1e300


def with_unwritable_provenance(net):
    net.card = replace(net.card, provenance={"path": object()})


def of_another_shape(net):
    net.conv3_1 = nn.Conv2d(16, 32, 5, padding=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_bias, "fc8.bias has shape none"),
        (with_nan, "fc8.bias holds values that are not finite"),
        (pruned, "conv3_1.weight has shape none.*prune.remove"),
        (parametrized, "conv3_1.parametrizations.weight.original.*remove_parametrizations"),
        (with_another_buffer, "surprise"),
        (with_another_activation, r"relu3_1 is GELU.*where a net C has ReLU"),
        (with_another_padding, "conv3_1 is Conv2d.*padding_mode=reflect"),
        (beyond_float32, "fc8.bias holds values that are not finite"),
        (with_unwritable_provenance, "its card cannot be written"),
        (of_another_shape, r"conv3_1.weight has shape \(32, 16, 5, 5\)"),
    ],
)
def test_what_load_would_refuse_is_refused_by_save_and_the_old_file_is_kept(net, tmp_path, change, words):
    path = tmp_path / "net.safetensors"
    weights.save(net, path)
    before = path.read_bytes()
    change(net)
    with pytest.raises(UserError, match=words):
        weights.save(net, path)
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="ConvNet"):
        weights.save(nn.Linear(1, 1), path)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        weights.load(tmp_path)


# Feature nets


@pytest.mark.parametrize("name", ["A-LRN", "C", "D"])
def test_a_feature_net_has_the_features_of_the_whole_net_bit_for_bit(name):
    torch.manual_seed(0)
    whole = ConvNet(name, ["a", "b"], **SMALL).eval()
    whole.card = replace(whole.card, training_scale=(40, 48), provenance={"epochs": 3})
    made = weights.feature_net(whole)
    images = torch.randint(0, 256, (2, 3, 64, 45), dtype=torch.uint8)
    layers = [layer.name for layer in made.layers if layer.kind in ("conv", "pool", "lrn")]
    for found, expected in zip(
        made.features(images, layers).values(), whole.features(images, layers).values(), strict=True
    ):
        assert torch.equal(found, expected)
    assert (made.classes, made.class_names, made.training) == (0, None, False)
    assert made.card.training_scale == (40, 48)
    assert made.card.provenance == {"epochs": 3, "dropped": ["fc6", "fc7", "fc8"]}
    assert next(made.parameters()).requires_grad


def test_a_feature_net_shares_nothing_with_the_net_it_was_made_from(net):
    net.train()
    made = weights.feature_net(nn.DataParallel(net))
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.add_(1)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
    assert weights.feature_net(made).card == made.card


def test_a_feature_net_needs_its_own_convolutions_only(net):
    net.fc6 = nn.Identity()
    assert weights.feature_net(net).classes == 0
    net.conv3_1 = nn.Conv2d(16, 32, 3, padding=1, padding_mode="reflect")
    assert "conv3_1 is Conv2d" in refusal(weights.feature_net, net)
    prune.random_unstructured(net.conv1_1, "weight", 0.5)
    assert "tensor conv1_1.weight has shape none" in refusal(weights.feature_net, net)
