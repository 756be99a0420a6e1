"""State dicts in torchvision's form, and the way there and back."""

import numpy as np
import pytest
import torch
from torch import nn

import foreign_nets as there
import verydeep
from synthetic import refusal
from verydeep.interop.conventions import Convention
from verydeep.interop.loading import convert, load

MODEL = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}


def identical(first, second):
    assert list(first) == list(second)
    return all(
        first[name].dtype == second[name].dtype and first[name].numpy().tobytes() == second[name].numpy().tobytes()
        for name in first
    )


def theirs(name, state):
    """torchvision's model, with the sizes of the state dict."""
    layers, channels = [], 3
    for block in there.TABLE[name]:
        for full in block:
            layers += [nn.Conv2d(channels, full // 16, 3, padding=1), nn.ReLU()]
            channels = full // 16
        layers.append(nn.MaxPool2d(2, 2))
    shapes = [state[f"classifier.{number}.weight"].shape for number in (0, 3, 6)]
    first, second, third = (nn.Linear(inputs, outputs) for outputs, inputs in shapes)
    head = nn.Sequential(first, nn.ReLU(), nn.Dropout(), second, nn.ReLU(), nn.Dropout(), third)
    model = nn.Module()
    model.features, model.classifier = nn.Sequential(*layers), head
    model.load_state_dict(state)
    return nn.Sequential(model.features, nn.Flatten(), model.classifier).eval()


@pytest.mark.parametrize("name", MODEL)
def test_a_torchvision_file_comes_back_bit_for_bit(name, tmp_path):
    state = there.torchvision_state(there.made(name, side=2))
    torch.save(state, tmp_path / "theirs.pth")
    convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    exported = verydeep.export(tmp_path / "ours.safetensors", tmp_path / "again.pth")
    assert identical(torch.load(tmp_path / "again.pth"), state)
    assert exported.notes[0] == f"model: torchvision.models.{MODEL[name]}(num_classes=5)"
    assert (
        exported.notes[-1]
        == "input: Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]) of RGB in 0..1"
    )
    verydeep.export(load(tmp_path / "theirs.pth"), tmp_path / "directly.pt")
    assert identical(torch.load(tmp_path / "directly.pt"), state)


@pytest.mark.parametrize("classes", [("cat", "dög", "a\nb"), 4, 0])
def test_our_net_comes_back_bit_for_bit(classes, small, tmp_path):
    net = small("B", classes, crop=64)
    net.mean.copy_(torch.tensor([101.25, 99.1, 80.7]))
    exported = verydeep.export(net, tmp_path / "net.pth")
    again = load(tmp_path / "net.pth")
    assert identical(again.state_dict(), net.state_dict())
    assert again.class_names == net.class_names
    assert again.crop == (64 if classes else 224), "a file without a head does not tell the crop"
    assert "std=[0.00392156863, 0.00392156863, 0.00392156863]" in exported.notes[-1]


def test_changed_weights_with_their_mean_are_kept_to_the_last_place(tmp_path):
    torch.save(there.torchvision_state(there.made("A")), tmp_path / "theirs.pth")
    net = load(tmp_path / "theirs.pth")
    with torch.no_grad():
        net.conv1_1.weight.normal_(generator=torch.Generator().manual_seed(0))
    verydeep.export(net, tmp_path / "again.pth")
    again = load(tmp_path / "again.pth")
    first, second = net.conv1_1.weight.detach().numpy(), again.conv1_1.weight.detach().numpy()
    assert (np.abs(first - second) <= np.spacing(np.abs(first))).all()
    assert all(
        torch.equal(tensor, again.state_dict()[name])
        for name, tensor in net.state_dict().items()
        if name != "conv1_1.weight"
    )


@pytest.mark.parametrize("mean", [None, (90.0, 100.5, 120.0)])
def test_scores_are_those_of_their_model_after_the_stated_normalisation(mean, small, images, tmp_path):
    net = small("D", crop=64)
    net.mean.copy_(torch.tensor(mean or [255 * value for value in there.MEAN]))
    verydeep.export(net, tmp_path / "net.pth")
    state = torch.load(tmp_path / "net.pth")
    batch = images(2, 64, 64)
    if mean is None:
        prepared = there.torchvision_input(batch)
    else:
        prepared = (batch.double() / 255 - torch.tensor(mean).double().view(3, 1, 1) / 255) * 255
    with torch.no_grad():
        assert there.difference(net(batch), theirs("D", state).double()(prepared)) < 1e-5


def test_nets_that_torchvision_has_not_are_refused(small, tmp_path):
    for name in ("C", "A-LRN", "B-5x5"):
        message = refusal(verydeep.export, small(name), tmp_path / "net.pth")
        assert f"torchvision has no net {name}, only A, B, D, E" in message
    assert not list(tmp_path.iterdir())


def test_a_given_preprocessing_comes_before_the_files_own(small, tmp_path):
    verydeep.export(small("A"), tmp_path / "net.pth")
    assert load(tmp_path / "net.pth", "raw").mean.tolist() == [0, 0, 0]
    assert load(tmp_path / "net.pth", Convention("mine", (1.0, 2.0, 3.0))).mean.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"mean": [1.0, 2.0]}, "three numbers are expected"),
        ({"mean": ["a", 1.0, 2.0]}, "three numbers are expected"),
        ({"mean": [float("nan"), 1.0, 2.0]}, "must be finite"),
        ({"classes": "abc"}, "not a list of names"),
        ({"classes": ["a"]}, "names 1 classes; the last layer has 5 outputs"),
    ],
)
def test_damaged_metadata_are_refused(own, words, small, tmp_path):
    verydeep.export(small("A"), tmp_path / "net.pth")
    state = torch.load(tmp_path / "net.pth")
    state._metadata[""]["verydeep"] = own
    torch.save(state, tmp_path / "net.pth")
    assert words in refusal(load, tmp_path / "net.pth")
