"""Whatever people attach to a net or put into it, the result is torch's, with the engine and without it."""

import copy
import functools

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parameters_to_vector, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from verydeep.engine import operators
from verydeep.network import ConvNet, Dropout
from verydeep.normalisation import LocalResponseNormalisation

LAYERS = ("conv1_1", "relu1_1", "pool1", "conv3_1", "relu3_2", "pool5", "fc6", "relu6", "drop6", "fc7", "fc8")
"""Layers of each kind, at the ends and in the middle of what the engine computes in one call."""


@pytest.fixture(params=["engine", "off"], autouse=True)
def engine(request, monkeypatch):
    if request.param == "off":
        monkeypatch.setattr("verydeep.engine.operators.available", lambda: False)


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = ConvNet("A", classes=7, crop=32, width=0.25, fully_connected=16).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0.0, (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.5)
    return made


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def layer_by_layer(net, images):
    """Scores by torch, calling the net's modules one after another."""
    x = images.float() - net.mean.view(-1, 1, 1)
    for module in net.children():
        x = module(x)
    return x.flatten(1)


def same(found, expected):
    scale = float(expected.detach().abs().max())  # scores agree up to rounding of the largest ones
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-4, atol=1e-4 * scale)


def both(net, images):
    """Scores without gradients, then with them."""
    with torch.no_grad():
        yield net(images)
    yield net(images)


def test_every_layer_is_a_module_of_its_name(net):
    assert [name for name, _ in net.named_children()] == [layer.name for layer in net.layers]
    kinds = {"conv": nn.Conv2d, "relu": nn.ReLU, "pool": nn.MaxPool2d, "dropout": Dropout}
    assert all(type(net.get_submodule(layer.name)) is kinds[layer.kind] for layer in net.layers)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_forward_on_the_instance_is_called(net, images, layer):
    """accelerate's hooks do this."""
    module = net.get_submodule(layer)
    module.forward = functools.partial(lambda old, *inputs: 0.5 * old(*inputs), module.forward)
    expected = layer_by_layer(net, images)
    for scores in both(net, images):
        same(scores, expected)


class Halved(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / 2, bias)


@pytest.mark.parametrize("layer", ["conv1_1", "conv3_1", "fc6", "fc7", "fc8"])
@pytest.mark.parametrize("where", ["subclass", "instance", "class"])
def test_another_convolution_is_called(net, images, layer, where, monkeypatch):
    old = net.get_submodule(layer)
    if where == "subclass":
        new = Halved(old.in_channels, old.out_channels, old.kernel_size, padding=old.padding)
        net.set_submodule(layer, new)
    elif where == "instance":
        old._conv_forward = lambda x, weight, bias: nn.Conv2d._conv_forward(old, x, weight / 2, bias)
    else:
        convolve = nn.Conv2d._conv_forward
        monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda m, x, w, b: convolve(m, x, w / 2, b))
    expected = layer_by_layer(net, images)
    for scores in both(net, images):
        same(scores, expected)


def test_a_patched_forward_of_a_class_is_called(net, images, monkeypatch):
    called = []
    for kind in (nn.Conv2d, nn.ReLU, nn.MaxPool2d):
        forward = kind.forward
        monkeypatch.setattr(kind, "forward", lambda m, x, old=forward: called.append(m) or old(m, x))
    for _ in both(net, images):
        assert len(called) == len([layer for layer in net.layers if layer.kind != "dropout"])
        called.clear()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
     "register_full_backward_pre_hook"],
)  # fmt: skip
def test_hooks_of_all_kinds_are_called_on_layers_of_all_kinds(net, images, layer, register):
    called = []
    expected = layer_by_layer(net, images)
    getattr(net.get_submodule(layer), register)(lambda *_: called.append(layer))
    scores = net(images.float().requires_grad_())
    scores.sum().backward()
    assert called == [layer]
    same(scores, expected)


@pytest.mark.parametrize("layer", ["conv3_1", "conv1_1", "fc6"])
def test_what_a_hook_kept_stays(net, images, layer):
    kept = []
    net.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output))
    for scores in both(net, images):
        del scores
    for output in kept:
        assert (output < 0).any(), "a ReLU has overwritten it"


def test_what_a_hook_returned_stays(net, images):
    with torch.no_grad():
        given = net.features(images, ["conv3_1"])["conv3_1"]
        before = given.clone()
        net.conv3_1.register_forward_hook(lambda *_: given)
        net(images)
    assert torch.equal(given, before)
    parameter = nn.Parameter(before.clone())
    net.conv3_1.register_forward_hook(lambda *_: parameter)
    net(images).sum().backward()
    assert parameter.grad is not None
    assert torch.equal(parameter, before)


def test_what_is_attached_meets_maps_as_torch_lays_them_out(net, images):
    met = []
    for name in LAYERS:
        net.get_submodule(name).register_forward_hook(
            lambda module, inputs, output: met.extend([inputs[0].view(2, -1), output.view(2, -1)])
        )
    for _ in both(net, images):
        assert len(met) == 2 * len(LAYERS)
        met.clear()
    net.relu1_1 = nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (32, 32)), nn.ReLU())
    assert net.features(images, ["pool1"])["pool1"].view(2, -1).shape == (2, 16 * 16 * 16)


def test_maps_that_are_given_out_are_laid_out_as_torch_lays_them_out(net):
    images = torch.full((2, 3, 96, 64), 100.0)
    for name, output in net.features(images, ["conv1_1", "relu3_1", "pool5", "fc8"]).items():
        assert output.is_contiguous(), name
    with torch.no_grad():
        assert net.score_map(images).view(2, -1).shape == (2, 7 * 3 * 2)


def test_a_gradient_an_image_needs_no_randomness_where_nothing_is_dropped(images):
    torch.manual_seed(0)
    net = ConvNet("A", classes=7, crop=32, width=0.25, fully_connected=16, dropout=0.0)
    parameters = {name: each.detach() for name, each in net.named_parameters()}

    def loss(parameters, image):
        return functional_call(net, parameters, (image[None],)).square().sum()

    found = vmap(grad(loss), (None, 0))(parameters, images.float())
    net(images).square().sum().backward()
    for name, each in net.named_parameters():
        same(found[name].sum(0), each.grad)


@pytest.mark.parametrize(
    ("layer", "replacement"),
    [
        ("conv3_2", nn.Identity()),
        ("conv3_2", nn.Tanh()),
        ("relu3_1", nn.GELU()),
        ("relu3_1", nn.LeakyReLU(0.1, inplace=True)),
        ("relu1_1", nn.Identity()),
        ("pool3", nn.AvgPool2d(2)),
        ("pool3", nn.MaxPool2d(3, 2, padding=1)),
        ("drop6", nn.Identity()),
        ("drop7", nn.Dropout(0.0)),
        ("drop6", nn.LayerNorm((16, 1, 1))),
        ("fc8", nn.Identity()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_takes_a_layers_place_is_used_in_testing_and_in_training(net, images, layer, replacement):
    net.set_submodule(layer, copy.deepcopy(replacement))
    expected = layer_by_layer(net, images)
    for scores in both(net, images):
        same(scores, expected)
    net.train()(images).sum().backward()
    assert net.conv1_1.weight.grad is not None


def test_a_layer_in_a_sequence_with_another_is_trained(net, images):
    net.conv3_1 = nn.Sequential(net.conv3_1, nn.Tanh())
    expected = layer_by_layer(net, images)
    for scores in both(net, images):
        same(scores, expected)
    net.train()(images).sum().backward()


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, weight):
        self.count += 1
        return weight


@pytest.mark.parametrize("layer", ["conv1_1", "conv3_1", "fc6", "fc7", "fc8"])
def test_a_parametrized_weight_is_computed_once_a_pass(net, images, layer):
    counted = Counted()
    expected = layer_by_layer(net, images)
    parametrize.register_parametrization(net.get_submodule(layer), "weight", counted)
    for scores in both(net, images):
        counted.count, before = 0, counted.count
        assert before in (1, 2)  # 2 if registering has computed it once
        same(scores, expected)
    counted.count = 0
    net.features(images, ["fc8"])
    assert counted.count == 1


@pytest.mark.parametrize("mode", [TorchDispatchMode, TorchFunctionMode])
def test_a_mode_that_looks_on_sees_torchs_own_operators(net, images, mode):
    seen = []

    class Watching(mode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            seen.append(str(function))
            return function(*arguments, **(named or {}))

        __torch_function__ = __torch_dispatch__

    with Watching():
        for _ in both(net, images):
            assert not [name for name in seen if "verydeep" in name]
            assert len([name for name in seen if "conv2d" in name or "convolution" in name]) >= 8
            seen.clear()


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("conv2d", lambda old, *given, **named: 2 * old(*given, **named)),
        ("relu", lambda old, x, inplace=False: nn.functional.gelu(x)),
        ("max_pool2d", lambda old, *given, **named: 2 * old(*given, **named)),
    ],
)
def test_a_replaced_function_of_torch_is_called(net, images, name, other, monkeypatch):
    """Profilers that count operations do this."""
    monkeypatch.setattr(nn.functional, name, functools.partial(other, getattr(nn.functional, name)))
    expected = layer_by_layer(net, images)
    for scores in both(net, images):
        same(scores, expected)


@pytest.mark.parametrize(("kind", "name"), [(nn.Module, "_call_impl"), (nn.ReLU, "__call__")])
def test_a_replaced_call_of_layers_is_made(net, images, kind, name, monkeypatch):
    called, old = [], getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda module, *given: called.append(module) or old(module, *given))
    for _ in both(net, images):
        assert {id(module) for module in called} >= {id(m) for m in net.modules() if type(m) is nn.ReLU}
        called.clear()


class Doubling(torch.Tensor):
    """A tensor whose convolutions return twice the result."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), named=None):
        found = super().__torch_function__(function, types, arguments, named or {})
        return 2 * found if function is torch.conv2d else found


@pytest.mark.parametrize("where", ["images", "conv3_1", "fc6"])
def test_a_tensor_of_a_subclass_is_asked_for_each_operator(net, images, where):
    images = images.float()
    if where == "images":
        images = images.as_subclass(Doubling)
    else:
        layer = net.get_submodule(where)
        layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Doubling))
    expected = layer_by_layer(net, images).as_subclass(torch.Tensor)
    for scores in both(net, images):
        assert type(scores) is Doubling
        same(scores.as_subclass(torch.Tensor), expected)


def test_make_fx_traces_torchs_own_operators(net, images):
    with torch.no_grad():
        traced = make_fx(net)(images.float())
        assert "verydeep" not in str(traced.graph)
        same(traced(images.float()), layer_by_layer(net, images))


def test_a_hook_on_a_weight_meets_a_gradient_as_torch_lays_it_out(net, images):
    if not operators.available():
        pytest.skip("torch's own convolution returns gradients with channels last if the maps have channels last")
    met = []
    for name in ("conv1_1", "conv3_1"):
        net.get_submodule(name).weight.register_hook(lambda gradient: met.append(gradient.view(-1)))
    net(images).sum().backward()
    assert len(met) == 2


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ReLU, nn.MaxPool2d, Dropout])
@pytest.mark.parametrize("name", ["forward", "__call__"])
def test_what_is_replaced_in_a_class_is_called(net, images, kind, name, monkeypatch):
    called, old = [], getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda *inputs: called.append(inputs[0]) or old(*inputs))
    for _ in both(net, images):
        assert [type(module) for module in called if type(module) is kind]
        called.clear()


def test_dropouts_are_torchs_to_those_who_look_for_them(net, images):
    """This is how Monte Carlo dropout is usually written."""
    found = [module for module in net.modules() if isinstance(module, nn.Dropout)]
    assert found == [net.drop6, net.drop7]
    for module in found:
        module.train()
        module.p = 0.9
    with torch.no_grad():
        assert not torch.equal(net(images), net(images))


def test_a_card_computes_no_parametrized_weight(net):
    counted = Counted()
    parametrize.register_parametrization(net.fc8, "weight", counted)
    counted.count = 0
    assert (net.classes, net.card.architecture.classes) == (7, 7)
    assert "classes=7" in net.extra_repr()
    assert counted.count == 0


def test_a_default_device_is_no_such_mode(net, images):
    with torch.device("cpu"), torch.no_grad():
        same(net(images), layer_by_layer(net, images))


def test_a_compiled_layer_is_called(net, images):
    called = []
    net.conv3_1._compiled_call_impl = lambda x: called.append(0) or nn.Conv2d.forward(net.conv3_1, x)
    with torch.no_grad():
        net(images)
    assert called


# Parameters in torch's layout


def test_parameters_and_their_gradients_are_contiguous(net, images):
    net.train()(images).square().sum().backward()
    for parameter in net.parameters():
        assert parameter.is_contiguous()
        assert parameter.grad.is_contiguous()
    assert all(parameter.is_contiguous() for parameter in copy.deepcopy(net).parameters())


def test_torchs_own_tools_take_the_parameters(net, images, tmp_path):
    assert parameters_to_vector(net.parameters()).numel() == net.architecture.parameters()
    save_file(net.state_dict(), tmp_path / "state.safetensors")
    nn.init.orthogonal_(net.conv2_1.weight)
    prune.l1_unstructured(net.conv2_1, "weight", 0.5)
    prune.global_unstructured([(net.conv3_1, "weight"), (net.fc6, "weight")], prune.L1Unstructured, amount=0.5)
    expected = layer_by_layer(net, images)
    for scores in both(net, images):
        same(scores, expected)
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=2)

    def closure():
        optimiser.zero_grad()
        loss = net(images).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)


def test_weights_with_channels_last_are_taken_too(net, images):
    expected = layer_by_layer(net, images)
    net.to(memory_format=torch.channels_last)
    for scores in both(net, images):
        same(scores, expected)


def test_lrn_keeps_the_precision_of_its_input():
    a = 30 * torch.randn(2, 9, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.zeros(2, 2, 3, 4), a.square(), torch.zeros(2, 2, 3, 4)], 1)
    total = sum(padded[:, i : i + 9] for i in range(5))
    found = LocalResponseNormalisation()(a)
    torch.testing.assert_close(found, a / (2 + 1e-4 * total) ** 0.75, rtol=1e-14, atol=0)
    half = LocalResponseNormalisation()(a.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), found, rtol=2e-2, atol=1e-2)
