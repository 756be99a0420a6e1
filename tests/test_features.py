"""Features of many photographs, as arrays and as files; perceptual losses; float16."""

import copy
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from torch import nn
from torch.nn import functional as F

import verydeep
from synthetic import refusal, write
from verydeep import features
from verydeep.computing import Computing
from verydeep.features import extract, save
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError
from verydeep.photographs.rescaling import rescale
from verydeep.training.step import Execution

SIZES = [(40, 60), (90, 70), (40, 60), (33, 33), (60, 40)]


def net_of(name="D", seed=0, **sizes):
    torch.manual_seed(seed)
    net = ConvNet(name, **{"classes": ("cat", "Dog"), "crop": 32, "width": 0.125, "fully_connected": 8} | sizes)
    for parameter in net.parameters():  # so that signals neither vanish nor explode
        nn.init.normal_(parameter, 0.0, (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.5)
    return net.eval()


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / f"{row}.png", row, *size) for row, size in enumerate(SIZES)]


def one_by_one(net, file, layer, scale):
    """Compute a layer's output with torch alone, from the net's own layers."""
    x = torch.from_numpy(rescale(file, scale)).permute(2, 0, 1)[None].float() - net.mean.view(1, 3, 1, 1)
    for each in net.layers:
        x = net.get_submodule(each.name)(x)
        if each.name == layer:
            return x.detach().numpy()[0]
    return None


def test_features_are_means_over_the_map_of_the_whole_photograph(files):
    net = net_of()
    found = extract(net, files, ["fc7", "conv3_3"], scale=48)
    assert found.images == tuple(map(str, files))
    assert list(found.layers) == ["conv3_3", "fc7"]
    for layer, array in found.layers.items():
        expected = np.stack([one_by_one(net, file, layer, 48).mean((1, 2)) for file in files])
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert found.protocol == "net D, Q = 48, whole photograph, means over the map"


def test_maps_are_those_of_the_centre_crop(files):
    net = net_of()
    found = extract(net, files, ["conv2_1", "pool3"], scale=40, maps=True)
    assert {layer: array.shape for layer, array in found.layers.items()} == {
        "conv2_1": (5, 16, 16, 16),
        "pool3": (5, 32, 4, 4),
    }
    pixels = rescale(files[1], 40)  # 51 x 40 pixels
    crop = torch.from_numpy(pixels[10:42, 4:36]).permute(2, 0, 1)[None]
    expected = net.features(crop, ["pool3"])["pool3"][0].detach().numpy()
    np.testing.assert_allclose(found.layers["pool3"][1], expected, rtol=1e-4, atol=1e-3)
    means = extract(net, files, ["pool3"], scale=40, crop=True)
    np.testing.assert_allclose(
        means.layers["pool3"], found.layers["pool3"].mean((2, 3)), rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


def test_convolutional_features_may_be_of_photographs_smaller_than_the_crop(files):
    net = net_of(crop=64)
    assert extract(net, files, ["pool5"], scale=40).layers["pool5"].shape == (5, 64)
    assert "40 pixels, below 64" in refusal(extract, net, files, ["fc6"], scale=40)
    assert "40 pixels, below 64" in refusal(extract, net, files, ["pool5"], scale=40, crop=True)
    assert "31 pixels, below 32" in refusal(extract, net, files, ["pool5"], scale=31)


def test_unreadable_photographs_are_left_out_if_so_wanted(files, tmp_path, capsys):
    net, images = net_of(), [tmp_path / "gone.jpg", *files]
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        extract(net, images, ["fc7"])
    found = extract(net, images, ["fc7"], skip_unreadable=True)
    assert found.images == tuple(map(str, files))
    np.testing.assert_array_equal(found.layers["fc7"], extract(net, files, ["fc7"]).layers["fc7"])
    assert "gone.jpg: no such file" in capsys.readouterr().err


def test_wrong_arguments_are_refused(files, tmp_path, monkeypatch):
    net = net_of()
    assert "no layer 'conv3_9'" in refusal(extract, net, files, ["conv3_9"])
    assert "layers is 'fc7'" in refusal(extract, net, files, "fc7")
    found = extract(net, files, ["fc7"])
    assert "must end in .safetensors or .parquet" in refusal(save, found, tmp_path / "features.npz")
    monkeypatch.setattr(features, "MEMORY_SHARE", 1e-9)
    assert "GiB of memory; use fewer layers" in refusal(extract, net, files, ["conv1_1"], maps=True)


def test_a_file_holds_features_names_and_classes(folder, tmp_path):
    net = net_of()
    dataset = verydeep.open_dataset(folder, "val")
    found = extract(net, dataset, ["conv1_1", "fc7"])
    save(found, tmp_path / "features.safetensors")
    arrays = load_file(tmp_path / "features.safetensors")
    assert sorted(arrays) == ["conv1_1", "fc7", "labels"]
    np.testing.assert_array_equal(arrays["fc7"], found.layers["fc7"])
    np.testing.assert_array_equal(arrays["labels"], dataset.labels)
    with safe_open(tmp_path / "features.safetensors", "np") as file:
        metadata = file.metadata()
    assert json.loads(metadata["images"]) == list(map(str, dataset.photographs))
    assert json.loads(metadata["classes"]) == list(dataset.classes)
    assert metadata["protocol"] == found.protocol


def test_a_parquet_file_has_a_row_for_each_photograph(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    net = net_of()
    dataset = verydeep.open_dataset(folder, "val")
    found = extract(net, dataset, ["conv5_3", "fc7"], maps=True)
    save(found, tmp_path / "features.parquet")
    table = parquet.read_table(tmp_path / "features.parquet")
    assert table.column_names == ["image", "class", "conv5_3", "fc7"]
    assert table["image"].to_pylist() == list(found.images)
    assert table["class"].to_pylist() == [dataset.classes[label] for label in dataset.labels]
    shapes = json.loads(table.schema.metadata[b"shapes"])
    for layer in ("conv5_3", "fc7"):
        rows = np.array(table[layer].to_pylist(), np.float32).reshape(len(found), *shapes[layer])
        np.testing.assert_array_equal(rows, found.layers[layer])


def test_parquet_without_pyarrow_is_refused_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    found = extract(net_of(), [np.zeros((40, 40, 3), np.uint8)], ["fc7"])
    assert found.images == ("image 0",)
    assert "pip install 'verydeep[parquet]'" in refusal(save, found, tmp_path / "features.parquet")


# Perceptual losses


def losses(maps, targets):
    """Content (Gatys et al., eq. 1) at one layer, and style (eq. 3 to 5) at the others, by Gram matrices."""
    content = (maps["relu3_3"] - targets["relu3_3"]).square().sum() / 2
    style = 0
    for name in ("relu1_1", "relu2_1"):
        grams = [torch.einsum("nchw,ndhw->ncd", x, x) / x[0, 0].numel() for x in (maps[name], targets[name])]
        style = style + (grams[0] - grams[1]).square().mean()
    return content + style


def test_gradients_of_content_and_style_losses_are_those_of_torch_alone():
    """The reference applies torch's own functions layer by layer, in double precision."""
    net = net_of()
    generator = torch.Generator().manual_seed(3)
    image, target = (torch.rand(1, 3, 48, 64, generator=generator) * 255 for _ in range(2))
    layers = ["relu1_1", "relu2_1", "relu3_3"]

    def by_torch(images):
        x, found = images - net.mean.double().view(1, 3, 1, 1), {}
        for layer in net.layers[: [each.name for each in net.layers].index("relu3_3") + 1]:
            if layer.kind == "conv":
                module = net.get_submodule(layer.name)
                x = F.conv2d(x, module.weight.double(), module.bias.double(), padding=1)
            else:
                x = x.relu() if layer.kind == "relu" else F.max_pool2d(x, 2)
            found[layer.name] = x
        return found

    wanted = image.double().requires_grad_()
    losses(by_torch(wanted), {name: x.detach() for name, x in by_torch(target.double()).items()}).backward()
    given = image.clone().requires_grad_()
    with torch.no_grad():
        targets = net.features(target, layers)
    losses(net.features(given, layers), targets).backward()
    torch.testing.assert_close(
        given.grad.double(), wanted.grad, rtol=1e-3, atol=1e-4 * float(wanted.grad.abs().max())
    )


def test_the_example_of_the_document(tmp_path, monkeypatch, capsys):
    """The code of docs/features.md runs, with a small net, small photographs and few iterations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verydeep, "load", lambda source: net_of())
    text = (Path(__file__).parents[1] / "docs" / "features.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code.replace("224", "48").replace("max_iter=100", "max_iter=3"), {})
    before, after = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
    assert after < before
    with Image.open("result.png") as result:
        assert min(result.size) == 48


# Half precision


def scaled(net, factor):
    """Return a copy of the net whose conv3_2 has outputs larger by a factor."""
    louder = copy.deepcopy(net)
    with torch.no_grad():
        louder.conv3_2.weight *= factor
        louder.conv3_2.bias *= factor
    return louder


def pixels(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, 48, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def loudness():
    """The largest output of conv3_2 in float32."""
    with torch.no_grad():
        return float(net_of().features(pixels(), ["conv3_2"])["conv3_2"].max())


@pytest.mark.parametrize("way", ["half", "autocast"])
def test_float16_near_its_end_draws_one_warning_that_names_the_layer(loudness, way):
    net = scaled(net_of(), 40_000 / loudness)
    with torch.no_grad():  # so that only conv3_2 comes near
        net.conv3_3.weight *= 1e-3
    net = net.half() if way == "half" else net
    with torch.no_grad(), torch.autocast("cpu", torch.float16, enabled=way == "autocast"):
        with pytest.warns(UserWarning, match=r"conv3_2 reaches \d{5}, .*bfloat16"):
            scores = net(pixels())
        assert scores.isfinite().all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            net(pixels())


def test_float16_that_overflows_is_said_with_the_first_layer_that_does(loudness):
    net = scaled(net_of(), 200_000 / loudness).half()
    with torch.no_grad(), pytest.warns(UserWarning, match="conv3_2 overflows"):
        net.features(pixels(), ["relu3_2", "conv4_1"])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        net(pixels())
        scaled(net_of(), 200_000 / loudness).bfloat16()(pixels())
        scaled(net_of(), 200_000 / loudness)(pixels())
        net_of().half()(pixels())


def test_an_overflow_of_a_later_image_is_found_in_time(loudness):
    """Later passes are checked, too, even if the first one drew no warning."""
    net = scaled(net_of(), 40_000 / loudness).half()
    with torch.no_grad():
        net.conv3_3.weight *= 1e-3
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            net(torch.full((1, 3, 32, 32), 120, dtype=torch.uint8))
        with pytest.warns(UserWarning, match="conv3_2 reaches"):
            net(pixels())


def test_features_in_half_precision_stay_near_and_infinite_ones_are_refused(files, loudness):
    net = net_of()
    exact = extract(net, files, ["conv5_3"]).layers["conv5_3"]
    for precision, tolerance in (("bf16", 0.05), ("fp16", 0.01)):
        found = extract(net, files, ["conv5_3"], precision=precision).layers["conv5_3"]
        assert 0 < np.abs(found - exact).max() < tolerance * np.abs(exact).max()
    with pytest.warns(UserWarning, match="overflows"):
        message = refusal(extract, scaled(net, 1e6 / loudness), files, ["conv5_3"], precision="fp16")
    assert "features of conv5_3 are not finite" in message
    assert "training takes one of fp32, tf32, bf16" in refusal(Execution, Computing("fp16"))


def test_photographs_of_a_feature_net():
    """It has no classes, and so no labels either."""
    whole = ConvNet("A", width=1 / 16)
    net = verydeep.feature_net(whole)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    wanted = whole.features(torch.from_numpy(image).permute(2, 0, 1)[None], ["pool5"])["pool5"].mean((2, 3))
    assert extract(net, [image], ["pool5"], scale=64).layers["pool5"] == pytest.approx(wanted.detach().numpy())
