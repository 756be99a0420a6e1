"""Sect. 2.1, and the score map of Sect. 3.2."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from verydeep import engine
from verydeep.configurations import CONFIGURATIONS
from verydeep.errors import UserError
from verydeep.network import ConvNet, Dropout, check_images, mix

SMALL = {"classes": 7, "crop": 64, "width": 0.125, "fully_connected": 24}


def net_of(name="D", seed=0, **sizes):
    torch.manual_seed(seed)
    net = ConvNet(name, **(SMALL | sizes)).eval()
    for parameter in net.parameters():  # large enough to reveal a wrong layer
        nn.init.normal_(parameter, 0.0, (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.5)
    return net


def images_of(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_net_has_the_parameters_that_table_2_counts(name):
    with torch.device("meta"):
        net = ConvNet(name)
    assert sum(parameter.numel() for parameter in net.parameters()) == CONFIGURATIONS[name].parameters()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_scores_equal_the_net_written_out(name):
    """Compare with the layers written out with torch's functions and linear layers over a flattened map."""
    net, images = net_of(name), images_of(3, 3, 64, 64)
    x = images.double() - net.mean.double().view(1, 3, 1, 1)
    state = {key: value.double() for key, value in net.state_dict().items()}
    for block, column in enumerate(CONFIGURATIONS[name].column.split("|"), start=1):
        for number, word in enumerate([w for w in column.split() if w != "LRN"], start=1):
            layer = f"conv{block}_{number}"
            x = F.conv2d(x, state[f"{layer}.weight"], state[f"{layer}.bias"], padding=int(word[0]) // 2).relu()
        if "LRN" in column:
            x = F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
        x = F.max_pool2d(x, 2)
    x = x.flatten(1)
    for layer in ("fc6", "fc7", "fc8"):
        x = F.linear(x, state[f"{layer}.weight"].flatten(1), state[f"{layer}.bias"])
        x = x if layer == "fc8" else x.relu()
    expected = x.float()  # scores agree up to rounding of the largest ones
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_one_crop_has_one_cell_and_its_score_is_the_plain_pass():
    net, images = net_of(), images_of(2, 3, 64, 64)
    assert net.score_map(images).shape == (2, 7, 1, 1)
    torch.testing.assert_close(net.score_map(images)[:, :, 0, 0], net(images))


def test_a_map_without_padding_holds_the_scores_of_the_crops_it_stands_for():
    """Without padding, cell (i, j) sees exactly the crop at (32 i, 32 j) of the image, and no border."""
    net = net_of("A", crop=192).double()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.padding = (0, 0)
    images = images_of(1, 3, 256, 320)
    with torch.no_grad():
        # Without padding, a crop shrinks to fewer cells than fc6 expects, so fc6's kernel is cut to what is left.
        left = net.features(images[:, :, :192, :192], ["pool5"])["pool5"].shape[2]
        net.fc6.weight = nn.Parameter(net.fc6.weight[:, :, :left, :left].clone())
        scores = net.score_map(images)
        for i, j in ((0, 0), (1, 0), (0, 3), (2, 4)):
            crop = images[:, :, 32 * i : 32 * i + 192, 32 * j : 32 * j + 192]
            torch.testing.assert_close(net.score_map(crop)[:, :, 0, 0], scores[:, :, i, j])


def test_scores_are_the_mean_of_the_map():
    net, images = net_of(), images_of(2, 3, 100, 150)
    scores = net.score_map(images)
    assert scores.shape == (2, 7, 2, 3)
    torch.testing.assert_close(net(images), scores.mean((2, 3)))


def test_uint8_and_float_pixels_are_the_same_pixels():
    net, images = net_of(), images_of(2, 3, 64, 64)
    torch.testing.assert_close(net(images), net(images.float()))


def test_the_layout_in_memory_does_not_matter():
    net, images = net_of(), images_of(2, 3, 64, 64)
    expected = net(images)
    net.to(memory_format=torch.channels_last)
    assert not net.fc6.weight.is_contiguous()
    torch.testing.assert_close(net(images), expected, rtol=1e-5, atol=1e-5)


def test_the_mean_is_a_buffer_that_is_subtracted():
    net, images = net_of(), images_of(1, 3, 64, 64).float() * 0.5
    expected = net(images)
    net.mean += 20
    torch.testing.assert_close(net(images + 20), expected, rtol=1e-4, atol=1e-4)
    assert "mean" in net.state_dict()


# Features


def test_features_have_the_shapes_of_the_design():
    net, images = net_of("E", crop=64), images_of(2, 3, 96, 64)
    found = net.features(images, ["fc7", "conv3_3", "pool5", "relu5_1"])
    assert list(found) == ["conv3_3", "relu5_1", "pool5", "fc7"]
    shapes = {name: tuple(feature.shape) for name, feature in found.items()}
    assert shapes == {
        "conv3_3": (2, 32, 24, 16),
        "relu5_1": (2, 64, 6, 4),
        "pool5": (2, 64, 3, 2),
        "fc7": (2, 24, 2, 1),
    }


@pytest.mark.parametrize("name", ["A-LRN", "C"])
def test_asking_for_features_changes_neither_them_nor_others(name):
    net, images = net_of(name), images_of(2, 3, 64, 64)
    every = [layer.name for layer in net.layers]
    together = net.features(images, every)
    assert list(together) == every
    for layer in every:
        torch.testing.assert_close(net.features(images, [layer])[layer], together[layer])
    for layer in every:
        if layer.startswith("relu"):
            before = together[layer.replace("relu", "conv" if "_" in layer else "fc")]
            assert (before < 0).any(), "a ReLU has overwritten the feature"
            torch.testing.assert_close(together[layer], before.relu())
    torch.testing.assert_close(together["fc8"][:, :, 0, 0], net(images))


def test_convolutional_features_may_be_of_images_smaller_than_the_crop():
    net, images = net_of(), images_of(1, 3, 40, 33)
    assert net.features(images, ["pool5"])["pool5"].shape[2:] == (1, 1)
    with pytest.raises(UserError, match="40 x 33 pixels"):
        net.features(images, ["fc6"])


def test_unknown_features_are_refused_by_name():
    net = net_of("A")
    with pytest.raises(UserError, match=r"no layer 'conv3_3'.*conv3_2"):
        net.features(images_of(1, 3, 64, 64), ["conv3_3"])
    with pytest.raises(UserError, match="list of names"):
        net.features(images_of(1, 3, 64, 64), "conv3_1")


# What is refused


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((1, 3, 64, 64)), ["ndarray", "torch tensor"]),
        (torch.zeros(3, 64, 64), ["(3, 64, 64)", "images[None]"]),
        (torch.zeros(1, 64, 64, 3), ["(1, 64, 64, 3)", "permute(0, 3, 1, 2)"]),
        (torch.zeros(1, 1, 64, 64), ["1 channels"]),
        (torch.zeros(64, 64), ["(64, 64)"]),
        (torch.zeros(1, 3, 63, 64), ["63 x 64", "at least 64 x 64"]),
        (torch.zeros(1, 3, 64, 64, dtype=torch.int64), ["int64", "uint8"]),
    ],
)
def test_images_of_the_wrong_kind_are_refused(images, words):
    with pytest.raises(UserError) as refusal:
        check_images(images, 64)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


RANDOM = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (RANDOM, "divided by 255"),
        (5 * RANDOM - 2.2, "normalised"),
        (255 * RANDOM - 120, "centred"),
    ],
)
def test_images_that_look_prepared_are_taken_with_one_warning_a_net(images, words):
    net = net_of("A")
    with pytest.warns(UserWarning, match=words):
        net(images)
    net(images)  # warnings are errors


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 64, 64),
        torch.ones(1, 3, 64, 64),
        255 * RANDOM - 6e-4,
        300 * RANDOM - 20,
        torch.full((1, 3, 64, 64), float("nan")),
    ],
)
def test_pixels_are_taken_without_a_word_also_slightly_outside_of_their_range(images):
    net_of("A")(images)


def test_an_algorithm_may_go_through_all_ranges_once_the_net_has_seen_pixels():
    net = net_of("A")
    net(images_of(1, 3, 64, 64).float())
    for images in (RANDOM, 255 * RANDOM - 120):
        net(images)


@pytest.mark.parametrize("dropout", [1.0, -0.1])
def test_impossible_dropout_is_refused(dropout):
    with pytest.raises(UserError, match="dropout is"):
        ConvNet("A", **SMALL, dropout=dropout)


# Dropout, recomputation, precision, compilation


def test_splitmix64_gives_its_published_numbers():
    """Compare with the first outputs of the reference implementation for seed 1234567 (Vigna's splitmix64.c)."""
    seed, golden = 1234567, 0x9E3779B97F4A7C15
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    # The generator adds the golden ratio before it hashes; `mix` multiplies a counter by the golden ratio.
    mask = 2**64 - 1

    def scatter(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    assert [scatter((seed + i * golden) & mask) for i in range(1, 5)] == published
    counters = torch.tensor([0, 1, 2, 12345, -1, 2**63 - 1])
    expected = [scatter((int(c) * golden) & mask) for c in counters]
    assert [int(v) % 2**64 for v in mix(counters)] == expected


def test_dropout_drops_its_ratio_and_keeps_the_mean():
    drop = Dropout(0.3, stream=1).train()
    out = drop(torch.ones(500, 200, 1, 1), torch.arange(500))
    dropped = (out == 0).float()
    # Standard errors: 0.0014 overall, 0.02 per unit, 0.032 per image.
    assert abs(dropped.mean() - 0.3) < 0.006
    assert (dropped.mean((0, 2, 3)) - 0.3).abs().max() < 0.09
    assert (dropped.mean((1, 2, 3)) - 0.3).abs().max() < 0.15
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / 0.7))
    torch.testing.assert_close(drop.eval()(out, torch.arange(500)), out)


def test_dropout_masks_follow_the_image_and_not_its_batch():
    net, images, keys = net_of().train(), images_of(6, 3, 64, 64), torch.arange(6) * 977
    whole = net.features(images, ["relu7"])["relu7"]
    assert whole.shape[0] == 6
    scores = net(images, keys)
    parts = torch.cat([net(images[:2], keys[:2]), net(images[2:], keys[2:])])
    torch.testing.assert_close(parts, scores, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(images, keys + 1), scores)


def test_dropout_alone_may_be_training():
    net, images = net_of(dropout=0.5).eval(), images_of(2, 3, 64, 64)
    images[1] = images[0]
    net.drop6.train()
    one, other = net(images), net(images)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one[0], one[1])


def test_dropout_stands_after_relu6_and_relu7():
    net = net_of(dropout=0.5).train()
    found = net.features(images_of(4, 3, 64, 64), ["relu6", "drop6", "relu7", "drop7"])
    for number in (6, 7):
        relu, drop = found[f"relu{number}"], found[f"drop{number}"]
        kept = drop != 0
        torch.testing.assert_close(drop[kept], 2 * relu[kept])
        assert (relu[~kept] > 0).any()


def test_shift_is_added_to_all_pixels_of_an_image():
    net, images = net_of(), images_of(2, 3, 64, 64) // 2
    shift = torch.tensor([[10.0, 20.0, 30.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(
        net(images, shift=shift), net(images + shift[:, :, None, None]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["A-LRN", "E"])
def test_recomputation_gives_the_same_scores_and_gradients(name):
    net, images, keys = net_of(name).train(), images_of(3, 3, 64, 64), torch.arange(3)
    gradients = []
    for net.recompute in (False, True):
        net.zero_grad()
        net(images, keys).square().sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_recomputation_keeps_less():
    """Count the bytes that autograd keeps for the backward pass."""

    def kept(recompute):
        net, total = net_of(crop=96).train(), 0
        net.recompute = recompute

        def count(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            net(images_of(4, 3, 96, 96))
        return total

    assert kept(True) < kept(False) / 2


def test_bf16_autocast_stays_near_fp32_in_training_and_testing():
    net, images, keys = net_of(), images_of(8, 3, 64, 64), torch.arange(8)
    for training in (False, True):
        net.train(training)
        expected = net(images, keys)
        with torch.autocast("cpu", torch.bfloat16):
            found = net(images, keys)
        assert found.dtype == torch.float32, "fc8 and what follows it"
        assert (found - expected).norm() < 0.05 * expected.norm()
        found.square().sum().backward()
        assert all(
            parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters()
        )


def test_scores_of_half_precision_are_computed_in_float32_from_fc8_on():
    """In bfloat16 two classes that differ by less than 0.4% would tie, and so would the mean over a map."""
    net, images = net_of(), images_of(2, 3, 64, 96)
    with torch.no_grad():
        net.fc8.weight[1] = net.fc8.weight[0] * 1.0001
        net.fc8.bias[1] = net.fc8.bias[0] = 0
        with torch.autocast("cpu", torch.bfloat16):
            scores, maps = net(images), net.features(images, ["drop7", "fc8"])
        cells = F.conv2d(maps["drop7"].float(), net.fc8.weight, net.fc8.bias)
        assert maps["drop7"].dtype == torch.bfloat16
        torch.testing.assert_close(maps["fc8"], cells, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(scores, cells.mean((2, 3)), rtol=1e-5, atol=1e-6)
        assert (scores[:, 0] != scores[:, 1]).all()


def test_layers_attached_to_fc8_get_the_types_they_need():
    net, images, seen = net_of(), images_of(1, 3, 64, 64), []
    net.fc8.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert net(images).dtype == torch.float32
        assert net.bfloat16()(images).dtype == torch.float32
    assert seen == [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_mean_colour_stays_float32(dtype):
    net, images = net_of(), images_of(2, 3, 64, 64)
    mean = net.mean.clone()
    with torch.no_grad():
        expected = net(images)
        for converted in (net.to(dtype), net.to("cpu", dtype)):
            assert torch.equal(converted.mean, mean)
            assert converted.mean.dtype == torch.float32
            assert converted.conv1_1.weight.dtype == dtype
            found = converted(images)
            assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert (found - expected).norm() < 0.05 * expected.norm()
    # Pixels are rounded once, after the mean colour is subtracted.
    seen, wide = [], torch.promote_types(dtype, torch.float32)
    net.conv1_1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(images)
    assert torch.equal(seen[0], (images.to(wide) - mean.to(wide).view(-1, 1, 1)).to(dtype))


def test_a_net_of_bfloat16_can_be_trained():
    net, images, keys = net_of().bfloat16().train(), images_of(8, 3, 64, 64), torch.arange(8)
    F.cross_entropy(net(images, keys), torch.zeros(8, dtype=torch.int64)).backward()
    assert all(each.grad.dtype == torch.bfloat16 and each.grad.isfinite().all() for each in net.parameters())


def test_an_empty_batch_passes_forward_and_backward():
    net = net_of().train()
    scores = net(images_of(0, 3, 64, 64), torch.zeros(0, dtype=torch.int64))
    assert scores.shape == (0, 7)
    scores.sum().backward()
    assert all((parameter.grad == 0).all() for parameter in net.parameters())


@pytest.mark.slow
def test_a_compiled_net_gives_the_same_scores():
    """Run in a separate process, since the tests' shape checks do not work with the compiler."""
    code = """
import torch, verydeep
net = verydeep.ConvNet("A-LRN", classes=7, crop=64, width=0.125, fully_connected=24).train()
images, keys = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.arange(2)
expected = net(images, keys)
compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
torch.testing.assert_close(compiled(images, keys), expected, rtol=1e-4, atol=1e-5)
exported = torch.export.export(net.eval(), (images,), strict=False).module()
torch.testing.assert_close(exported(images), net(images), rtol=1e-4, atol=1e-5)

# In testing one compilation serves all sizes that have several positions.
from torch._dynamo.testing import CompileCounterWithBackend
torch._dynamo.reset()
net.eval()
counter = CompileCounterWithBackend("eager")
compiled = torch.compile(net, dynamic=True, backend=counter, fullgraph=True)
with torch.no_grad():
    for number in range(10):
        images = torch.randint(0, 256, (2, 3, 97 + 7 * number, 98 + 5 * number), dtype=torch.uint8)
        torch.testing.assert_close(compiled(images), net(images), rtol=1e-4, atol=1e-5)
assert counter.frame_count == 1

torch._dynamo.reset()
images, counter = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), CompileCounterWithBackend("eager")
compiled = torch.compile(net, backend=counter)
for _ in range(3):
    compiled(images)
assert counter.frame_count == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_compiled_blocks_have_their_gradients_one_after_the_other():
    """One step of the backward pass per block: its gradients can be sent while others are computed."""
    code = """
import copy, torch, verydeep
net = verydeep.ConvNet("A-LRN", classes=7, crop=64, width=0.125, fully_connected=24).train()
images, keys = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.arange(2)

def gradients():
    net.zero_grad()
    scores = net(images, keys)
    steps, left = set(), [scores.grad_fn]
    while left:
        step = left.pop()
        steps.add(step)
        left += [each for each, _ in step.next_functions if each is not None]
    scores.sum().backward()
    compiled = sum(step.name() == "CompiledFunctionBackward" for step in steps)
    return compiled, [parameter.grad for parameter in net.parameters()]

_, expected = gradients()
net.compile_blocks()
for net.recompute in (False, True):
    compiled, found = gradients()
    assert compiled == 6
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
assert copy.deepcopy(net)._compiled is None
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("height", [32, 45])  # one position and several
@pytest.mark.parametrize("name", ["A-LRN", "B-5x5", "C", "D"])
def test_a_net_computes_the_same_with_the_engine_and_without(name, height, monkeypatch):
    torch.manual_seed(0)
    net = ConvNet(name, classes=5, crop=32, width=0.25, fully_connected=32).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    images = torch.randint(0, 256, (3, 3, height, 32 if height == 32 else 70), dtype=torch.uint8)
    results = []
    for engine_on in (True, False):
        if not engine_on:
            monkeypatch.setattr("verydeep.engine.served", lambda *_: 0)
            monkeypatch.setattr("verydeep.engine.serves_testing", lambda *_: False)
        with torch.no_grad():
            tested = net.score_map(images)
        trained = net.score_map(images)
        gradients = torch.autograd.grad(trained.square().sum(), list(net.parameters()))
        results.append([tested, trained, *net.features(images, ["conv3_1", "pool4", "fc7"]).values(), *gradients])
    for number, (ours, torchs) in enumerate(zip(*results, strict=True)):
        # Rounding may open a ReLU or swap two pixels of a pooling, which changes a gradient by much more.
        bound = 1e-4 if number < 5 else 2e-2
        assert ((ours - torchs).norm() / torchs.norm()).item() < bound


def test_dropout_that_is_asked_for_in_testing_is_not_left_out():
    """Monte Carlo dropout: the net is in evaluation mode, its dropout layers are in training mode."""
    torch.manual_seed(0)
    net = net_of().eval()
    images = images_of(2, 3, net.crop, net.crop)
    with torch.no_grad():
        assert torch.equal(net(images), net(images))
        net.drop6.train()
        one, other = (net(images, torch.full((2,), key)) for key in (1, 2))
        assert not torch.equal(one, other)


class Zero(nn.Conv2d):
    """A convolution with another forward."""

    def forward(self, x):
        return 0 * super().forward(x)


@pytest.mark.parametrize(
    "replacement",
    [
        nn.Conv2d(16, 32, 3, padding=2, dilation=2),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.Conv2d(16, 32, 3, padding=1, groups=2),
        nn.Conv2d(16, 32, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.Conv2d(16, 32, 3, padding="same"),
        Zero(16, 32, 3, padding=1),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1)),
    ],
    ids=lambda module: " ".join(str(module).split()),
)
def test_what_takes_a_layers_place_is_called_as_it_is(replacement):
    net, images = net_of(width=0.25).eval(), images_of(2, 3, 128, 128)
    net.conv2_1 = replacement
    with torch.no_grad():
        found = net.features(images, ["pool1", "conv2_1"])
        assert torch.equal(found["conv2_1"], replacement(found["pool1"]))
        net(images)


def test_a_fully_connected_layer_may_be_replaced():
    net, images = net_of().eval(), images_of(2, 3, 64, 64)
    for replacement in (nn.Identity(), nn.Conv2d(24, 7, 1, bias=False), nn.Sequential(nn.Conv2d(24, 7, 1))):
        net.fc8 = replacement
        with torch.no_grad():
            before = net.features(images, ["drop7"])["drop7"]
            torch.testing.assert_close(net(images), replacement(before).flatten(1), rtol=1e-4, atol=1e-5)
    net.fc6.weight = nn.Parameter(net.fc6.weight[:, :, :1, :1].clone())
    with torch.no_grad():
        assert net.features(images, ["fc6"])["fc6"].shape[2:] == (2, 2)


def test_hooks_on_layers_are_called():
    net, images = net_of().eval(), images_of(2, 3, 64, 64)
    computing = {module for module in net.children() if isinstance(module, nn.Conv2d)}
    for differentiated in (True, False):
        seen = []

        def note(module, *_, seen=seen):
            seen.append(module)

        handles = [module.register_forward_hook(note) for module in net.children()]
        with torch.set_grad_enabled(differentiated):
            hooked = net(images)
        for handle in handles:
            handle.remove()
        assert computing <= set(seen)
        torch.testing.assert_close(hooked, net(images), rtol=1e-4, atol=1e-5)


def test_weights_that_a_hook_computes_are_those_used():
    net, images = net_of().train(), images_of(2, 3, 64, 64)
    mask = torch.zeros_like(net.conv2_1.weight)
    prune.custom_from_mask(net.conv2_1, "weight", mask)
    for _ in range(2):  # the weight is computed again in each pass
        net(images).sum().backward()
    with torch.no_grad():
        features = net.eval().features(images, ["conv2_1"])["conv2_1"]
        torch.testing.assert_close(features, net.conv2_1.bias[:, None, None].expand_as(features))


@pytest.mark.parametrize("differentiated", [True, False])
def test_torch_counts_the_operations_of_a_net(differentiated):
    net, images = net_of(), images_of(2, 3, 64, 64)
    with torch.set_grad_enabled(differentiated), FlopCounterMode(display=False) as counter:
        net(images)
    assert counter.get_total_flops() == 2 * 2 * net.architecture.multiply_adds()


def test_images_without_values_are_taken():
    net, images = net_of(), images_of(2, 3, 64, 64).float()
    assert copy.deepcopy(net).to("meta")(images.to("meta")).shape == (2, 7)
    parameters = dict(net.eval().named_parameters())

    def loss(parameters, image):
        return functional_call(net, parameters, (image[None],)).sum()

    each = vmap(grad(loss), (None, 0))(parameters, images)
    for name, found in grad(lambda p: sum(loss(p, image) for image in images))(parameters).items():
        torch.testing.assert_close(each[name].sum(0), found, rtol=1e-3, atol=1e-4)


def test_where_the_engine_does_not_compute_each_layer_is_looked_at_once(monkeypatch):
    """The gates would otherwise cost more than a GPU takes for a layer."""
    looked, plain = [], engine.plain
    monkeypatch.setattr(engine, "plain", lambda module: looked.append(module) or plain(module))
    monkeypatch.setattr(engine, "served", None)
    monkeypatch.setattr(engine, "serves_testing", None)
    net = net_of().to("meta")
    assert net(images_of(2, 3, 64, 64).to("meta")).is_meta
    assert sum(isinstance(each, nn.Conv2d) for each in looked) == 16


def test_classes_are_a_number_or_a_list_of_names():
    with pytest.raises(UserError, match="classes is 'cat'"):
        ConvNet("A", classes="cat")
    with pytest.raises(UserError, match="classes is True"):
        ConvNet("A", classes=True)


def test_a_net_of_no_classes_is_a_feature_net():
    net = ConvNet("B", 0, width=0.125).eval()
    assert net.layers[-1].name == "pool5"
    assert (net.classes, net.class_names) == (0, None)
    images = torch.randint(0, 256, (2, 3, 40, 32), dtype=torch.uint8)
    assert net.features(images, ["relu5_2", "pool5"])["pool5"].shape == (2, 64, 1, 1)
    for refused in (net, net.score_map):
        with pytest.raises(UserError, match=r"net B is a feature net.*net\.features"):
            refused(images)
    with pytest.raises(UserError, match=r"classes is \[\]; name at least one class, or give 0"):
        ConvNet("B", [])
