"""Tools that change layers, or intervene between a net and its layers."""

import tempfile
from pathlib import Path

import torch
import torchinfo
from accelerate import cpu_offload, dispatch_model, init_empty_weights
from accelerate.hooks import ModelHook, add_hook_to_module, attach_align_device_hook, remove_hook_from_module
from opacus import GradSampleModule, PrivacyEngine
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from trials import LABELS, Values, gradients, trial

import verydeep

SOME = ("conv1_1", "conv3_1", "fc6", "fc8")

SIZES = verydeep.Architecture("A", classes=7, crop=32, width=0.25, fully_connected=16)
NAMES = [layer.name for layer in SIZES.layers]


def trained(net: nn.Module, images: Tensor) -> Values:
    """Return the scores without gradients and with them, and the gradients of the loss."""
    with torch.no_grad():
        found = {"scores": net(images)}
    scores = net(images)
    F.cross_entropy(scores, LABELS).backward()
    return found | {"scores with gradients": scores} | gradients(net)


@trial("torchinfo", "summary: layers, parameters, multiply-adds")
def summary(net: nn.Module, images: Tensor) -> Values:
    found = torchinfo.summary(net, input_data=images[:1], verbose=0)
    layers = [each.var_name for each in found.summary_list if each.is_leaf_layer and each.var_name in NAMES]
    if isinstance(net, verydeep.ConvNet):
        assert layers == NAMES
        assert found.total_params == SIZES.parameters()
    sizes = {each.var_name: each.output_size for each in found.summary_list if each.var_name in NAMES}
    counts = {"parameters": found.total_params, "multiply-adds": found.total_mult_adds}
    return {name: torch.tensor(value) for name, value in (counts | sizes).items()}


def architecture_counts(net: nn.Module, images: Tensor) -> Values:
    return {"multiply-adds": torch.tensor(2 * SIZES.multiply_adds())}


@trial("torch", "FlopCounterMode: twice the architecture's multiply_adds()", architecture_counts)
def operations(net: nn.Module, images: Tensor) -> Values:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images[:1])
    return {"multiply-adds": torch.tensor(counter.get_total_flops())}


@trial("torch", "prune.l1_unstructured, ln_structured, global_unstructured; gradients", training=True)
def pruned(net: nn.Module, images: Tensor) -> Values:
    prune.l1_unstructured(net.get_submodule("conv2_1"), "weight", 0.5)
    prune.ln_structured(net.get_submodule("conv3_1"), "weight", 0.25, n=2, dim=0)
    both = [(net.get_submodule("conv5_1"), "weight"), (net.get_submodule("fc6"), "weight")]
    prune.global_unstructured(both, prune.L1Unstructured, amount=0.5)
    return trained(net, images)


@trial("torch", "prune.remove, then verydeep.save and verydeep.load")
def pruned_and_saved(net: nn.Module, images: Tensor) -> Values:
    for name in SOME:
        prune.l1_unstructured(net.get_submodule(name), "weight", 0.5)
        prune.remove(net.get_submodule(name), "weight")
    if isinstance(net, verydeep.ConvNet):
        with tempfile.TemporaryDirectory() as folder:
            verydeep.save(net, Path(folder) / "weights.safetensors")
            net = verydeep.load(Path(folder) / "weights.safetensors")
    return trained(net, images)


@trial("torch", "parametrizations.weight_norm and spectral_norm; gradients; made permanent", training=True)
def parametrized(net: nn.Module, images: Tensor) -> Values:
    parametrizations.weight_norm(net.get_submodule("conv1_1"))
    parametrizations.spectral_norm(net.get_submodule("conv3_1"))
    parametrizations.weight_norm(net.get_submodule("fc7"))
    found = trained(net, images)
    for name in ("conv1_1", "conv3_1", "fc7"):
        parametrize.remove_parametrizations(net.get_submodule(name), "weight")
    with torch.no_grad():
        return found | {"made permanent": net(images)}


def loss_of_one(net: nn.Module, parameters: Values, image: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(functional_call(net, parameters, (image[None],)), label[None])


@trial("torch", "func.functional_call, grad and vmap: per-image gradients", training=True)
def a_gradient_an_image(net: nn.Module, images: Tensor) -> Values:
    parameters = {name: each.detach() for name, each in net.named_parameters()}
    one = grad(lambda parameters, image, label: loss_of_one(net, parameters, image, label))
    return vmap(one, (None, 0, 0))(parameters, images, LABELS)


@trial("opacus", "GradSampleModule: per-image gradients, as torch.func's", a_gradient_an_image, training=True)
def a_gradient_an_image_by_opacus(net: nn.Module, images: Tensor) -> Values:
    assert not ModuleValidator.validate(net, strict=False)
    wrapped = GradSampleModule(net, loss_reduction="sum")
    F.cross_entropy(wrapped(images), LABELS, reduction="sum").backward()
    return {name.removeprefix("_module."): each.grad_sample for name, each in wrapped.named_parameters()}


@trial("opacus", "PrivacyEngine.make_private: one step of DP-SGD, with seeded noise", training=True)
def private_step(net: nn.Module, images: Tensor) -> Values:
    loader = DataLoader(TensorDataset(images, LABELS), batch_size=4)
    made, optimiser, _ = PrivacyEngine().make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), 0.01),
        data_loader=loader,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        poisson_sampling=False,
        noise_generator=torch.Generator().manual_seed(0),
    )
    before = {name: each.detach().clone() for name, each in net.named_parameters()}
    F.cross_entropy(made(images), LABELS).backward()
    optimiser.step()
    return {name: each.detach() - before[name] for name, each in net.named_parameters()}


class Halved(ModelHook):
    def post_forward(self, module: nn.Module, output: Tensor) -> Tensor:
        return output / 2


@trial("accelerate", "add_hook_to_module on conv1_1, relu3_1, pool5, drop6, fc7; then remove_hook_from_module")
def hooked(net: nn.Module, images: Tensor) -> Values:
    layers = [net.get_submodule(name) for name in ("conv1_1", "relu3_1", "pool5", "drop6", "fc7")]
    for layer in layers:
        add_hook_to_module(layer, Halved())
    found = trained(net, images)
    for layer in layers:
        remove_hook_from_module(layer)
    with torch.no_grad():
        return found | {"hooks removed": net(images)}


def scores(net: nn.Module, images: Tensor) -> Values:
    with torch.no_grad():
        return {"scores": net(images)}


@trial("accelerate", "attach_align_device_hook with offload, cpu_offload", scores)
def offloaded(net: nn.Module, images: Tensor) -> Values:
    state = {name: each.detach().clone() for name, each in net.state_dict().items()}
    attach_align_device_hook(net, torch.device("cpu"), offload=True, weights_map=state, offload_buffers=True)
    assert net.get_submodule("conv3_1").weight.is_meta
    return scores(net, images)


@trial("accelerate", "cpu_offload of the whole net", scores)
def offloaded_whole(net: nn.Module, images: Tensor) -> Values:
    cpu_offload(net, torch.device("cpu"), offload_buffers=True)
    assert net.get_submodule("conv3_1").weight.is_meta
    return scores(net, images)


@trial("accelerate", "dispatch_model with conv4_1 to fc8 on disk", scores)
def dispatched(net: nn.Module, images: Tensor) -> Values:
    names = [name for name, _ in net.named_children()]
    late = names.index("conv4_1")
    places: dict[str, str] = {name: "disk" if at >= late else "cpu" for at, name in enumerate(names)}
    if isinstance(net, verydeep.ConvNet):
        places["mean"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        made = dispatch_model(net, places, main_device="cpu", offload_dir=folder, force_hooks=True)
        return scores(made, images)


@trial("accelerate", "init_empty_weights around ConvNet(...), then load_state_dict(assign=True)", scores)
def empty(net: nn.Module, images: Tensor) -> Values:
    with init_empty_weights():
        made = verydeep.ConvNet(net.architecture)
    assert made.conv1_1.weight.is_meta
    made.load_state_dict(net.state_dict(), assign=True)
    return scores(made.eval(), images)
